"""`ssd doctor`: what it shows, and its codes."""

from __future__ import annotations

import json

import pytest

from ssdcli.cli import app
from ssdcli.registry.store import Registry
from tests.pulled import add_core
from tests.tiny import add_tiny


@pytest.fixture
def doctor(capsys):
    """Runs `ssd doctor` in this process."""

    def run(*arguments):
        code = app.main(["doctor", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_whole_registry_is_well(doctor, monkeypatch):
    monkeypatch.setenv("SSD_OFFLINE", "1")
    add_core("big")
    code, out, err = doctor("--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["hardware"]["cores"] >= 1
    assert found["versions"]["torch"]
    assert found["offline"] is True
    assert found["problems"] == {}
    assert found["cores"].keys() == {"big", "starter"}
    assert all(free > 0 for free in found["disks"].values())
    assert found["bandwidth"] > 0
    assert found["tokens_per_second"]["big"] > 0
    assert found["tokens_per_second"]["starter"] is None
    assert "train-small" in found["next"][-1]
    assert "10 minutes" in found["training"]


def test_the_table_says_the_same(doctor):
    add_core("big")
    code, out, err = doctor()
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines.keys() >= {"cpu", "memory", "disk", "torch", "network", "models", "big", "starter"}
    assert "that are free, about " in lines["big"]
    assert lines.keys() >= {"bandwidth", "next"}


def test_what_is_broken_is_told_and_fails(doctor):
    add_core("big")
    add_tiny("notes", 2, kind="small", core="big")
    add_tiny("mail", 3, kind="small", core="big")
    registry = Registry()
    (registry.find("notes").folder / "model.safetensors").unlink()
    (registry.find("mail").folder / "ssd.json").write_text("{")
    code, out, err = doctor("--json")
    assert code == 1
    assert json.loads(out)["problems"].keys() == {"mail", "notes"}
    assert "model.safetensors is missing" in json.loads(out)["problems"]["notes"]
    assert json.loads(out)["next"] == ["Mend what is broken first: mail, notes."]
    assert err.startswith("ssd: 2 of the models cannot be used: mail, notes.")


def test_what_was_made_for_a_broken_core_needs_no_other(doctor):
    add_core("big")
    add_tiny("notes", 2, kind="small", core="big")
    (Registry().find("big").folder / "model.safetensors").unlink()
    code, out, _ = doctor("--json")
    assert (code, json.loads(out)["next"]) == (1, ["Mend what is broken first: big."])


def test_a_core_is_foretold_in_sentences(doctor):
    add_core("big")
    code, out, err = doctor("--for", "big")
    assert (code, err) == (0, "")
    assert "on cpu: takes" in out or "on cuda" in out
    code, out, _ = doctor("--for", "big", "--json")
    assert (code, json.loads(out)["core"]) == (0, "big")


def test_a_core_that_is_too_large_is_no_failure(doctor, monkeypatch):
    add_core("big")
    monkeypatch.setattr(
        "ssdcli.machine.hardware.psutil.virtual_memory", lambda: type("Memory", (), {"total": 9, "available": 9})
    )
    for arguments in ([], ["--for", "big"]):
        code, out, err = doctor(*arguments)
        assert (code, err) == (0, "")
        assert "the core takes" in out


def test_only_cores_are_foretold(doctor):
    add_tiny("notes", 2, kind="small", core="starter")
    code, _, err = doctor("--for", "notes")
    assert (code, err) == (2, "ssd: 'notes' is a small model, not a core. See 'ssd models list'.\n")
    assert doctor("--for", "nobody")[0] == 3


def test_a_repository_is_no_registered_core(doctor):
    code, _, err = doctor("--for", "them/Big-8B")
    assert code == 3
    assert err.startswith(
        "ssd: --for takes the name of a registered core, and 'them/Big-8B' is a place to pull one from."
    )
    assert "'ssd pull them/Big-8B --dry-run'" in err
