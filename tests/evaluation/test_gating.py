"""A gate that is fitted finds the weights of the least loss, as far as level and entropies tell of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.gate import FARTHEST, Gate
from ssdcli.engine.ensemble.rules import Gated
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.evaluation.canvases import CanvasSettings, canvas_losses
from ssdcli.evaluation.combinations import Combination, Positions, combined_losses
from ssdcli.evaluation.gating import ENOUGH, GateFitter, LossCurves, fit
from ssdcli.evaluation.losses import GRID, LossSettings, measure_combinations, shares
from tests.tiny import VOCABULARY, member, tiny_backbone

V, N = 11, 4000
FEW = 1000  # positions, where no estimate has to be exact
PROCESS = Simplex(VOCABULARY)


def drawn(scale: float = 2.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two members' log p, more and less sure from position to position, and the clean tokens."""
    generator = torch.Generator().manual_seed(seed)
    sureness = scale * torch.rand(2, N, 1, generator=generator)
    log_ps = torch.log_softmax(sureness * torch.randn(2, N, V, generator=generator), -1)
    return log_ps[0], log_ps[1], torch.randint(V, (N,), generator=generator)


@pytest.mark.parametrize("weight", [0.0, 0.03, 0.2, 0.55, 0.871, 1.0])
def test_losses_between_the_weights_of_the_grid_are_those_of_a_mixture(weight):
    core, small, tokens = drawn()
    found = LossCurves.of(core, small, tokens).at(torch.full((N,), weight, dtype=torch.float64))
    mixed = torch.log_softmax(torch.lerp(core, small, weight), -1).gather(1, tokens[:, None])[:, 0]
    assert (found + mixed).abs().max() < 1e-3


def test_an_excluded_token_costs_much_and_not_infinitely_much():
    core, small, tokens = drawn()
    core[torch.arange(N), tokens] = -math.inf
    core = torch.log_softmax(core, -1)
    curves = LossCurves.of(core, small, tokens)
    assert curves.nats.isfinite().all()
    assert curves.slopes.isfinite().all()
    assert float(curves.nats[:, 0].mean()) > 90


def test_a_gate_finds_the_odds_that_the_tokens_were_drawn_at():
    generator = torch.Generator().manual_seed(1)
    core, small, _ = drawn(6.0)
    levels = torch.rand(N, generator=generator)
    true = Gate(0.3, 1.5, 0.8, -0.7)
    combine = Gated(true.core, true.small)
    rows = [combine([core[i], small[i]], [s(float(levels[i])) for s in true.schedules()]).exp() for i in range(N)]
    fitter = GateFitter(PROCESS)
    for _ in range(4):
        tokens = torch.multinomial(torch.stack(rows), 1, generator=generator)[:, 0]
        combined_losses([core, small], Positions(tokens, levels, tokens), [fitter.combination()])
    found = fitter.gate()
    assert found.bias == pytest.approx(true.bias, abs=0.25)
    assert found.level == pytest.approx(true.level, abs=0.35)
    assert found.core == pytest.approx(true.core, abs=0.25)
    assert found.small == pytest.approx(true.small, abs=0.25)


def test_a_gate_loses_no_more_than_any_constant_weight_where_it_was_fitted():
    core, small, tokens = drawn(4.0)
    levels = torch.rand(N, generator=torch.Generator().manual_seed(2))
    positions = Positions(tokens, levels, tokens)
    fitter = GateFitter(PROCESS)
    combined_losses([core, small], positions, [fitter.combination()])
    gate = fitter.gate()
    gated = Combination(Gated(gate.core, gate.small), gate.schedules())
    *constant, found = combined_losses([core, small], positions, [*shares(GRID, 2, PROCESS), gated]).sum(0).tolist()
    assert found < min(constant)


@pytest.mark.parametrize("count", [1, 3])
def test_little_text_gives_a_gate_of_modest_numbers(count):
    core, small, tokens = (column[:count] for column in drawn())
    columns = torch.stack([torch.ones(count), torch.zeros(count), entropy(core), entropy(small)], 1).double()
    found = fit(LossCurves.of(core, small, tokens), columns, torch.ones(count, dtype=torch.float64))
    assert found.abs().max() < 3


def test_too_few_positions_give_none():
    for count in (0, ENOUGH - 1, ENOUGH):
        fitter = GateFitter(PROCESS)
        core, small, tokens = (column[:count] for column in drawn())
        combined_losses([core, small], Positions(tokens, torch.rand(count), tokens), [fitter.combination()])
        assert (fitter.gate() is None) == (count < ENOUGH)


def test_it_watches_two_of_several_members_at_a_share_of_the_positions():
    core, small, tokens = drawn()
    positions = Positions(tokens, torch.rand(N), tokens)
    other = torch.full((N, V), math.nan)
    fitter = GateFitter(PROCESS, share=0.25)
    losses = combined_losses([other, small, core], positions, [fitter.combination(("base", "small", "core"))])
    assert losses.abs().max() == 0
    assert 0.2 * N < sum(map(len, fitter._due)) < 0.3 * N
    assert max(map(abs, vars(fitter.gate()).values())) < FARTHEST


def test_roles_tell_the_fitter_who_is_who_whatever_the_order():
    core, small, tokens = drawn()
    positions = Positions(tokens, torch.rand(N), tokens)
    usual, swapped = GateFitter(PROCESS), GateFitter(PROCESS)
    combined_losses([core, small], positions, [usual.combination()])
    combined_losses([small, core], positions, [swapped.combination(("small", "core"))])
    assert usual.gate() == swapped.gate()


def test_positions_that_the_process_does_not_weigh_leave_the_gate_as_it_is():
    generator = torch.Generator().manual_seed(3)
    core, small, tokens = (column[:FEW] for column in drawn(4.0))
    process, levels = Masked(V, 0), torch.rand(FEW, generator=generator)
    hidden = torch.rand(FEW, generator=generator) < levels
    tokens = torch.where(hidden, tokens, small.argmax(-1)).clamp(min=1)  # those that are shown would favour one member
    positions = Positions(tokens, levels, torch.where(hidden, 0, tokens))
    gates = []
    for rows in (torch.arange(FEW), hidden.nonzero()[:, 0]):
        fitter = GateFitter(process)
        combined_losses([core[rows], small[rows]], positions.rows(rows), [fitter.combination()])
        gates.append(vars(fitter.gate()))
    assert gates[0] == pytest.approx(gates[1], abs=1e-3)


def test_a_position_counts_as_often_as_it_is_weighed():
    core, small, tokens = (column[:FEW] for column in drawn(4.0))
    columns = torch.stack([torch.ones(FEW), entropy(core), entropy(small)], 1).double()
    curves, counts = LossCurves.of(core, small, tokens), torch.arange(FEW) % 4
    repeated = torch.arange(FEW).repeat_interleave(counts)
    found = fit(curves, columns, counts.double())
    expected = fit(curves.rows(repeated), columns[repeated], torch.ones(len(repeated), dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    alike = fit(curves, columns, torch.ones(FEW, dtype=torch.float64))
    assert (found - alike).abs().max() > 1e-2


def test_whole_texts_and_canvases_are_watched_and_their_losses_stay(documents):
    heldout = documents(*[40] * 12, vocabulary=VOCABULARY)
    models = [tiny_backbone(seed, process="simplex") for seed in (0, 1)]
    measured = [
        lambda extra: measure_combinations(models, PROCESS, heldout, [mixture, *extra], LossSettings(16)),
        lambda extra: canvas_losses(
            [member("", Denoiser(model, PROCESS)) for model in models],
            heldout,
            [mixture, *extra],
            CanvasSettings(rounds=9),
        ),
    ]
    (mixture,) = shares([0.4], 2, PROCESS)
    for measure in measured:
        fitter = GateFitter(PROCESS)
        watched = measure([fitter.combination()]).over([0.4])
        np.testing.assert_allclose(watched.sums, measure([]).sums, rtol=1e-6)
        assert fitter.gate() is not None
