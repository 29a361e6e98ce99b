from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from ssdcli.machine.environment import keep_memory, prepare_machine

_FAULTS = """
import resource
from ssdcli.machine.environment import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        bytearray(1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_it_was = faults()
told = keep_memory()
bytearray(1 << 26)
print(told, as_it_was, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has these settings")
def test_large_blocks_are_given_again_without_page_faults():
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    told, before, after = done.stdout.split()
    if told == "False":
        pytest.skip("this C library has no such settings")
    assert int(after) < int(before) / 10


def test_other_systems_are_left_alone(monkeypatch):
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was opened")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_memory() is False


@pytest.mark.parametrize("error", [OSError("no such library"), AttributeError("mallopt")])
def test_a_linux_of_another_c_library_is_left_alone(monkeypatch, error):
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_memory() is False


@pytest.mark.parametrize(("answer", "expected"), [(1, True), (0, False)])
def test_the_answer_is_that_of_the_c_library(monkeypatch, answer, expected):
    class Library:
        def __init__(self, name: str) -> None:
            self.name = name

        def mallopt(self, parameter: int, value: int) -> int:
            return answer

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert keep_memory() is expected


@pytest.mark.parametrize(
    ("variable", "before", "after"),
    [
        ("OMP_WAIT_POLICY", None, "PASSIVE"),
        ("OMP_WAIT_POLICY", "ACTIVE", "ACTIVE"),
        ("GOMP_SPINCOUNT", None, "4000"),
        ("GOMP_SPINCOUNT", "7", "7"),
        ("THP_MEM_ALLOC_ENABLE", None, "1"),
        ("THP_MEM_ALLOC_ENABLE", "0", "0"),
    ],
)
def test_what_is_set_for_threads_and_pages_is_the_users_where_he_says_otherwise(monkeypatch, variable, before, after):
    monkeypatch.setattr(sys, "platform", "darwin")  # this process keeps its memory settings
    monkeypatch.setenv(variable, before or "")
    if before is None:
        monkeypatch.delenv(variable)
    prepare_machine()
    assert os.environ[variable] == after


def test_no_garbage_is_looked_for_in_torch():
    script = (
        "import gc, sys; from ssdcli.machine.environment import import_torch; import_torch()\n"
        "print('torch' in sys.modules, gc.isenabled(), gc.get_freeze_count() > 100_000)\n"
        "frozen = gc.get_freeze_count(); kept = [[] for _ in range(1000)]; import_torch()\n"
        "print(gc.get_freeze_count() == frozen)"  # what others made since then may be garbage
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4


def test_the_machine_is_prepared_without_torch():
    script = "import sys; import ssdcli.machine.environment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
