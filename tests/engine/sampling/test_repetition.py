from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling import repetition as repetition_module
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.repetition import KnownText, Repetition, SharedText

V = 5
IDS = st.integers(0, V - 1)
MAYBE = st.one_of(IDS, IDS, st.just(-1))
SEEDS = st.integers(0, 2**31)


def random_log_p(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(-1)


def text_of(before: list[int], canvas: list[int], after: list[int] | None = None) -> KnownText:
    """One row: what precedes a canvas, what it shows, and the tokens after a gap; -1 stands for an unknown one."""
    known = [None if token < 0 else token for token in after or []]
    shared = SharedText.of([Prompt(before, known, gap=len(canvas))])
    row = torch.tensor([canvas])
    return shared.around(torch.empty((1, 0), dtype=torch.int64), row, row >= 0)


def applied(repetition: Repetition, log_p: Tensor, text: KnownText) -> Tensor:
    """With repetition held down at every position."""
    return repetition.apply(log_p, text, torch.ones_like(text.canvas, dtype=torch.bool))


def excluded(text: KnownText, n: int, vocabulary: int = V) -> set[tuple[int, int]]:
    """The positions and tokens that are impossible."""
    even = torch.zeros(1, text.length, vocabulary).log_softmax(-1)
    return {
        (place, token) for _, place, token in applied(Repetition(no_repeat=n), even, text).isneginf().nonzero().tolist()
    }


# What transformers does


@given(tokens=st.lists(IDS, max_size=12), penalty=st.floats(0.3, 3), seed=SEEDS)
def test_the_penalty_is_that_of_transformers_on_logits_that_are_zero_where_a_token_is_as_likely_as_any(
    tokens, penalty, seed
):
    log_p = random_log_p(1, 1, V, seed=seed)
    ids = torch.tensor([tokens], dtype=torch.int64)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, log_p[0] + math.log(V)).log_softmax(-1)
    found = applied(Repetition(penalty=penalty), log_p, text_of(tokens, [-1]))
    torch.testing.assert_close(found[0], expected)


@given(tokens=st.lists(st.integers(0, 2), max_size=14), n=st.integers(1, 5), seed=SEEDS)
def test_the_n_grams_are_those_of_transformers_at_the_first_position(tokens, n, seed):
    log_p = random_log_p(1, 3, V, seed=seed)
    ids = torch.tensor([tokens], dtype=torch.int64)
    expected = NoRepeatNGramLogitsProcessor(n)(ids, log_p[:, 0]).log_softmax(-1)
    found = applied(Repetition(no_repeat=n), log_p, text_of(tokens, [-1] * 3))
    torch.testing.assert_close(found[:, 0], expected)
    if n > 1:  # left neighbours of the others are not known
        assert torch.equal(found[:, 1:], log_p[:, 1:])


@given(tokens=st.lists(st.integers(0, 2), max_size=14), penalty=st.floats(0.5, 2), n=st.integers(1, 4), seed=SEEDS)
def test_the_penalty_comes_before_the_n_grams(tokens, penalty, n, seed):
    log_p = random_log_p(1, 1, V, seed=seed)
    ids = torch.tensor([tokens], dtype=torch.int64)
    logits = RepetitionPenaltyLogitsProcessor(penalty)(ids, log_p[0] + math.log(V))
    expected = NoRepeatNGramLogitsProcessor(n)(ids, logits).log_softmax(-1)
    found = applied(Repetition(penalty, n), log_p, text_of(tokens, [-1]))
    torch.testing.assert_close(found[0], expected)


@given(
    temperature=st.floats(0.3, 3),
    top_p=st.sampled_from([0.31, 0.77, 0.93, 1.0]),
    min_p=st.floats(0, 1),
    vocabulary=st.sampled_from([1, 4, 300]),
    seed=SEEDS,
)
def test_tokens_are_drawn_as_by_the_warpers_of_transformers(temperature, top_p, min_p, vocabulary, seed):
    log_p = random_log_p(6, vocabulary, seed=seed)
    logits = TemperatureLogitsWarper(temperature)(None, log_p)
    for warper in (TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)):
        logits = warper(None, logits)
    p = Picker(temperature, top_p, min_p).probabilities(log_p)
    torch.testing.assert_close(p / p.sum(-1, keepdim=True), logits.softmax(-1))


# What holds on a canvas that is filled in any order


def repeats(tokens: list[int], i: int, j: int, n: int) -> bool:
    """Whether the tokens around i are those around j in some n-gram, all of whose tokens are known."""
    for first in range(i - n + 1, i + 1):
        one, other = range(first, first + n), range(first + j - i, first + j - i + n)
        if min(one[0], other[0]) >= 0 and max(one[-1], other[-1]) < len(tokens):
            pairs = [(tokens[a], tokens[b]) for a, b in zip(one, other, strict=True)]
            if all(a == b >= 0 for a, b in pairs):
                return True
    return False


@settings(max_examples=300)
@given(
    before=st.lists(st.integers(0, 2), max_size=6),
    canvas=st.lists(st.one_of(st.integers(0, 2), st.just(-1)), min_size=1, max_size=6),
    after=st.lists(st.one_of(st.integers(0, 2), st.just(-1)), max_size=4),
    n=st.integers(1, 4),
)
def test_excluded_are_just_the_tokens_that_would_complete_a_repeated_n_gram(before, canvas, after, n):
    """Of two copies that the canvas shows, the later one alone is excluded."""
    tokens, start, end = [*before, *canvas, -1, *after], len(before), len(before) + len(canvas)
    expected = set()
    for i, token in itertools.product(range(start, end), range(3)):
        changed = [*tokens[:i], token, *tokens[i + 1 :]]
        columns = [j for j in range(len(tokens)) if j != i and not (tokens[i] == token and i < j < end)]
        if any(repeats(changed, i, j, n) for j in columns):
            expected.add((i - start, token))
    assert excluded(text_of(before, canvas, after), n) == expected


def test_an_n_gram_is_completed_from_the_right_and_in_the_middle():
    assert excluded(text_of([0, 1, 2, 3], [-1, 1, 2]), 3) == {(0, 0)}
    assert excluded(text_of([0, 1, 2, 3], [0, -1, 2]), 3) == {(1, 1)}
    assert excluded(text_of([4, 4], [0, -1, 2], [0, 1, 2]), 3) == {(1, 1)}
    assert excluded(text_of([0, 1, 2, 3], [-1, -1, 2]), 3) == set()


def test_a_token_may_complete_two_n_grams_that_both_contain_it():
    assert excluded(text_of([], [0, 0, -1, 0]), 3) == {(2, 0)}


def test_what_follows_a_gap_does_not_follow_the_canvas():
    assert excluded(text_of([0, 1, 2], [0, -1], [2, 4]), 3) == set()


def test_where_no_token_would_be_left_all_stay():
    log_p = random_log_p(1, 1, 2)
    assert torch.equal(applied(Repetition(no_repeat=1), log_p, text_of([0, 1], [-1])), log_p)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_token_that_is_certain_stays_certain(n):
    certain = torch.full((1, 3, V), -math.inf)
    certain[0, range(3), [1, 2, 1]] = 0
    found = applied(Repetition(1.3, n), certain, text_of([1, 2, 1, 2, 1], [1, 2, 1]))
    assert torch.equal(found, certain)


@pytest.mark.parametrize("repetition", [Repetition(1.2), Repetition(0.8), Repetition(no_repeat=2), Repetition(1.1, 1)])
def test_where_nobody_predicts_nothing_is_predicted(repetition):
    log_p = torch.cat([random_log_p(1, 1, V), torch.full((1, 2, V), math.nan)], dim=1)
    found = applied(repetition, log_p, text_of([1, 2, 1], [-1, -1, -1]))
    assert found[:, 1:].isnan().all()
    assert not found[:, 0].isnan().any()


def test_a_token_is_not_penalised_for_the_position_that_shows_it():
    log_p = random_log_p(1, 3, V)
    alone, twice = Repetition(1.5), text_of([], [2, -1, 2])
    assert torch.equal(
        applied(alone, log_p, text_of([], [2, -1, -1]))[0, 0], (log_p + math.log(V)).log_softmax(-1)[0, 0]
    )
    found = applied(alone, log_p, twice)
    expected = applied(alone, log_p, text_of([2], [-1, -1, -1]))
    torch.testing.assert_close(found, expected)


@given(penalty=st.floats(0.3, 3), n=st.integers(0, 3), seed=SEEDS)
def test_what_is_left_is_a_distribution(penalty, n, seed):
    log_p = random_log_p(1, 4, V, seed=seed)
    found = applied(Repetition(penalty, n), log_p, text_of([1, 2, 1, 0, 1], [-1, 2, -1, -1]))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(1, 4))


@given(
    rows=st.lists(st.tuples(st.lists(IDS, max_size=7), st.lists(MAYBE, max_size=4)), min_size=1, max_size=4),
    canvas=st.lists(MAYBE, min_size=3, max_size=3),
    n=st.integers(0, 3),
)
def test_a_row_is_to_the_bit_what_it_is_alone(rows, canvas, n):
    log_p = random_log_p(len(rows), 3, V)
    repetition, shown = Repetition(1.2, n), torch.tensor([canvas] * len(rows))
    written = torch.arange(len(rows))[:, None] % V

    def rows_of(first: int, last: int) -> Tensor:
        prompts = [
            Prompt(before, [None if token < 0 else token for token in after], 3) for before, after in rows[first:last]
        ]
        part = shown[first:last]
        text = SharedText.of(prompts).around(written[first:last], part, part >= 0)
        return applied(repetition, log_p[first:last], text)

    together = rows_of(0, len(rows))
    for row in range(len(rows)):
        assert torch.equal(rows_of(row, row + 1)[0], together[row])


def test_only_open_positions_change():
    log_p, text = random_log_p(1, 4, V), text_of([1, 2, 1], [2, -1, 1, -1])
    for repetition in (Repetition(1.5), Repetition(no_repeat=1), Repetition(1.5, 1)):
        open_ = text.canvas < 0
        found = repetition.apply(log_p, text, open_)
        assert torch.equal(found[open_], applied(repetition, log_p, text)[open_])
        assert torch.equal(found[~open_], log_p[~open_])
        assert not torch.equal(found[open_], log_p[open_])


def test_on_a_device_all_positions_are_computed_to_the_same_result(monkeypatch):
    """On a GPU the host cannot ask which positions are open."""
    text = text_of([1, 2, 1, 2], [2, -1, 1, -1])
    log_p = torch.cat([random_log_p(1, 3, V), torch.full((1, 1, V), math.nan)], dim=1)
    for repetition in (Repetition(1.5), Repetition(no_repeat=1), Repetition(1.5, 2)):
        expected = applied(repetition, log_p, text)
        with monkeypatch.context() as patched:
            patched.setattr(repetition_module, "readable", lambda x: False)
            torch.testing.assert_close(applied(repetition, log_p, text), expected, rtol=0, atol=0, equal_nan=True)


def test_off_is_neither_a_penalty_nor_n_grams():
    assert Repetition().off
    assert not Repetition(penalty=1.1).off
    assert not Repetition(no_repeat=8).off
