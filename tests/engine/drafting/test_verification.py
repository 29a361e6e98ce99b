"""Draft and verify: drafts change how fast a text is written, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.drafting.drafting import Drafting
from ssdcli.engine.sampling.characters import Characters
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.repetition import Repetition
from tests.engine.drafting.toys import END, MASK, PROMPT, Believes, Chain, Even, Fixed, L, V, lookup, texts_of, write

PICKERS = pytest.mark.parametrize(
    "picker",
    [Picker(0.0), Picker(), Picker(0.7, 0.9), Picker(1.3, min_p=0.1)],
    ids=["greedy", "all", "nucleus", "min-p"],
)
SEEDS = [3, 4, 5]


def wrong(texts: list[list[int]]) -> list[list[int]]:
    return [[(token + 1) % END for token in text] for text in texts]


def sometimes_wrong(texts: list[list[int]]) -> list[list[int]]:
    return [[token if i % 3 else (token + 1) % END for i, token in enumerate(text)] for text in texts]


@PICKERS
def test_every_draft_of_any_length_gives_the_text_of_none(picker):
    members, options = [(Chain(), 0.7), (Even(), 0.3)], {"picker": picker, "seeds": SEEDS}
    plain = texts_of(write(members, **options))
    assert [len(text) for text in plain] == [3 * L] * 3
    drafters = [Fixed(plain), Fixed(wrong(plain)), Fixed(sometimes_wrong(plain)), Believes(Chain().log_p[3]), lookup()]
    for drafter in drafters:
        for most in (1, 3, L):
            assert texts_of(write(members, [drafter], most, **options)) == plain
    assert texts_of(write(members, drafters, L, **options)) == plain


@PICKERS
def test_a_row_is_written_alone_as_among_others_in_the_same_steps(picker):
    members = [(Chain(), 0.6), (Even(), 0.4)]

    def rows(seeds: list[int]) -> list[tuple[list[int], int, int]]:
        steps = write(members, [lookup(), Believes(Chain().log_p[2])], 4, picker=picker, seeds=seeds)
        work = [
            (
                sum(bool(one.active[row]) for one in steps),
                sum(int(one.accepted[row]) for one in steps if one.active[row]),
            )
            for row in range(len(seeds))
        ]
        return [(text, *own) for text, own in zip(texts_of(steps), work, strict=True)]

    assert rows(SEEDS) == [rows([seed])[0] for seed in SEEDS]


def test_a_draft_that_is_drawn_takes_one_step_a_block_and_one_that_is_not_takes_one_a_token():
    core = [(Chain(), 1.0)]
    plain = texts_of(write(core))
    right = write(core, [Fixed(plain)], L)
    assert [int(step.accepted) for step in right] == [L - 1] * 3
    missed = write(core, [Fixed(wrong(plain))], L)
    assert len(missed) == 3 * L
    assert sum(int(step.accepted) for step in missed) == 0


def test_a_drafter_that_always_misses_is_hardly_asked():
    chain, always = Chain(), Fixed([[0] * 400])
    chain.log_p = chain.log_p.index_fill(1, torch.tensor([0]), -torch.inf).log_softmax(-1)
    steps = write([(chain, 1.0)], [always], L, max_tokens=400)
    assert len(steps) == 400
    assert always.drafted < 40 * L
    assert sum(int(step.drafted) for step in steps) < 50


def test_beside_rows_that_share_passes_less_is_drafted_and_the_texts_are_the_same():
    members = [(Chain(), 0.6), (Even(), 0.4)]

    def drafted(rows: int, **changes: Any) -> int:
        drafting = Drafting((Believes(Chain().log_p[2]),), (None,), L, cost=0.2, **changes)
        steps = write(members, rows=rows, drafting=drafting)
        assert texts_of(steps) == texts_of(write(members, rows=rows))
        return sum(int(step.drafted.sum()) for step in steps)

    assert 0 < drafted(2, adapts=lambda: True) < drafted(2)
    assert drafted(8, adapts=lambda: True) == 0 < drafted(8)
    alone = Drafting(cost=0.2, adapts=lambda: True)
    assert [round(alone.cost_beside(rows), 2) for rows in (1, 2, 8, 1000)] == [0.2, 0.33, 0.67, 1.0]


def test_drafts_do_not_bias_what_is_drawn():
    """Chi-square of pairs of tokens against the ensemble's own distribution, with drafts that are often accepted."""
    rows, picker = 6000, Picker(0.8, 0.85)
    chain, even = Chain(2, sharp=1.0), Even()
    steps = write([(chain, 0.7), (even, 0.3)], [Believes(chain.log_p[4])], 2, rows=rows, picker=picker, max_tokens=2)
    assert sum(int(step.accepted.sum()) for step in steps) > rows / 5
    flat = even.denoise(torch.zeros(1, 1, dtype=torch.int64), 1.0, None, None)[0, 0].exp()
    p = picker.probabilities(torch.log(0.7 * chain.log_p.exp() + 0.3 * flat))
    p = p / p.sum(-1, keepdim=True)
    assert_drawn(texts_of(steps), p[PROMPT[-1]][:, None] * p)


def assert_drawn(texts: Sequence[Sequence[int]], p: Tensor) -> None:
    """Texts of two tokens are drawn from p (V, V)."""
    pairs, expected = torch.tensor(texts), len(texts) * p
    seen = torch.zeros(V, V).index_put_((pairs[:, 0], pairs[:, 1]), torch.ones(len(texts)), accumulate=True)
    assert float(seen[expected == 0].sum()) == 0
    often = expected > 5
    statistic = float(((seen - expected) ** 2 / expected)[often].sum())
    freedom = int(often.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_nothing_is_written_after_an_end_or_beyond_the_last_token():
    core = [(Chain(1, ends=True), 1.0)]
    for seed in range(8):
        plain = write(core, seeds=[seed], max_tokens=13)
        (text,) = texts_of(plain)
        drafted = write(core, [Fixed([[*text, *[END] * 20]])], L, seeds=[seed], max_tokens=13)
        assert texts_of(drafted) == [text]
        assert len(text) <= 13 or END in text
        assert sum(int(step.accepted) for step in drafted) < max(len(text), 1)


def test_what_a_step_tells_is_of_the_positions_that_it_predicted():
    core = Chain()
    (plain,) = texts_of(write([(core, 1.0)], seeds=[7]))
    for step in write([(core, 1.0)], [Fixed([plain])], 3, seeds=[7]):
        start, before = int(step.first), [*PROMPT, *plain]
        assert step.log_p.shape[1] == int(step.drafted) + 1
        for column in range(int(step.drafted) + 1):
            place = step.block * L + start + column
            assert torch.equal(step.log_p[0, column], core.log_p[before[len(PROMPT) + place - 1]])
        assert int(step.decided.sum()) == int(step.accepted) + (0 if int(step.accepted) > int(step.drafted) else 1)


@pytest.mark.parametrize("repetition", [Repetition(1.5), Repetition(no_repeat=2), Repetition(1.2, 3)])
def test_less_repetition_is_that_of_the_text_without_drafts(repetition):
    members, options = [(Chain(), 0.8), (Even(), 0.2)], {"repetition": repetition, "seeds": SEEDS}
    plain = texts_of(write(members, **options))
    assert plain != texts_of(write(members, seeds=SEEDS))
    assert texts_of(write(members, [Fixed(plain)], L, **options)) == plain
    assert texts_of(write(members, [lookup()], L, **options)) == plain
    if repetition.no_repeat == 2:
        for text in plain:
            assert not {*pairwise(PROMPT)} & {*pairwise(text)}
            assert len({*pairwise(text)}) == len(text) - 1


class Twice:
    """Forbids the token that was written last."""

    def forbidden(self, written: Any) -> list[int]:
        return [written[-1]] if written else []


def test_a_limit_on_copies_holds_with_drafts():
    members = [(Chain(4), 1.0)]
    plain = texts_of(write(members, copies=(Twice(),) * 3, seeds=SEEDS))
    assert all(one != other for text in plain for one, other in pairwise(text))
    assert texts_of(write(members, [Fixed(plain)], L, copies=(Twice(),) * 3, seeds=SEEDS)) == plain


def test_bytes_that_are_no_utf8_are_not_written_and_drafts_change_nothing():
    parts = [b"a", b"\xc3", b"\xa4", b"b", b"\xe2\x82", b"\xac", b"c", b"d", b"e", b"f", b"", None]
    characters = Characters.of(parts, V)
    members, options = [(Chain(5), 0.7), (Even(), 0.3)], {"characters": characters, "seeds": [*SEEDS, 6, 7]}
    plain = texts_of(write(members, **options))
    for text in plain:
        written = b"".join(parts[token] or b"" for token in text).decode("utf-8", errors="replace")
        assert "\ufffd" not in written.rstrip("\ufffd")  # its last character may not be complete
    assert texts_of(write(members, [Fixed(sometimes_wrong(plain)), lookup()], L, **options)) == plain


@dataclass
class Likes:
    """A guide of one token after another; without favour it finds all alike."""

    scale: float = 1.0
    favour: float = 1.0
    asked: int = 0

    def push(self, log_p: Tensor, written: Tensor) -> Tensor:
        raise AssertionError("text from the left has no canvas to push")

    def judge(self, candidates: Tensor, before: Tensor) -> Tensor:
        self.asked += 1
        last = before[-1] if len(before) else torch.tensor(0)
        return -0.5 - self.favour * ((candidates + last) % 3)


@pytest.mark.parametrize("scale", [1.5, -1.0])
def test_guided_text_is_drawn_from_p_times_c_to_the_scale(scale):
    chain, guide = Chain(2, sharp=1.0), Likes(scale)
    steps = write([(chain, 1.0)], [Believes(chain.log_p[4])], 1, rows=3000, max_tokens=2, guides=(guide,))
    assert sum(int(step.accepted.sum()) for step in steps) > 0
    ids = torch.arange(V)
    liked = torch.stack([guide.judge(ids, last[None]) for last in ids])
    opening = torch.softmax(chain.log_p[PROMPT[-1]] + scale * guide.judge(ids, ids[:0]), -1)
    assert_drawn(texts_of(steps), opening[:, None] * torch.softmax(chain.log_p + scale * liked, -1))


def test_drafts_change_nothing_under_a_guide():
    members, options = [(Chain(), 0.7), (Even(), 0.3)], {"seeds": SEEDS, "guides": (Likes(3.0), Likes(-1.0, 2.0))}
    plain = texts_of(write(members, **options))
    assert plain != texts_of(write(members, seeds=SEEDS))
    for drafter in (Fixed(plain), Fixed(sometimes_wrong(plain)), lookup()):
        assert texts_of(write(members, [drafter], L, **options)) == plain


@pytest.mark.parametrize(("guide", "asked"), [(Likes(0.0), False), (Likes(5.0, favour=0.0), True)])
def test_a_guide_without_a_scale_or_an_opinion_changes_no_bit(guide, asked):
    members = [(Chain(), 0.7), (Even(), 0.3)]
    free, steered = write(members, seeds=SEEDS), write(members, seeds=SEEDS, guides=(guide,))
    for one, other in zip(free, steered, strict=True):
        assert torch.equal(one.canvas, other.canvas)
        assert torch.equal(one.log_p, other.log_p)
    assert (guide.asked > 0) == asked


@pytest.mark.parametrize("ends", [(0,), (-1,)])
def test_a_row_of_which_nothing_more_is_wanted_is_filled_with_tokens(ends: tuple[int, ...]) -> None:
    asked: list[int] = []

    def over() -> list[bool]:
        asked.append(1)
        return [len(asked) > 1, False]

    steps = write([(Chain(), 1.0)], rows=2, seeds=SEEDS[:2], ends=ends, over=over)
    assert all(int(step.canvas.min()) >= 0 for step in steps)
    left, going_on = ((steps[3].canvas[row] == MASK).sum() for row in range(2))
    assert left == 0 < going_on
