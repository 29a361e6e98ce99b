"""What `ssd models` says of adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.registry.manifest import READER
from ssdcli.registry.store import Registry
from tests.tiny import add_tiny


@pytest.fixture
def registry() -> Registry:
    """A core, and an adapter on it."""
    add_tiny("big", 1)
    digest = Registry().find("big").manifest.weights_digest
    add_tiny("notes", 2, kind="adapter", core="big", base="big", base_weights=digest)
    return Registry()


def test_an_adapter_is_listed_with_its_base(registry, run_ssd):
    row = next(line for line in run_ssd("models", "list").stdout.splitlines() if line.startswith("notes"))
    assert "adapter" in row
    assert "on big" in row
    listed = json.loads(run_ssd("models", "list", "--json").stdout)
    assert {entry["name"]: entry["base"] for entry in listed}["notes"] == "big"
    assert "on big" not in run_ssd("models", "show", "big").stdout


def test_removing_a_base_says_which_adapters_it_leaves_behind(registry, run_ssd):
    done = run_ssd("models", "rm", "big", "--yes")
    assert "'notes' is an adapter for 'big' and cannot be used without it" in done.stderr
    assert done.stderr.count("notes") == 1


@pytest.mark.parametrize(
    ("kind", "changes", "noun"),
    [("small", {"architecture": READER}, "a small model"), ("head", {}, "a draft head")],
)
def test_removing_a_core_says_what_cannot_be_used_without_it(registry, run_ssd, kind, changes, noun):
    add_tiny("letters", 3, kind=kind, core="big", **changes)
    said = run_ssd("models", "rm", "big", "--yes").stderr
    assert f"'letters' is {noun} for 'big' and cannot be used without it" in said
    assert said.count("letters") == 1


def test_an_imported_adapter_without_its_base_is_said_to_lack_it(registry, run_ssd, tmp_path: Path):
    archive = str(tmp_path / "notes.tar")
    run_ssd("models", "export", "notes", archive)
    assert "adapter" not in run_ssd("models", "import", archive, "--as", "letters").stderr
    run_ssd("models", "rm", "big", "--yes")
    assert "'letters' is an adapter for 'big', and there is no model" in (
        run_ssd("models", "import", archive, "--as", "letters", "--overwrite").stderr
    )


def test_a_base_is_known_by_its_weights_and_not_by_its_name(registry):
    adapter = registry.find("notes")
    assert registry.origin_of(registry.find("big")) is None
    registry.rename("big", "large")
    base = registry.origin_of(registry.find("notes"))
    assert base is not None
    assert base.name == "large"
    with pytest.raises(NoSuchModel, match="adapter for 'big'"):
        registry.origin_of(adapter)
    add_tiny("large", 7)
    with pytest.raises(UsageError, match="its weights have changed"):
        registry.origin_of(registry.find("notes"))
