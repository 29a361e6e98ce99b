"""What is measured when a training ends: which member is which."""

from __future__ import annotations

import numpy as np

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.rules import average, mix
from ssdcli.engine.process.masked import Masked
from ssdcli.evaluation.block_losses import BlockSettings, block_losses
from ssdcli.evaluation.canvases import ROUNDS, CanvasSettings, canvas_losses
from ssdcli.evaluation.code_length import CodeSettings, code_lengths
from ssdcli.evaluation.combinations import alone
from ssdcli.evaluation.gating import GateFitter
from ssdcli.evaluation.joint_gate import GateObserver, fit_joint_gates
from ssdcli.evaluation.losses import GRID, LossSettings, measure_combinations, shares
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel, Shared, open_model
from ssdcli.registry.store import Registry
from ssdcli.training import assessment
from tests.pulled import add_causal, add_core
from tests.tiny import CONTEXT, VOCABULARY, loaded, member, tiny_backbone

PROCESS = Masked(VOCABULARY, 1)
DRAW = np.random.default_rng(0)
TEXTS = [ScoredText([0, *DRAW.integers(3, 250, 40).tolist()], 100) for _ in range(12)]


def small() -> LoadedModel:
    return loaded(Denoiser(tiny_backbone(2), PROCESS))


def fitted(core: LoadedModel, other: LoadedModel):
    """The losses over the grid, and the gate, that `assess` finds."""
    fitter = GateFitter(PROCESS)
    losses = assessment._with_core(core, other, TEXTS, mix, fitter, 1e6)
    assert losses is not None
    return losses.sums, fitter.gate()


def test_a_gate_is_fitted_with_the_core_as_core_and_the_small_model_as_small():
    core, other = loaded(Denoiser(tiny_backbone(1), PROCESS)), small()
    backbones = core.denoiser.backbone, other.denoiser.backbone
    fitter = GateFitter(PROCESS)
    told = [*shares(GRID, 2, PROCESS), fitter.combination()]
    expected = measure_combinations(backbones, PROCESS, TEXTS, told, LossSettings(CONTEXT)).over(GRID)
    sums, gate = fitted(core, other)
    np.testing.assert_array_equal(sums, expected.sums)
    assert gate == fitter.gate()
    assert fitted(other, core)[1] != gate  # so that a swap would be seen


def test_the_same_holds_beside_a_core_that_cannot_denoise_a_whole_text_at_once():
    add_core("big")
    core, other = open_model(Registry().find("big"), shared=Shared(process=PROCESS)), small()
    members = [member("core", core.denoiser), member("small", other.denoiser, role="small")]
    fitter = GateFitter(PROCESS)
    told = [*shares(GRID, 2, PROCESS), fitter.combination()]
    expected = canvas_losses(members, TEXTS, told, CanvasSettings(rounds=ROUNDS))
    assert expected is not None
    sums, gate = fitted(core, other)
    np.testing.assert_array_equal(sums, expected.over(GRID).sums)
    assert gate == fitter.gate()


def test_beside_a_core_that_reads_a_prefix_apart_whole_texts_are_measured():
    add_core("apart", attention="block-causal")
    core, other = open_model(Registry().find("apart"), shared=Shared(process=PROCESS)), small()
    members = [member("core", core.denoiser), member("small", other.denoiser, role="small")]
    told = [*shares(GRID, 2, PROCESS), GateFitter(PROCESS).combination()]
    expected = block_losses(members, TEXTS, told, BlockSettings()).over(GRID)
    losses = assessment._with_core(core, other, TEXTS, mix, GateFitter(PROCESS), 1e6)
    assert losses is not None
    np.testing.assert_array_equal(losses.sums, expected.sums)


def causal_core() -> LoadedModel:
    add_causal("causal")
    return open_model(Registry().find("causal"), shared=Shared(process=PROCESS))


def test_beside_a_causal_core_code_lengths_choose_the_weight_and_fit_the_gate():
    core, other = causal_core(), small()
    members = [member("core", core.denoiser), member("small", other.denoiser, role="small")]
    observer = GateObserver(("core", "small"))
    told = [*shares(GRID, 2, PROCESS, average), observer.combination(("core", "small"))]
    expected = code_lengths(members, TEXTS, told, CodeSettings()).over(GRID)
    beside = assessment.measure_beside([core, other], TEXTS, average, 1e6)
    assert beside is not None
    np.testing.assert_array_equal(beside.losses.sums, expected.sums)
    assert beside.memory is None
    (fitted,) = beside.gates
    assert fitted.gate == fit_joint_gates(observer.observations())[0].gate


def test_a_small_model_is_measured_and_sampled_by_the_default_rule_beside_its_core():
    add_core("apart", attention="block-causal")
    add_causal("causal")
    rules = {name: assessment._usual_rule(Registry().find(name)) for name in ("apart", "causal")}
    assert rules == {"apart": mix, "causal": average}
    assert assessment._usual_rule(None) is mix


def test_too_few_documents_in_time_choose_no_weight():
    assert assessment.measure_beside([causal_core(), small()], TEXTS, average, 1e-9) is None


def test_on_a_busy_machine_a_weight_and_a_gate_are_chosen_on_the_same_texts(monkeypatch):
    members = [causal_core(), small()]
    minutes = iter(range(1000))  # of which each look at the clock takes one, though next to none of it is work
    monkeypatch.setattr("time.monotonic", lambda: 60.0 * next(minutes))
    beside = assessment.measure_beside(members, TEXTS, average, seconds=100.0)
    assert beside is not None
    assert len(beside.losses.tokens) == len(TEXTS)
    assert assessment.measure_beside(members, TEXTS, average, seconds=10.0) is None  # but it does not wait for ever


def test_alone_a_model_for_a_causal_core_is_measured_by_its_code_length_too():
    members = [member("small", small().denoiser, role="small")]
    expected = code_lengths(members, TEXTS, [alone(0, 1)], CodeSettings()).sums
    exact, bound = (assessment._alone(small(), TEXTS, exact=exact, seconds=1e6) for exact in (True, False))
    np.testing.assert_array_equal(exact.sums, expected)
    assert not np.allclose(bound.sums, expected, rtol=1e-3)
