"""Tiny checkpoints in the families' published formats, and what `ssd pull` makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from filelock import FileLock

from ssdcli.hub.download import RepoId
from ssdcli.hub.pull import Watch, plan, pull
from ssdcli.registry.store import Registry
from tests.hub_server import HubServer

Folders = Callable[[str], Path]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder with the checkpoint of a family, by the name of the module that writes it, written once.

    A module that writes several kinds gets the part of the name after its own and a dash.
    """

    @cache
    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp("published") / name
        folder.mkdir()
        family, *kind = name.split("-")
        module = import_module(f"tests.models.families.{family}")
        getattr(module, f"write_{family}")(folder, *kind)
        return folder

    return write


@pytest.fixture(scope="session")
def pulled(tmp_path_factory: pytest.TempPathFactory, written: Folders) -> Folders:
    """The registry's folder with the same checkpoint, pulled once from a hub of our own."""
    # With several workers, the parent is what they share.
    shared = tmp_path_factory.getbasetemp()
    root = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    @cache
    def pull(name: str) -> Path:
        home = root / f"pulled-{name}"
        with FileLock(f"{home}.lock"):
            if not home.exists():
                _pull(name, written(name), home, tmp_path_factory.mktemp("cache"))
        return Registry(home).find(name).folder

    return pull


def _pull(name: str, checkpoint: Path, home: Path, cache: Path) -> None:
    with HubServer() as hub, pytest.MonkeyPatch.context() as patch:
        hub.add(f"them/{name}", checkpoint)
        hub.serve_here(patch, cache)
        pull(plan(RepoId.parse(f"them/{name}")), name, Registry(home), Watch(lambda _: None, lambda: None))
