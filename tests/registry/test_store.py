from __future__ import annotations

import errno
import stat
from dataclasses import replace

import pytest

from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.registry import staging
from ssdcli.registry.manifest import write_manifest
from ssdcli.registry.store import Registry, home


def names(registry):
    return [entry.name for entry in registry.entries()]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def left_behind(registry):
    return [path.name for path in registry.models.iterdir() if path.name.startswith(".")]


def test_home_is_the_variable_else_the_platforms_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    monkeypatch.setenv("SSD_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home().name == "ssd"


def test_a_staged_model_is_found_with_its_digests(registry, add):
    add(registry, "notes")
    entry = registry.find("notes")
    assert (entry.name, entry.folder, entry.bundled) == ("notes", registry.models / "notes", False)
    assert sorted(entry.manifest.files) == ["extra/README.md", "model.safetensors"]
    assert registry.verify("notes") == []
    assert left_behind(registry) == []


def test_reading_makes_nothing_on_the_disk(registry):
    assert names(registry) == ["starter"]
    with pytest.raises(NoSuchModel):
        registry.find("notes")
    assert not registry.home.exists()


def test_the_folder_names_the_model_whatever_the_manifest_says(registry, add, manifest):
    with registry.stage("letters") as folder:
        write_manifest(folder, manifest(name="something-else"))
    assert registry.find("letters").manifest.name == "letters"


def test_everything_is_private(registry, add):
    add(registry, "notes")
    registry.workspace("drafts")
    folder = registry.models / "notes"
    for private in (
        registry.home,
        registry.models,
        folder,
        folder / "extra",
        registry.home / "training" / "drafts",
    ):
        assert mode(private) == 0o700
    for private in (folder / "ssd.json", folder / "model.safetensors", folder / "extra" / "README.md"):
        assert mode(private) == 0o600


def test_a_model_being_written_is_private_and_not_listed(registry):
    staged = registry.stage("notes")
    folder = staged.__enter__()
    assert mode(folder) == 0o700
    assert names(registry) == ["starter"]
    registry.set_default("starter")  # any change ends what was interrupted
    assert folder.exists()
    assert not staged.__exit__(RuntimeError, RuntimeError(), None)
    assert not folder.exists()
    assert left_behind(registry) == []


def test_a_model_without_a_manifest_is_not_registered(registry):
    with pytest.raises(SsdError, match=r"ssd\.json"), registry.stage("notes"):
        pass
    assert names(registry) == ["starter"]


def test_an_existing_name_is_refused_at_once_and_kept(registry, add):
    add(registry, "notes", "old")
    with (
        pytest.raises(UsageError, match=r"'notes' exists already\. Pass --overwrite"),
        registry.stage("notes"),
    ):
        pytest.fail("the block must not run")
    assert (registry.models / "notes" / "model.safetensors").read_text() == "old"


def test_a_name_taken_meanwhile_is_refused_at_the_end(registry, add, manifest):
    staged = registry.stage("notes")
    write_manifest(staged.__enter__(), manifest())
    add(registry, "notes", "the other one")
    with pytest.raises(UsageError, match="exists already"):
        staged.__exit__(None, None, None)
    assert (registry.models / "notes" / "model.safetensors").read_text() == "the other one"
    assert left_behind(registry) == []


def test_overwriting_replaces_the_whole_model(registry, add, manifest):
    add(registry, "notes", "old")
    with registry.stage("notes", overwrite=True) as folder:
        write_manifest(folder, manifest(parameters=7))
    assert registry.find("notes").manifest.parameters == 7
    assert [path.name for path in (registry.models / "notes").iterdir()] == ["ssd.json"]
    assert left_behind(registry) == []


@pytest.mark.parametrize("name", ["../notes", "/tmp/notes", "..", "a/b", "Notes", ".notes"])
def test_nothing_outside_the_registry_can_be_named(registry, add, name):
    add(registry, "notes")
    doors = [
        registry.find,
        registry.remove,
        registry.workspace,
        registry.verify,
        registry.set_default,
        lambda bad: registry.rename("notes", bad),
        lambda bad: registry.rename(bad, "letters"),
        lambda bad: registry.set_weight(bad, 0.5),
        lambda bad: registry.stage(bad).__enter__(),
    ]
    for door in doors:
        with pytest.raises(UsageError, match="not a model name"):
            door(name)


def test_a_mistyped_name_is_answered_with_the_nearest(registry, add):
    add(registry, "notes")
    with pytest.raises(NoSuchModel) as caught:
        registry.find("note")
    assert str(caught.value) == "no model named 'note'. Did you mean 'notes'? See 'ssd models list'."


def test_a_broken_folder_is_reported_and_can_be_removed(registry, add):
    add(registry, "notes")
    add(registry, "ruin")
    (registry.models / "ruin" / "ssd.json").write_text("{")
    (registry.models / "Not a name").mkdir()
    assert names(registry) == ["notes", "starter"]
    assert sorted(registry.broken()) == ["Not a name", "ruin"]
    assert "ssd.json" in registry.broken()["ruin"]
    with pytest.raises(SsdError, match="not valid JSON"):
        registry.find("ruin")
    registry.remove("ruin")
    assert not (registry.models / "ruin").exists()


def test_a_bundled_model_is_found_and_never_changed(registry, manifest):
    assert registry.find("starter").bundled
    changes = [
        lambda: registry.remove("starter"),
        lambda: registry.rename("starter", "mine"),
        lambda: registry.set_weight("starter", 0.5),
        lambda: registry.stage("starter", overwrite=True).__enter__(),
    ]
    for change in changes:
        with pytest.raises(UsageError, match="'starter' comes with ssd"):
            change()
    assert registry.find("starter").bundled


def test_removing_deletes_the_folder(registry, add):
    add(registry, "notes")
    registry.remove("notes")
    assert list(registry.models.iterdir()) == []
    with pytest.raises(NoSuchModel):
        registry.remove("notes")


def test_a_removal_that_a_crash_stopped_does_not_come_back(registry, add, monkeypatch):
    add(registry, "notes")
    with monkeypatch.context() as patched:
        patched.setattr(staging.shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            registry.remove("notes")
    assert names(registry) == ["starter"]
    registry.set_default("starter")  # any change ends what was interrupted
    assert list(registry.models.iterdir()) == []


def interrupt(*_):
    raise KeyboardInterrupt


def test_models_follow_their_base_when_it_is_renamed(registry, add):
    add(registry, "general")
    add(registry, "notes", base="general")
    registry.rename("general", "plain")
    assert registry.find("notes").manifest.base == "plain"
    assert registry.find("notes").manifest.core == registry.find("plain").manifest.core


def test_an_adapter_is_loaded_on_its_base_while_that_has_the_weights_that_it_was_made_for(registry, add):
    add(registry, "big", kind="core", core=None)
    base = registry.find("big")
    add(registry, "notes", kind="adapter", core="big", base="big", base_weights=base.manifest.weights_digest)
    notes = registry.find("notes")
    assert registry.origin_of(notes) == base
    assert registry.origin_of(base) is None
    add(registry, "big", "other weights", overwrite=True, kind="core", core=None)
    with pytest.raises(UsageError, match="its weights have changed") as raised:
        registry.origin_of(notes)
    assert raised.value.remedy.startswith("Restore the weights that 'notes' was trained with")
    registry.remove("big")
    with pytest.raises(NoSuchModel, match="an adapter for 'big'"):
        registry.origin_of(notes)


def test_a_model_that_is_set_aside_while_the_folder_is_listed_is_found(registry, add, monkeypatch):
    add(registry, "notes")
    listed = staging._paths(registry.models)
    monkeypatch.setattr(staging, "_paths", lambda models: listed if models == registry.models else [])
    (registry.models / "notes").rename(registry.models / ".notes.old-01234567")
    assert staging.model_names(registry.models) == {"notes"}


def test_the_default_follows_set_rename_and_remove(registry, add):
    assert registry.default() == "starter"
    add(registry, "big", kind="core", core=None)
    registry.set_default("big")
    assert registry.default() == "big"
    registry.rename("big", "bigger")
    assert registry.default() == "bigger"
    registry.remove("bigger")
    assert registry.default() == "starter"
    add(registry, "bigger", kind="core", core=None)
    assert registry.default() == "starter"


def test_the_default_falls_back_when_its_model_is_gone(registry, add):
    registry.home.mkdir()
    (registry.home / "default").write_text("vanished\n")
    assert registry.default() == "starter"


def test_the_default_is_smollm2_where_that_is_a_core_and_no_other_was_chosen(registry, add):
    add(registry, "smollm2")  # a small model of this name
    assert registry.default() == "starter"
    add(registry, "smollm2", kind="core", core=None, overwrite=True)
    assert registry.default() == "smollm2"
    registry.set_default("starter")
    assert registry.default() == "starter"


def test_only_a_core_can_be_the_default(registry, add):
    add(registry, "notes")
    with pytest.raises(UsageError, match="'notes' is a small model"):
        registry.set_default("notes")
    with pytest.raises(NoSuchModel):
        registry.set_default("missing")


def test_renaming_moves_the_model_and_what_was_made_for_it(registry, add):
    add(registry, "big", kind="core", core=None)
    add(registry, "notes", core="big")
    registry.rename("big", "bigger")
    assert names(registry) == ["bigger", "notes", "starter"]
    assert registry.find("bigger").manifest.name == "bigger"
    assert registry.find("notes").manifest.core == "bigger"
    assert registry.verify("bigger") == []


def test_renaming_never_replaces_a_model(registry, add):
    add(registry, "notes", "mine")
    add(registry, "letters", "other")
    with pytest.raises(UsageError, match=r"'letters' exists already\. Choose another"):
        registry.rename("notes", "letters")
    assert (registry.models / "letters" / "model.safetensors").read_text() == "other"


def test_a_weight_is_stored_without_touching_the_rest(registry, add):
    add(registry, "notes")
    before = registry.find("notes").manifest
    registry.set_weight("notes", 0.25)
    assert registry.find("notes").manifest == replace(before, weight=0.25)


def test_a_gate_is_stored_with_a_weight_and_stays_when_none_is_given(registry, add):
    add(registry, "notes")
    gate = {"bias": 0.5, "level": 1.0, "core": -2.0, "small": 0.25}
    registry.set_weight("notes", 0.25, gate)
    assert registry.find("notes").manifest.gate == gate
    registry.set_weight("notes", 0.5)
    assert registry.find("notes").manifest.gate == gate
    assert registry.verify("notes") == []


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(registry, add, weight):
    add(registry, "notes")
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        registry.set_weight("notes", weight)


def test_verify_names_what_was_changed_or_lost(registry, add):
    add(registry, "notes")
    (registry.models / "notes" / "model.safetensors").write_text("tampered")
    (registry.models / "notes" / "extra" / "README.md").unlink()
    assert sorted(registry.verify("notes")) == ["extra/README.md", "model.safetensors"]


def test_verify_names_a_file_that_is_not_listed(registry, add):
    add(registry, "notes")
    (registry.models / "notes" / "extra" / "more.txt").write_text("who put it here?")
    assert registry.verify("notes") == ["extra/more.txt"]


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.ENOSPC, "is full"), (errno.EROFS, "read-only disk"), (errno.EACCES, "no permission")],
)
def test_a_disk_that_refuses_is_said_in_a_sentence(registry, add, monkeypatch, code, said):
    def refuse(*_):
        raise OSError(code, "refused")

    monkeypatch.setattr("ssdcli.registry.store.sync_tree", refuse)
    with pytest.raises(SsdError, match=said) as caught:
        add(registry, "notes")
    assert "SSD_HOME" in caught.value.remedy
    assert left_behind(registry) == []


def test_an_error_about_a_file_elsewhere_stays_what_it_is(registry):
    with pytest.raises(PermissionError), registry.stage("notes"):
        raise PermissionError(errno.EACCES, "refused", "/elsewhere/letter.txt")


def test_a_file_in_the_place_of_the_home_is_said_in_a_sentence(tmp_path, add):
    (tmp_path / "file").write_text("")
    with pytest.raises(SsdError, match="a file is where a folder is needed"):
        add(Registry(tmp_path / "file" / "ssd"), "notes")
