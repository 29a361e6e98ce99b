from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdcli.errors import SsdError, UsageError
from ssdcli.registry import archive
from ssdcli.registry.archive import export_to_file, import_model
from ssdcli.registry.store import Registry
from tests.registry.archives import FILES, contents, exported, listed, tar, weights

LONG = "n" * 100  # the longest name of a model; with a file's it is too long for a tar header


@pytest.mark.parametrize("name", ["notes", LONG])
def test_what_is_exported_is_imported_byte_for_byte(registry, put, tmp_path, name):
    entry = put(name, weight=0.25, core="big")
    elsewhere = Registry(tmp_path / "elsewhere")
    there = import_model(elsewhere, exported(entry), "a.tar")
    assert there.manifest == entry.manifest
    assert contents(there.folder) == contents(entry.folder)
    assert elsewhere.verify(name) == []
    assert exported(there).getvalue() == exported(entry).getvalue()


def test_archives_of_any_plain_files_are_read_back(described, tmp_path_factory):
    part = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,9}[A-Za-z0-9_]", fullmatch=True)
    paths = st.lists(part, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".md")
    contents_by_path = st.dictionaries(paths, st.binary(max_size=1500), max_size=4)

    @settings(max_examples=20)
    @given(contents_by_path.filter(lambda files: len({path.lower() for path in files}) == len(files)))
    def holds(extra):
        files = {**FILES, **extra}
        registry = Registry(tmp_path_factory.mktemp("home"))
        there = import_model(registry, tar(("notes/ssd.json", described(files)), *listed(files)), "a.tar")
        again = import_model(registry, exported(there), "a.tar", "again")
        assert contents(there.folder).items() - contents(again.folder).items() == {
            ("ssd.json", there.manifest.to_json().encode())
        }
        assert files.items() <= contents(again.folder).items()

    holds()


def test_an_archive_is_one_folder_that_begins_with_the_manifest_and_tells_nothing_of_the_machine(put):
    entry = put()
    with tarfile.open(fileobj=exported(entry)) as read:
        members = read.getmembers()
    assert [m.name for m in members] == [
        "notes/ssd.json",
        "notes/extra/README.md",
        "notes/model.safetensors",
        "notes/tokenizer.json",
    ]
    assert {(m.type, m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {
        (tarfile.REGTYPE, 0o600, 0, 0, 0, "", "")
    }


def test_the_exported_bytes_depend_on_the_model_alone(put):
    entry = put()
    first = exported(entry).getvalue()
    os.utime(entry.folder / "model.safetensors", (1, 1))
    assert exported(entry).getvalue() == first


def test_links_are_exported_by_their_content(put, tmp_path):
    entry = put()
    blob = (entry.folder / "model.safetensors").rename(tmp_path / "blob")
    (entry.folder / "model.safetensors").symlink_to(blob)
    there = import_model(Registry(tmp_path / "elsewhere"), exported(entry), "a.tar")
    assert not (there.folder / "model.safetensors").is_symlink()
    assert (there.folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_files_that_the_manifest_does_not_list_stay_behind(put):
    entry = put()
    (entry.folder / "diary.txt").write_text("private")
    assert b"diary" not in exported(entry).getvalue()


def test_the_report_stays_at_home_and_moves_with_its_model(put, registry, tmp_path):
    entry = put(files={**FILES, "report.html": b"my own text"})
    archive = exported(entry)
    assert b"report.html" not in archive.getvalue()
    assert b"my own text" not in archive.getvalue()
    elsewhere = Registry(tmp_path / "elsewhere")
    there = import_model(elsewhere, archive, "a.tar")
    assert set(contents(there.folder)) == {"ssd.json", *FILES}
    assert elsewhere.verify("notes") == registry.verify("notes") == []
    registry.rename("notes", "letters")
    assert (registry.find("letters").folder / "report.html").read_bytes() == b"my own text"
    assert registry.verify("letters") == []
    import_model(registry, exported(there), "a.tar", "letters", overwrite=True)
    assert list(registry.home.rglob("report.html")) == []


@pytest.mark.parametrize("name", ["report.html", "Report.HTML"])
def test_no_report_is_taken_from_elsewhere(name, registry, described):
    files = {**FILES, name: b"<!doctype html>"}
    with pytest.raises(SsdError, match=r"never leaves the machine"):
        import_model(registry, tar(("notes/ssd.json", described(files)), *listed(files)), "a.tar")
    assert [entry.name for entry in registry.entries()] == ["starter"]


def test_a_damaged_model_is_not_exported(put, tmp_path):
    entry = put()
    (entry.folder / "model.safetensors").write_bytes(b"tampered")
    with pytest.raises(SsdError, match=r"'model\.safetensors' differs .* See 'ssd models verify notes'"):
        export_to_file(entry, tmp_path / "notes.tar")
    (entry.folder / "model.safetensors").unlink()
    with pytest.raises(SsdError, match=r"'notes' cannot be exported: its file 'model\.safetensors' cannot be read"):
        export_to_file(entry, tmp_path / "notes.tar")
    assert not list(tmp_path.glob("*.tar*"))


def test_what_could_not_be_imported_is_not_exported(put):
    with pytest.raises(SsdError, match=r"cannot be exported: 'notes/model\.bin' may be a pickle"):
        exported(put(files={**FILES, "model.bin": b""}))
    with pytest.raises(SsdError, match=r"lists no tokenizer\.json"):
        exported(put("letters", files={"model.safetensors": weights()}))


def test_the_archive_is_private_and_an_old_one_is_kept(put, tmp_path):
    entry, path = put(), tmp_path / "notes.tar"
    path.write_text("old")
    with pytest.raises(UsageError, match=r"notes\.tar' exists already\. Pass --overwrite"):
        export_to_file(entry, path)
    assert path.read_text() == "old"
    export_to_file(entry, path, overwrite=True)
    assert path.read_bytes() == exported(entry).getvalue()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_appears_during_the_export_is_kept(put, tmp_path, monkeypatch):
    path = tmp_path / "notes.tar"
    monkeypatch.setattr(archive, "export_model", lambda entry, stream: path.write_text("the other one"))
    with pytest.raises(UsageError, match="exists already"):
        export_to_file(put(), path)
    assert path.read_text() == "the other one"
    assert list(tmp_path.glob(".notes.tar*")) == []


def test_only_regular_files_in_folders_that_exist_are_written(put, tmp_path):
    entry = put()
    with pytest.raises(UsageError, match="there is no folder"):
        export_to_file(entry, tmp_path / "absent" / "notes.tar")
    for path in (tmp_path, tmp_path / "pipe"):
        if path != tmp_path:
            os.mkfifo(path)
        with pytest.raises(UsageError, match="is not a regular file"):
            export_to_file(entry, path, overwrite=True)


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_export_that_is_stopped_leaves_the_old_archive(put, tmp_path, monkeypatch, ending):
    def stop(*_):
        raise ending

    path = tmp_path / "notes.tar"
    path.write_text("old")
    monkeypatch.setattr(archive, "export_model", stop)
    with pytest.raises((KeyboardInterrupt, SsdError), match=r"^$|cannot be written \(No space left on device\)\. Make"):
        export_to_file(put(), path, overwrite=True)
    assert path.read_text() == "old"
    assert list(tmp_path.glob(".notes.tar*")) == []


def test_an_imported_model_is_private_and_can_have_another_name(registry, put):
    there = import_model(registry, exported(put()), "a.tar", "letters")
    assert (there.name, there.manifest.name) == ("letters", "letters")
    assert registry.verify("letters") == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in there.folder.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE(there.folder.stat().st_mode) == stat.S_IMODE((there.folder / "extra").stat().st_mode) == 0o700


def test_a_taken_name_is_kept_unless_it_is_overwritten(registry, put):
    card = registry.models / "notes" / "extra" / "README.md"
    data = exported(put()).getvalue()
    registry.remove("notes")
    put(files={**FILES, "extra/README.md": b"# another\n"})
    with pytest.raises(UsageError, match=r"'notes' exists already\. Pass --overwrite to replace it, or choose another"):
        import_model(registry, io.BytesIO(data), "a.tar")
    assert card.read_bytes() == b"# another\n"
    import_model(registry, io.BytesIO(data), "a.tar", overwrite=True)
    assert card.read_bytes() == FILES["extra/README.md"]


def test_an_interrupted_import_leaves_nothing(registry, put, monkeypatch):
    stream = exported(put())

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "_check_weights", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_model(registry, stream, "a.tar", "letters")
    assert [path.name for path in registry.models.iterdir()] == ["notes"]


def test_memory_does_not_grow_with_the_weights(registry, put, tmp_path):
    entry = put(files={**FILES, "model.safetensors": weights(6 << 20)})  # 24 MiB
    path = tmp_path / "notes.tar"
    tracemalloc.start()
    try:
        export_to_file(entry, path)
        with path.open("rb") as stream:
            import_model(registry, stream, "a.tar", "letters")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
