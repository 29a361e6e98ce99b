"""What the doctor says to do next fits the machine, and what mends a registry mends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssdcli.doctor import fit as speed
from ssdcli.doctor.advice import KNOWN, fit_of_entry, how_long, next_steps, to_pull
from ssdcli.doctor.fit import bandwidth, rate, tokens_per_second
from ssdcli.doctor.health import loose_ends, problems
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.generation.loaded_model import process_of
from ssdcli.machine.hardware import Hardware
from ssdcli.machine.units import GIB
from ssdcli.registry.manifest import READER
from ssdcli.registry.store import STARTER, Registry
from tests.pulled import add_causal, add_core
from tests.tiny import add_tiny

MACHINE = Hardware(cores=4, memory=32 * GIB, free=24 * GIB, bfloat16=True)
FLOPS = {1: 2e10, 32: 4e11}  # of a laptop


@pytest.fixture
def laptop(monkeypatch):
    """A machine of known speed."""
    monkeypatch.setattr(speed, "rate", lambda rows, dtype, device: FLOPS[min(rows, 32)])


def test_what_is_measured_is_the_speed_of_products():
    rate.cache_clear()
    assert bandwidth("float32", "cpu") == pytest.approx(rate(1, "float32", "cpu") * 2)
    assert rate(32, "float32", "cpu") > rate(1, "float32", "cpu")


def test_known_cores_are_as_large_as_published_and_told_if_they_fit(laptop):
    found = to_pull([], MACHINE)
    sizes = [134_515_008, 361_821_120, 596_049_920, 1_711_376_384, 4_022_468_096, 8_190_735_360]
    assert [fit.need.parameters for fit in found.values()] == sizes
    assert list(found) == list(KNOWN)
    for fit in found.values():
        assert fit.pace is None or fit.pace == pytest.approx(2e10 / 2 / fit.need.parameters)
    small = replace(MACHINE, free=2 * GIB)
    assert "Qwen/Qwen3-4B" not in to_pull([], small)
    assert "HuggingFaceTB/SmolLM2-360M-Instruct" in to_pull([], small)
    add_core("known")
    entry = Registry().find("known")
    known = replace(entry, manifest=replace(entry.manifest, parameters=sizes[1]))
    assert list(to_pull([known], MACHINE)) == [repo for repo in KNOWN if "360M" not in repo]


def test_the_next_step_is_a_core_that_writes_then_ones_own_text_then_writing(laptop):
    pullable = to_pull([], MACHINE)
    first, second = next_steps([], STARTER, pullable)
    # At 10 billion parameters a second the largest one of five tokens a second is this:
    assert "'ssd pull HuggingFaceTB/SmolLM2-1.7B-Instruct --as smollm2-1.7b-instruct'" in first
    assert "--memory-only --name mine" in second
    assert list(next_steps([], "smollm2", pullable)) == [second]
    add_tiny("notes", 2, kind="small", core="starter")
    (last,) = next_steps([Registry().find("notes")], "smollm2", pullable)
    add_core("mine")
    assert "'ssd models default mine'" in next(next_steps([Registry().find("mine")], STARTER, pullable))
    assert "'ssd chat --with notes'" in last


def test_the_pace_of_a_core_is_that_of_its_passes(laptop):
    add_causal("causal")
    add_core("full", attention="full")
    causal, full = (fit_of_entry(Registry().find(name), MACHINE) for name in ("causal", "full"))
    assert causal.pace == pytest.approx(FLOPS[1] / 2 / causal.need.parameters)
    entry = Registry().find("full")
    rows = entry.manifest.block_size + speed.SEEN
    steps = reverse_process(process_of(entry)).steps_of(entry.manifest.block_size)
    assert full.pace == pytest.approx(entry.manifest.block_size * FLOPS[32] / (2 * full.need.parameters * rows * steps))
    split = replace(causal.allocation, processes=2)
    assert tokens_per_second(causal.need, Registry().find("causal").manifest, 300, split) is None
    said = how_long(Registry().find("causal"), causal)
    read = float(said.rsplit(" can read ", 1)[1].split()[0].replace(",", ""))
    assert read == pytest.approx(240 * FLOPS[32] / 2 / causal.need.parameters, rel=0.05)
    assert "10 minutes" in how_long(None, None)


def test_what_is_broken_is_told_with_the_command_that_mends_it():
    add_core("big")
    add_tiny("notes", 2, kind="small", core="big")
    add_tiny("mail", 3, kind="small", core="big")
    registry = Registry()
    assert problems(registry, registry.entries()) == {}
    (registry.find("big").folder / "model.safetensors").unlink()
    (registry.find("notes").folder / "model.safetensors").unlink()
    (registry.find("mail").folder / "ssd.json").write_text("{")
    found = problems(registry, registry.entries())
    assert "'ssd pull them/toy@0 --as big --overwrite'" in found["big"]
    assert "'ssd train-small DATA --for big --name notes --overwrite'" in found["notes"]
    assert "'ssd models rm mail --yes'" in found["mail"]


def test_a_reader_without_its_core_is_broken_and_others_are_loose_ends():
    add_core("big")
    add_tiny("notes", 2, kind="small", core="big", attention="autoregressive", architecture=READER, base_weights="0")
    add_tiny("mail", 3, kind="small", core="gone")
    add_tiny("odd", 4, kind="small", core="big", process="simplex")
    registry = Registry()
    assert "its weights have changed" in problems(registry, registry.entries())["notes"]
    workspace = registry.workspace("letters")
    assert not [said for said in loose_ends(registry, registry.entries()) if "letters" in said]
    (workspace / "checkpoint-3").mkdir()
    said = list(loose_ends(registry, registry.entries()))
    assert "'letters' was interrupted" in said[0]
    assert "'mail' was made for 'gone', which is not here" in said[1]
    assert "'odd' does not fit 'big'" in said[2]
    assert len(said) == 3
