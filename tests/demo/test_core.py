"""Which core the demo writes with."""

from __future__ import annotations

import pytest

from ssdcli.demo import core
from ssdcli.demo.core import demo_core
from ssdcli.registry.store import Registry
from tests.tiny import add_tiny


@pytest.fixture
def missing(monkeypatch):
    """The package is not installed."""
    monkeypatch.setattr(core, "packaged_file", lambda: None)


def test_a_registered_smollm2_is_used_as_it_is(missing):
    add_tiny("smollm2")
    found = demo_core(Registry())
    assert (found.entry.name, found.new, found.writes) == ("smollm2", False, True)


def test_without_the_package_the_starter_takes_its_place(missing):
    found = demo_core(Registry())
    assert (found.entry.name, found.entry.bundled, found.writes) == ("starter", True, False)


def test_a_small_model_of_that_name_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(core, "packaged_file", lambda: tmp_path / "core.gguf")
    add_tiny("big")
    add_tiny("smollm2", kind="small", core="big")
    assert demo_core(Registry()).entry.name == "starter"
    assert Registry().find("smollm2").manifest.kind == "small"


def test_the_core_of_the_package_is_registered_once(monkeypatch, tmp_path):
    def pull(plan, name, registry, watch, overwrite):
        assert plan == tmp_path / "core.gguf"
        add_tiny(name)
        return registry.find(name)

    monkeypatch.setattr(core, "packaged_file", lambda: tmp_path / "core.gguf")
    monkeypatch.setattr("ssdcli.hub.pull.plan", lambda path: path)
    monkeypatch.setattr("ssdcli.hub.pull.pull", pull)
    found = demo_core(Registry())
    assert (found.entry.name, found.new, found.writes) == ("smollm2", True, True)
    assert not demo_core(Registry()).new
    assert Registry().default() == "smollm2"
