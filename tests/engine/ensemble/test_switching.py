"""Several ensembles are weighed by Bayes' rule, where the writer of a text may change at each token."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.gate import AverageGate, Expert
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import GatedAverage, average
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.ensemble.switching import CHANGES, Switching
from tests.engine.drafting.toys import PROCESS, PROMPT, Believes, Chain, Fixed, L, texts_of, write

GATE = AverageGate(("core", "small"), (0.6, 0.4), ((-1.0, 0.4, -0.3, 0.5, -2.0),), is_default=True)
ONE, OTHER = Expert("one", (0, 1), (0.6, 0.4), GATE), Expert("other", (0, 2), (0.5, 0.5))
BOTH = Switching((ONE, OTHER))


def predictions(members: int = 3, length: int = 4, rows: int = 2) -> list[Tensor]:
    """Log p (rows, length, 9)."""
    generator = torch.Generator().manual_seed(members)
    return list(torch.log_softmax(2 * torch.randn(members, rows, length, 9, generator=generator), -1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_text_has_the_probability_of_all_ways_in_which_the_ensembles_may_have_written_it(count: int) -> None:
    rule = Switching(tuple(Expert(str(k), (k,), (1.0,)) for k in range(count)))
    log_ps, tokens = predictions(count), torch.tensor([[3, 1, 4, 1], [5, 0, 2, 6]])
    said = rule.of_tokens(rule.opinions(log_ps, [False] * count), tokens)
    chances = rule.followed(rule.even(2, tokens.device), said)
    own = rule.pooled(log_ps, chances[:, :-1]).gather(-1, tokens[..., None])[..., 0]
    for row in range(2):
        whole = 0.0
        for writers in itertools.product(range(count), repeat=4):
            p = 1 / count
            for here, after in itertools.pairwise(writers):
                p *= CHANGES / count + (1 - CHANGES) * (here == after)
            whole += p * math.exp(sum(float(said[row, place, one]) for place, one in enumerate(writers)))
        assert float(own[row].sum()) == pytest.approx(math.log(whole), abs=1e-5)
    torch.testing.assert_close(chances.exp().sum(-1), torch.ones(2, 5))


def test_each_ensemble_combines_its_members_as_if_alone() -> None:
    core, small, memory = predictions()
    one, other = BOTH.opinions([core, small, memory], [False] * 3)
    assert torch.equal(one, GatedAverage(GATE)([core, small], GATE.weights))
    assert torch.equal(other, average([core, memory], [0.5, 0.5]))
    (alone,) = Switching((ONE,)).opinions([core, small], [False] * 2)
    torch.testing.assert_close(Switching((ONE,))([core, small], GATE.weights), alone)


def test_members_may_stand_in_another_order() -> None:
    log_ps, order = predictions(), [2, 0, 1]
    moved = [log_ps[order.index(place)] for place in range(3)]
    expected = Switching((ONE, OTHER)).opinions(log_ps, [False] * 3)
    found = Switching((ONE, OTHER)).among(order).opinions(moved, [False] * 3)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_of_an_ensemble_that_says_nothing_nothing_is_learnt_and_the_others_share_its_chance() -> None:
    rule = Switching((Expert("one", (0,), (1.0,)), Expert("other", (1,), (1.0,)), Expert("third", (2,), (1.0,))))
    log_ps = predictions()
    log_ps[2][:, 1] = math.nan
    tokens = torch.tensor([[3, 1, 4, 1], [5, 0, 2, 6]])
    chances = rule.followed(rule.even(2, tokens.device), rule.of_tokens(log_ps, tokens))
    kept = chances[:, 1, 2].exp() * (1 - CHANGES) + CHANGES / 3
    torch.testing.assert_close(chances[:, 2, 2].exp(), kept)
    shares = chances[:, 1, :2].softmax(-1)
    expected = average([log_ps[0][0, 1], log_ps[1][0, 1]], shares[0].tolist())
    torch.testing.assert_close(rule.pooled(log_ps, chances[:, :-1])[0, 1], expected)
    silent = [torch.full_like(log_p, math.nan) for log_p in log_ps]
    assert rule.pooled(silent, chances[:, :-1]).isnan().all()
    torch.testing.assert_close(
        rule.followed(rule.even(2, tokens.device), rule.of_tokens(silent, tokens))[:, -1], rule.even(2, tokens.device)
    )


def test_a_row_is_weighed_alone_as_among_others_bit_for_bit() -> None:
    log_ps, tokens = predictions(rows=5, length=7), torch.arange(35).view(5, 7) % 9
    said = BOTH.of_tokens(BOTH.opinions(log_ps, [False] * 3), tokens)
    chances = BOTH.followed(BOTH.even(5, tokens.device), said)
    for row in range(5):
        own = BOTH.of_tokens(BOTH.opinions([one[row : row + 1] for one in log_ps], [False] * 3), tokens[row : row + 1])
        assert torch.equal(BOTH.followed(BOTH.even(1, tokens.device), own)[0], chances[row])


def chains(seed: int = 0) -> list[tuple[Chain, float]]:
    return [(Chain(seed), 0.3), (Chain(seed + 1), 0.3), (Chain(seed + 2), 0.4)]


@pytest.mark.parametrize("most", [1, 3, L])
def test_a_draft_of_any_length_gives_the_text_of_none(most: int) -> None:
    plain = write(chains(), rule=BOTH, seeds=[3, 4, 5])
    texts = texts_of(plain)
    wrong = [[token if i % 3 else (token + 1) % 10 for i, token in enumerate(text)] for text in texts]
    for drafter in (Fixed(texts), Fixed(wrong), Believes(Chain().log_p[3])):
        assert texts_of(write(chains(), [drafter], most, rule=BOTH, seeds=[3, 4, 5])) == texts
    assert [texts_of(write(chains(), rule=BOTH, seeds=[seed]))[0] for seed in (3, 4, 5)] == texts


def test_each_token_is_weighed_by_the_text_before_it() -> None:
    steps = write(chains(), [Fixed([[1] * 24])], 3, rule=BOTH)
    (text,) = texts_of(steps)
    known, before = BOTH.even(1, torch.device("cpu")), PROMPT[-1]
    models = [one for one, _ in chains()]
    place = 0
    for step in steps:
        assert step.chances is not None
        for column in range(int(step.decided.sum())):
            assert step.chances[0, column].tolist() == pytest.approx(known[0].tolist(), abs=1e-5)
            opinions = BOTH.opinions([model.log_p[before][None] for model in models], [False] * 3)
            known = BOTH.followed(known, BOTH.of_tokens(opinions, torch.tensor([text[place]]))[None])[:, -1]
            before, place = text[place], place + 1
    assert place == len(text) == 3 * L


def test_a_block_that_is_clean_is_followed_token_by_token() -> None:
    members = tuple(Member(str(i), one, Constant(w)) for i, (one, w) in enumerate(chains()))
    ensemble, block = Ensemble(members, BOTH), torch.tensor([[3, 1, 4, 1, 5, 0, 2, 6]])  # type: ignore[arg-type]
    known = BOTH.even(1, block.device)
    found = ensemble.after_block(Lookahead.over(block, PROCESS), (torch.tensor([2]),) * 3, known)
    for before, token in itertools.pairwise([2, *block[0].tolist()]):
        opinions = BOTH.opinions([one.log_p[before][None] for one, _ in chains()], [False] * 3)
        known = BOTH.followed(known, BOTH.of_tokens(opinions, torch.tensor([token]))[None])[:, -1]
    assert found is not None
    torch.testing.assert_close(found, known)
