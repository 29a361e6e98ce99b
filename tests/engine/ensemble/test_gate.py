"""A gate's average is the average with its weights at each position, wherever all of its members predict."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.gate import PUBLIC_GATE, AverageGate, Gate, gate_of
from ssdcli.engine.ensemble.members import Member, Role
from ssdcli.engine.ensemble.rules import Gated, GatedAverage, average, gated, log_shares
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.sampling.nucleus import entropy

ROLES: tuple[Role, ...] = ("core", "small", "memory")
GATE = AverageGate(
    ROLES, (0.5, 0.3, 0.2), ((-1.0, 0.4, -0.3, 0.1, 0.5, -2.0, 1.0), (-2.0, 0.2, 0.3, -0.6, 1.5, 0.0, 3.0))
)


def predictions(seed: int = 0, members: int = 3) -> list[Tensor]:
    """Log p (2, 4, 9) of members that are surer at some positions than at others."""
    generator = torch.Generator().manual_seed(seed)
    scale = 4 * torch.rand(members, 2, 4, 1, generator=generator)
    return list(torch.log_softmax(scale * torch.randn(members, 2, 4, 9, generator=generator), -1))


def test_it_is_the_average_with_the_softmax_of_the_scores_at_each_position() -> None:
    log_ps = predictions()
    combined = GatedAverage(GATE)(log_ps, GATE.weights)
    for place in [(0, 0), (1, 3)]:
        entropies = [-float((log_p[place].exp() * log_p[place]).sum()) for log_p in log_ps]
        features = [1.0, *entropies, *(math.exp(-h) for h in entropies)]
        scores = [0.0, *(sum(c * f for c, f in zip(row, features, strict=True)) for row in GATE.coefficients)]
        weights = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        expected = sum(w * log_p[place].exp() for w, log_p in zip(weights, log_ps, strict=True))
        torch.testing.assert_close(combined[place].exp(), expected)


def test_without_coefficients_all_members_weigh_alike() -> None:
    level = AverageGate(ROLES, (0.6, 0.2, 0.2), ((0.0,) * 7,) * 2)
    log_ps = predictions()
    torch.testing.assert_close(GatedAverage(level)(log_ps, level.weights), average(log_ps, [1.0] * 3))


def test_the_position_of_a_prediction_does_not_matter() -> None:
    log_ps = predictions()
    whole = GatedAverage(GATE)(log_ps, GATE.weights)
    for row in range(2):
        assert torch.equal(GatedAverage(GATE)([log_p[row] for log_p in log_ps], GATE.weights), whole[row])


class Says:
    """Predicts what it was given, and abstains where that is NaN."""

    abstains = True

    def __init__(self, log_p: Tensor) -> None:
        self.log_p = log_p


def test_where_a_member_abstains_the_others_share_their_constant_weights() -> None:
    core, small, memory = predictions()
    memory[0, 1:] = math.nan
    core[:, 2:] = math.nan
    members = tuple(
        Member(role, Says(log_p), Constant(w), role)
        for role, log_p, w in zip(ROLES, (core, small, memory), GATE.weights, strict=True)
    )
    ensemble = Ensemble(members, GatedAverage(GATE))  # type: ignore[arg-type]
    combined = ensemble.combine([core, small, memory], GATE.weights)
    both = average([core[0, 1], small[0, 1]], GATE.weights[:2])
    torch.testing.assert_close(combined[0, 1], both)
    torch.testing.assert_close(combined[0, 2], small[0, 2])
    torch.testing.assert_close(combined[1, 2], average([small[1, 2], memory[1, 2]], GATE.weights[1:]))
    every = GatedAverage(GATE)([one[1, 0] for one in (core, small, memory)], GATE.weights)
    assert torch.equal(combined[1, 0], every)


def test_a_sure_memory_decides_and_an_unsure_one_is_not_heard() -> None:
    core = torch.log_softmax(torch.randn(9, generator=torch.Generator().manual_seed(0)), -1)
    sure = torch.log_softmax(torch.tensor([9.0] + [0.0] * 8), -1)
    unsure = torch.full((9,), -math.log(9))
    own = [
        float(log_shares(PUBLIC_GATE, torch.stack([entropy(core), entropy(memory)]))[1].exp())
        for memory in (sure, unsure)
    ]
    assert own[0] > 0.5
    assert own[1] < 0.1


def test_a_gate_is_found_by_the_members_that_it_was_fitted_for() -> None:
    assert gate_of([GATE, PUBLIC_GATE], ("core", "memory")) is PUBLIC_GATE
    assert gate_of([GATE, PUBLIC_GATE], ("core", "small")) is None
    assert isinstance(gated(GATE), GatedAverage)
    assert isinstance(gated(Gate(0, 0, 0, 0)), Gated)


@pytest.mark.parametrize(
    ("weights", "rows"),
    [((0.5, 0.5), GATE.coefficients), (GATE.weights, GATE.coefficients[:1]), (GATE.weights, ((0.0,) * 5,) * 2)],
)
def test_a_gate_that_does_not_fit_its_members_is_refused(
    weights: tuple[float, ...], rows: tuple[tuple[float, ...], ...]
) -> None:
    with pytest.raises(ValueError, match="a gate of 3 members has rows of 7 coefficients"):
        AverageGate(ROLES, weights, rows)
