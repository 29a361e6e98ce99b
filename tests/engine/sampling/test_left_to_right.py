"""Left-to-right unmasking, and masked samplers beside members that abstain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.ensemble import Ensemble, Prediction
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, contrast, mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice, reverse_process
from ssdcli.engine.steps import SamplerConfig

V, L = 3, 3
MASK = V
PROCESS = Masked(V + 1, mask_id=MASK)
SAMPLERS = pytest.mark.parametrize("name", catalogue.names(catalogue.samplers("masked")))
TEXTS = torch.tensor(list(itertools.product(range(V), repeat=L)))


def table(*shape: int, seed: int) -> Tensor:
    """Random log p, with the mask excluded."""
    logits = 1.5 * torch.randn(*shape, V + 1, generator=torch.Generator().manual_seed(seed))
    logits[..., MASK] = -math.inf
    return torch.log_softmax(logits, dim=-1)


class Toy:
    """A member that reads nothing but the canvas."""

    def __init__(self, predict: Callable[[Tensor], Tensor], abstains: bool = False) -> None:
        self.predict, self.abstains, self.called = predict, abstains, 0

    def start(self, prompts: Sequence[Prompt]) -> tuple[()]:
        return ()

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: tuple[()]) -> Tensor:
        self.called += 1
        return self.predict(canvas)

    def commit(self, tokens: Tensor, prefix: tuple[()]) -> tuple[()]:
        return ()


def causal(seed: int = 1) -> Toy:
    """Predicts the leftmost hidden position by the two tokens before it, and abstains elsewhere."""
    by_two = table(V + 1, V + 1, seed=seed)

    def predict(canvas: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(canvas, (2, 0), value=MASK)
        log_p = by_two[padded[:, :L], padded[:, 1 : L + 1]]
        hidden = canvas == MASK
        return log_p.masked_fill(~(hidden & (hidden.cumsum(1) == 1))[..., None], math.nan)

    return Toy(predict, abstains=True)


def both_sides(seed: int = 2) -> Toy:
    """Predicts each position by its neighbours, hidden or not."""
    by_neighbours = table(V + 1, V + 1, seed=seed)

    def predict(canvas: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(canvas, (1, 1), value=MASK)
        return by_neighbours[padded[:, :L], padded[:, 2:]]

    return Toy(predict)


def run(members: Sequence[tuple[Toy, float]], rows: int, choice: Choice, rule: Any = mix) -> Tensor:
    """The texts that members with weights write: (rows, L)."""
    ensemble = Ensemble(tuple(Member(f"m{i}", toy, Constant(w)) for i, (toy, w) in enumerate(members)), rule)
    config = SamplerConfig(L, L, (-1,), Picker())
    prompts = [[Prompt([0])] * rows] * len(members)
    reverse = reverse_process(PROCESS, choice)
    *_, last = sample(ensemble, reverse, prompts, range(rows), config)
    return last.canvas


def exact(members: Sequence[tuple[Toy, float]], rule: Any) -> Tensor:
    """The probability of each text when every token is drawn by the rule, given those to its left: (V ** L,)."""
    total = torch.zeros(len(TEXTS), dtype=torch.float64)
    for place in range(L):
        canvas = TEXTS.masked_fill(torch.arange(L) >= place, MASK)
        said = rule([toy.predict(canvas)[:, place] for toy, _ in members], [weight for _, weight in members])
        total += said.double().gather(1, TEXTS[:, place, None])[:, 0]
    return total.exp()


def assert_drawn_from(texts: Tensor, p: Tensor) -> None:
    """Pearson's chi-square, which must stay below its 0.9999 quantile (approximated by Wilson and Hilferty)."""
    counts = torch.bincount((texts * torch.tensor([V**2, V, 1])).sum(1), minlength=len(p)).double()
    rare = p * len(texts) < 10  # together one more class
    counts, expected = (torch.cat([n[~rare], n[rare].sum()[None]]) for n in (counts, p * len(texts)))
    statistic, degrees = float(((counts - expected) ** 2 / expected.clamp(min=1)).sum()), len(counts) - 1
    assert degrees > 8
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 3.72 * math.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize("rule", [mix, average], ids=["mix", "average"])
def test_one_position_a_step_draws_from_the_exact_distribution_of_the_ensemble(rule):
    members = [(causal(), 0.6), (both_sides(), 0.4)]
    p = exact(members, rule)
    assert float(p.sum()) == pytest.approx(1)
    assert_drawn_from(run(members, 20_000, Choice("left-to-right"), rule), p)


def test_a_contrast_beside_a_causal_core_is_exact_too():
    members = [(causal(), 1.0), (both_sides(), 0.5), (both_sides(seed=3), -0.5)]
    assert_drawn_from(run(members, 20_000, Choice("left-to-right"), contrast), exact(members, contrast))


@SAMPLERS
def test_a_causal_core_alone_is_exact_by_every_sampler(name):
    """It predicts one position, and no other is revealed."""
    members = [(causal(), 1.0)]
    texts = run(members, 20_000, Choice(name)) if name == "left-to-right" else by_hand(name, 20_000)
    assert_drawn_from(texts, exact(members, mix))


def by_hand(name: str, rows: int) -> Tensor:
    """Texts of the causal toy by a sampler that has as many steps as positions."""
    sampler, toy, noise = reverse_process(PROCESS, Choice(name)).sampler, causal(), CounterNoise(range(rows))
    canvas = PROCESS.prior(L, noise)
    for place in range(L):
        s = torch.full((rows,), 1 - (place + 1) / L, dtype=torch.float64)
        said = Prediction(PROCESS.carry_over(canvas, toy.predict(canvas)))
        canvas = sampler.step(canvas, said, (1 - place / L, s), Picker(), noise.derive(place))
    return canvas


@SAMPLERS
def test_nothing_is_revealed_where_nobody_predicts(name):
    sampler = reverse_process(PROCESS, Choice(name)).sampler
    canvas = torch.tensor([[MASK, MASK, MASK], [1, MASK, MASK]])
    log_p = PROCESS.carry_over(canvas, table(2, L, seed=4).masked_fill(canvas[..., None] == MASK, math.nan))
    times = (0.5, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(sampler.step(canvas, Prediction(log_p), times, Picker(top_p=0.9), CounterNoise([1, 2])), canvas)


def test_the_leftmost_hidden_position_is_revealed_first_and_alone():
    sampler = reverse_process(PROCESS, Choice("left-to-right")).sampler
    canvas = torch.tensor([[MASK, MASK, MASK], [1, MASK, MASK], [MASK, 2, MASK]])
    said = Prediction(PROCESS.carry_over(canvas, table(3, L, seed=5)))
    after = sampler.step(canvas, said, (0.9, torch.full((3,), 0.9).double()), Picker(), CounterNoise(range(3)))
    assert (after != MASK).tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def sure(*likeliest: Sequence[float]) -> Tensor:
    """Log p of one row, whose likeliest tokens have these probabilities; NaN where a member abstains."""
    p = torch.tensor([[[q, *[(1 - q) / 2] * 2, 0.0] for q in likeliest]])
    return p.log()


@pytest.mark.parametrize(
    ("core", "small", "revealed"),
    [
        ((0.5, 0.95, 0.95), (0.5, 0.95, 0.95), 3),
        ((0.5, 0.95, 0.95), (0.5, 0.6, 0.95), 1),
        ((0.5, 0.95, 0.6), (0.5, 0.95, 0.95), 2),
        ((0.5, math.nan, math.nan), (0.99, 0.99, 0.99), 1),
    ],
)
def test_further_positions_need_every_member_to_be_sure(core, small, revealed):
    sampler = reverse_process(PROCESS, Choice("left-to-right", 0.9)).sampler
    by_member = (sure(*core), sure(*small), sure(0.4, 0.4, 0.4))
    canvas = torch.full((1, L), MASK)
    said = Prediction(by_member[1], by_member, (0.5, 0.5, -0.5))  # a base need not be sure
    after = sampler.step(canvas, said, (0.9, torch.tensor([0.9]).double()), Picker(), CounterNoise([1]))
    assert (after != MASK).tolist() == [[place < revealed for place in range(L)]]


def test_a_member_of_weight_zero_is_never_called():
    idle, core = both_sides(), causal()
    texts = run([(core, 1.0), (idle, 0.0)], 10, Choice("left-to-right"))
    assert idle.called == 0
    assert torch.equal(texts, run([(causal(), 1.0)], 10, Choice("left-to-right")))


def test_a_row_is_what_it_is_alone_though_others_are_further():
    members = [(causal(), 0.6), (both_sides(), 0.4)]
    together = run(members, 6, Choice("left-to-right", 0.5))
    ensemble = Ensemble(tuple(Member(f"m{i}", toy, Constant(w)) for i, (toy, w) in enumerate(members)))
    for row in range(6):
        reverse, config = reverse_process(PROCESS, Choice("left-to-right", 0.5)), SamplerConfig(L, L, (-1,), Picker())
        *_, last = sample(ensemble, reverse, [[Prompt([0])]] * 2, [row], config)
        assert torch.equal(last.canvas[0], together[row])
