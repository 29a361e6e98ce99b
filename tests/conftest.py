"""What every test shares: one thread per worker, no network, a registry of its own."""

from __future__ import annotations

import contextlib
import gc
import io
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from tests import real_core as _real_core
from tests.real_core import real_core, real_gguf, real_home  # noqa: F401 - fixtures for every test

settings.register_profile("ssd", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ssd")

_STEERS_OUTPUT = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")


def pytest_configure() -> None:
    """Let ^C interrupt, also where tests run in the background of a shell, which has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of the real core first."""
    _real_core.first(items)


def pytest_collection_finish() -> None:
    """Let the garbage collector, which every training calls, not look at what stays to the end anyway."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's settings and models from the test, and the test from them."""
    for name in [*_STEERS_OUTPUT, *(name for name in os.environ if name.startswith("SSD_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "ssd-home"))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


class RunSsd(Protocol):
    """Runs `ssd` with these arguments and returns its streams as text; `stdin=None` is an empty standard input."""

    def __call__(
        self, *args: str, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_ssd(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunSsd]:
    """The command line in this process, its streams captured."""
    from ssdcli.cli import app, console

    def run(
        *args: str, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((stdin or "").encode()), "utf-8"))
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = app.main(args)
        said = (stream.buffer.getvalue().decode() for stream in (out, err))
        return subprocess.CompletedProcess(args, code, *said)

    yield run
    console.configure(quiet=False, debug=False)


@pytest.fixture
def ssd_process() -> RunSsd:
    """`python -m ssdcli` in a process of its own, which imports everything anew."""

    def run(
        *args: str, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ssdcli", *args],
            input=stdin or "",
            env={**os.environ, **(env or {})},
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )

    return run
