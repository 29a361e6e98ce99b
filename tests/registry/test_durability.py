"""What is forced to the disk, and when: after a power cut the old content is there or the new one, never half of it."""

from __future__ import annotations

import pytest

from ssdcli.registry.disk import sync_tree, write_atomic
from tests.disk import NEEDS_DESCRIPTORS, Disk

pytestmark = NEEDS_DESCRIPTORS


@pytest.fixture
def disk(monkeypatch) -> Disk:
    return Disk(monkeypatch)


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(tmp_path, disk):
    write_atomic(tmp_path / "default", "notes\n")
    assert disk.after("rename", tmp_path / "default") == [("sync", tmp_path)]


def test_all_of_a_model_is_synced_before_it_gets_its_name_and_the_list_of_models_after(registry, add, disk):
    add(registry, "notes")
    assert ("sync", registry.models) in disk.after("rename", registry.models / "notes")


def test_an_old_model_goes_only_when_the_new_name_is_on_the_disk(registry, add, disk):
    add(registry, "notes", "old")
    disk.log.clear()
    add(registry, "notes", "new", overwrite=True)
    after = disk.after("rename", registry.models / "notes")
    assert after.index(("sync", registry.models)) < next(i for i, (event, _) in enumerate(after) if event == "delete")


def test_a_model_is_out_of_the_list_on_the_disk_before_it_is_deleted(registry, add, disk):
    add(registry, "notes")
    disk.log.clear()
    registry.remove("notes")
    events = [event for event, path in disk.log if event != "sync" or path == registry.models]
    assert events == ["rename", "sync", "delete"]


def test_a_new_name_is_on_the_disk_before_other_models_mention_it(registry, add, disk):
    add(registry, "big", kind="core", core=None)
    add(registry, "notes", core="big")
    disk.log.clear()
    registry.rename("big", "large")
    after = disk.after("rename", registry.models / "large")
    assert after[0] == ("sync", registry.models)
    assert ("rename", registry.models / "notes" / "ssd.json") in after


def test_a_tree_is_synced_to_its_last_file_and_folder(tmp_path, disk):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").touch()
    sync_tree(tmp_path)
    assert {path for _, path in disk.log} == {tmp_path, *tmp_path.rglob("*")}
    assert disk.log[-1] == ("sync", tmp_path)
