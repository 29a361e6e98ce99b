"""A gate that is fitted to what members said recovers known weights, and wins only where positions differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.ensemble.gate import PUBLIC_GATE, AverageGate
from ssdcli.engine.ensemble.members import Role
from ssdcli.engine.ensemble.rules import average
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.evaluation.combinations import Combination, Positions, combined_losses
from ssdcli.evaluation.joint_gate import (
    ENOUGH,
    GateObserver,
    Observations,
    Tops,
    constant_nats,
    fit_confidence,
    fit_joint_gate,
    fit_joint_gates,
    gate_results,
    gated_nats,
    with_memory,
)

BOTH: tuple[Role, ...] = ("core", "memory")
ALL: tuple[Role, ...] = ("core", "small", "memory")


def seen(shares: Tensor, entropies: Tensor, members: Sequence[Role], texts: int = 10, seed: int = 0) -> Observations:
    """What members said of tokens, each drawn by the member that these shares (N, M) choose at its position."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.multinomial(shares, 1, generator=generator)[:, 0]
    said = torch.full_like(shares, 0.01, dtype=torch.float64)
    said[torch.arange(len(said)), own] = 0.5
    return Observations(tuple(members), said.log(), entropies.double(), torch.arange(len(said)) % texts)


def test_constant_weights_are_those_that_drew_the_text() -> None:
    shares = torch.tensor([0.6, 0.3, 0.1]).expand(6000, 3)
    found = fit_joint_gate(seen(shares, torch.full((6000, 3), 2.0), ALL))
    assert found.gate.weights == pytest.approx([0.6, 0.3, 0.1], abs=0.04)
    assert sum(found.gate.weights) == pytest.approx(1)


def drawn_by_entropy(count: int = 6000, texts: int = 10) -> Observations:
    """Tokens that the memory draws where it is sure, and else the core."""
    entropies = 0.2 + 4 * torch.rand(count, 2, generator=torch.Generator().manual_seed(1))
    own = torch.sigmoid(4 - 2 * entropies[:, 1])
    return seen(torch.stack([1 - own, own], 1), entropies, BOTH, texts)


def test_a_gate_wins_where_entropies_tell_who_is_right() -> None:
    found = fit_joint_gate(drawn_by_entropy())
    assert found.gate.is_default
    assert found.oracle.sum() < found.gated.sum() < found.constant.sum()
    assert found.nats is found.gated


@pytest.mark.parametrize("seed", range(3))
def test_a_gate_does_not_win_where_entropies_tell_nothing(seed: int) -> None:
    entropies = 0.2 + 4 * torch.rand(3000, 2, generator=torch.Generator().manual_seed(seed))
    found = fit_joint_gate(seen(torch.tensor([0.7, 0.3]).expand(3000, 2), entropies, BOTH, seed=seed))
    assert not found.gate.is_default
    assert found.nats is found.constant
    assert found.gated.sum() == pytest.approx(found.constant.sum(), rel=0.02)


def test_what_it_is_worth_is_measured_on_texts_that_it_was_not_fitted_to() -> None:
    observed = drawn_by_entropy(500, texts=5)
    found = fit_joint_gate(observed)
    one = observed.texts == 2
    other = fit_joint_gate(observed.rows(~one)).gate
    assert found.gated[2] == pytest.approx(float(gated_nats(other, observed.rows(one)).sum()), rel=1e-4)
    assert found.constant[2] == pytest.approx(float(constant_nats(other.weights, observed.rows(one)).sum()), rel=1e-4)
    assert found.oracle.sum() == pytest.approx(-float(observed.log_p.amax(1).sum()))


def test_a_single_text_cannot_tell_whether_a_gate_wins() -> None:
    assert not fit_joint_gate(drawn_by_entropy(texts=1)).gate.is_default


def test_a_memory_that_little_is_known_of_is_weighed_by_the_public_gate() -> None:
    few = drawn_by_entropy(5, texts=5)
    (row,) = fit_joint_gate(few).gate.coefficients
    (known,) = PUBLIC_GATE.coefficients
    assert row == pytest.approx(known, abs=0.5)
    (much,) = fit_joint_gate(drawn_by_entropy()).gate.coefficients
    assert max(abs(a - b) for a, b in zip(much, known, strict=True)) > 0.5


def test_in_a_larger_set_a_memory_keeps_the_public_numbers_of_the_core_and_its_own() -> None:
    entropies = torch.full((4, 3), 2.0)
    found = fit_joint_gate(seen(torch.tensor([1.0, 0.0, 0.0]).expand(4, 3), entropies, ALL, texts=4))
    (bias, core, own, sure_core, sure_own) = PUBLIC_GATE.coefficients[0]
    assert found.gate.coefficients[1] == pytest.approx([bias, core, 0, own, sure_core, 0, sure_own], abs=0.5)


def test_there_is_a_gate_for_each_set_of_members_the_largest_first() -> None:
    shares = torch.tensor([0.6, 0.3, 0.1]).expand(200, 3)
    fitted = fit_joint_gates(seen(shares, torch.full((200, 3), 2.0), ALL))
    assert [one.gate.members for one in fitted] == [ALL, ("core", "small"), ("core", "memory")]
    assert fit_joint_gates(None) == ()


def test_a_memory_that_no_gate_could_be_fitted_for_has_the_public_one() -> None:
    three, two = with_memory(())
    assert (three.members, three.is_default, two) == (ALL, True, PUBLIC_GATE)
    assert sum(three.weights) == pytest.approx(1)
    (bias, core, own, sure_core, sure_own) = PUBLIC_GATE.coefficients[0]
    assert three.coefficients[1] == pytest.approx([bias, core, 0, own, sure_core, 0, sure_own])


@pytest.mark.parametrize(
    ("won", "expected"), [(True, (-1.0, 0.1, 0.2, 0, 0.3, 0.4, 0)), (False, (math.log(1.5), *[0] * 6))]
)
def test_beside_such_a_memory_a_small_model_is_weighed_as_without_it(won: bool, expected: tuple[float, ...]) -> None:
    small = AverageGate(("core", "small"), (0.4, 0.6), ((-1.0, 0.1, 0.2, 0.3, 0.4),), won)
    three, kept, two = with_memory((small,))
    assert (kept, two) == (small, PUBLIC_GATE)
    assert three.coefficients[0] == pytest.approx(expected)
    assert three.weights == pytest.approx((0.83 * 0.4, 0.83 * 0.6, 0.17))


def test_gates_that_were_fitted_stay() -> None:
    shares = torch.tensor([0.6, 0.3, 0.1]).expand(200, 3)
    fitted = tuple(one.gate for one in fit_joint_gates(seen(shares, torch.full((200, 3), 2.0), ALL)))
    assert with_memory(fitted) == fitted


def test_results_are_in_bits_per_byte_of_each_text() -> None:
    found = fit_joint_gate(drawn_by_entropy(500, texts=5))
    (result,) = gate_results([found], np.full(5, 50))
    assert result.gated.value == pytest.approx(found.gated.sum() / math.log(2) / 250)
    assert result.to_json()["members"] == ["core", "memory"]


def observed(core: Tensor, memory: Tensor, tokens: Tensor, *, abstain: bool = False) -> GateObserver:
    observer = GateObserver(BOTH)
    combination: Combination = observer.combination(("core", "small", "memory"))
    small = torch.full_like(core, math.nan)
    levels = torch.ones(len(tokens))
    for text, rows in enumerate(torch.arange(len(tokens)).chunk(2)):
        positions = Positions(tokens[rows], levels[rows], tokens[rows], text)
        losses = combined_losses(
            [core[rows], small[rows], memory[rows]], positions, [combination], [False, True, abstain]
        )
        assert losses.tolist() == [[0.0]] * len(rows)
    return observer


def test_an_observer_notes_what_members_said_of_the_clean_tokens_where_all_predict() -> None:
    generator = torch.Generator().manual_seed(0)
    core, memory = torch.log_softmax(torch.randn(2, 2 * ENOUGH, 5, generator=generator), -1)
    memory[::2] = math.nan
    tokens = torch.randint(5, (2 * ENOUGH,), generator=generator)
    found = observed(core, memory, tokens, abstain=True).observations()
    assert found is not None
    both = torch.stack([core, memory], 1)[1::2]
    rows = tokens[1::2, None, None].expand(-1, 2, 1)
    torch.testing.assert_close(found.log_p, both.gather(-1, rows)[..., 0].double())
    torch.testing.assert_close(found.entropies, torch.stack([entropy(core), entropy(memory)], 1)[1::2].double())
    assert found.texts.tolist() == [0] * (ENOUGH // 2) + [1] * (ENOUGH // 2)


def test_an_observer_notes_the_likeliest_tokens_of_the_average() -> None:
    generator = torch.Generator().manual_seed(0)
    core, memory = torch.log_softmax(3 * torch.randn(2, 2 * ENOUGH, 9, generator=generator), -1)
    tokens = torch.randint(9, (2 * ENOUGH,), generator=generator)
    found = observed(core, memory, tokens).observations()
    assert found is not None
    assert found.tops is not None
    together = average([core, memory], [0.3, 0.7]).double()
    said, place = torch.logsumexp(found.tops.log_p + torch.tensor([0.3, 0.7]).double().log(), -1).max(1)
    torch.testing.assert_close(said, together.amax(1), rtol=1e-5, atol=1e-5)
    right = found.tops.right.gather(1, place[:, None])[:, 0]
    assert right.tolist() == (together.argmax(1) == tokens).tolist()
    alone = found.of(("memory",)).rows(found.texts == 0).tops
    assert alone is not None
    torch.testing.assert_close(alone.log_p.amax((1, 2)), memory[:ENOUGH].amax(1).double())


@pytest.mark.parametrize(("offset", "slope"), [(-0.6, 0.7), (0.4, 1.3)])
def test_a_confidence_is_the_one_by_which_likeliest_tokens_are_right(offset: float, slope: float) -> None:
    generator = torch.Generator().manual_seed(2)
    p = 0.02 + 0.96 * torch.rand(8000, 1, 1, generator=generator).double().expand(-1, 1, 2)
    chance = torch.sigmoid(offset + slope * torch.logit(p[:, :, 0]))
    right = torch.rand(chance.shape, generator=generator) < chance
    said = seen(torch.tensor([0.7, 0.3]).expand(8000, 2), torch.full((8000, 2), 2.0), BOTH)
    found = fit_joint_gate(replace(said, tops=Tops(p.log(), right))).gate.confidence
    assert found is not None
    assert (found.offset, found.slope) == (pytest.approx(offset, abs=0.1), pytest.approx(slope, abs=0.1))


def test_where_correcting_it_does_not_win_a_confidence_is_the_probability() -> None:
    said = seen(torch.tensor([0.7, 0.3]).expand(4, 2), torch.full((4, 2), 2.0), BOTH)
    assert fit_joint_gate(said).gate.confidence is None
    generator = torch.Generator().manual_seed(3)
    p = 0.02 + 0.96 * torch.rand(2000, generator=generator).double()
    right, texts = torch.rand(2000, generator=generator) < p, torch.arange(2000) % 10
    assert fit_confidence(p, right, texts) == Confidence()
    assert fit_confidence(p, ~right, texts).slope < 0.5
    assert fit_confidence(p, ~right, torch.zeros_like(texts)) == Confidence()  # a single text cannot tell


def test_too_few_positions_are_no_observations() -> None:
    log_p = torch.full((ENOUGH - 2, 5), -math.log(5))
    assert observed(log_p, log_p, torch.zeros(ENOUGH - 2, dtype=torch.long)).observations() is None


def test_constant_nats_are_those_of_the_average() -> None:
    log_ps = torch.log_softmax(torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)), -1)
    said = Observations(BOTH, log_ps[..., 0].T.double(), torch.zeros(7, 2), torch.zeros(7, dtype=torch.long))
    together = average(list(log_ps), [0.3, 0.7])
    torch.testing.assert_close(constant_nats([0.3, 0.7], said).float(), -together[..., 0])
    running = Combination(average, (Constant(0.3), Constant(0.7)))
    positions = Positions(torch.zeros(7, dtype=torch.long), torch.ones(7), torch.zeros(7, dtype=torch.long))
    torch.testing.assert_close(combined_losses(list(log_ps), positions, [running])[:, 0], -together[..., 0])


def test_an_average_gate_of_the_constants_costs_the_same() -> None:
    weights = (0.7, 0.3)
    flat = AverageGate(BOTH, weights, ((math.log(0.3 / 0.7), 0, 0, 0, 0),))
    said = drawn_by_entropy(50)
    torch.testing.assert_close(gated_nats(flat, said), constant_nats(weights, said))
