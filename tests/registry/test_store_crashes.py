"""Processes at once and processes killed: the registry holds the old model or the new one."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ssdcli.registry.store import Registry

WRITER = """
import os, shutil, signal, sys
from pathlib import Path
from ssdcli.errors import UsageError
from ssdcli.registry.manifest import Manifest, write_manifest
from ssdcli.registry.store import Registry

home, manifest, name, content, overwrite, times, death = sys.argv[1:]
rename, renames = os.rename, 0

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def dying_rename(source, target):
    global renames
    renames += 1
    if death == f"rename {renames}":
        die()
    rename(source, target)

os.rename = dying_rename
if death == "rmtree":
    shutil.rmtree = die
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(times)):
    try:
        with Registry(Path(home)).stage(name, overwrite == "overwrite") as folder:
            (folder / "model.safetensors").write_text(content * 1000)
            write_manifest(folder, Manifest.from_json(manifest))
            if death == "staging":
                die()
    except UsageError as error:
        sys.exit(error.exit_code)
"""


class Writer:
    """A process that stages models: ready when made, writing from `go` on."""

    def __init__(self, home, manifest, name, content, *, overwrite=False, times=1, death=""):
        words = [
            str(home),
            manifest.to_json(),
            name,
            content,
            "overwrite" if overwrite else "",
            str(times),
            death,
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait(self):
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


def content(registry, name="notes"):
    assert registry.verify(name) == []
    return set((registry.find(name).folder / "model.safetensors").read_text())


def leftovers(registry):
    return [path.name for path in registry.models.iterdir() if path.name.startswith(".")]


def test_of_two_writers_of_one_name_one_wins_whole(registry, manifest):
    writers = [Writer(registry.home, manifest(), "notes", content) for content in "ab"]
    for writer in writers:
        writer.go()
    assert sorted(writer.wait() for writer in writers) == [0, 2]
    assert content(registry) in ({"a"}, {"b"})
    assert leftovers(registry) == []


def test_writers_of_different_names_both_win(registry, manifest):
    writers = [Writer(registry.home, manifest(), name, name) for name in "ab"]
    for writer in writers:
        writer.go()
    assert [writer.wait() for writer in writers] == [0, 0]
    assert (content(registry, "a"), content(registry, "b")) == ({"a"}, {"b"})
    assert leftovers(registry) == []


def test_a_reader_finds_a_model_at_every_moment_of_its_replacement(registry, manifest, add):
    add(registry, "notes", "o")
    writer = Writer(registry.home, manifest(), "notes", "n", overwrite=True, times=25)
    writer.go()
    reads = 0
    while writer.process.poll() is None:
        assert registry.find("notes").manifest.files
        assert [entry.name for entry in registry.entries() if not entry.bundled] == ["notes"]
        assert registry.broken() == {}
        reads += 1
    assert writer.wait() == 0
    assert reads > 0
    assert content(registry) == {"n"}


@pytest.mark.parametrize(
    ("death", "survivor"), [("staging", "o"), ("rename 1", "o"), ("rename 2", "o"), ("rmtree", "n")]
)
def test_a_writer_killed_at_any_point_leaves_the_old_model_or_the_new(registry, manifest, add, death, survivor):
    add(registry, "notes", "o")
    writer = Writer(registry.home, manifest(), "notes", "n", overwrite=True, death=death)
    writer.go()
    assert writer.wait() == -signal.SIGKILL
    assert leftovers(registry) != []
    assert content(registry) == {survivor}
    registry.set_default("starter")  # any change ends what was interrupted
    assert leftovers(registry) == []
    assert content(registry) == {survivor}


def test_a_new_model_whose_writer_is_killed_does_not_exist(registry, manifest):
    writer = Writer(registry.home, manifest(), "notes", "n", death="staging")
    writer.go()
    assert writer.wait() == -signal.SIGKILL
    assert "notes" not in [entry.name for entry in registry.entries()]
    registry.set_default("starter")  # any change ends what was interrupted
    assert leftovers(registry) == []


def test_a_living_writer_is_left_alone_by_recovery(registry, manifest):
    writer = Writer(registry.home, manifest(), "notes", "n")
    with registry.stage("letters") as folder:
        writer.go()
        assert writer.wait() == 0
        assert folder.is_dir()
        (folder / "ssd.json").write_text(manifest(name="letters").to_json())
    assert [entry.name for entry in registry.entries() if not entry.bundled] == ["letters", "notes"]
