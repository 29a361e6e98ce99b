from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.losses import (
    GRID,
    LEVELS,
    Losses,
    LossSettings,
    Pace,
    answer_blocks,
    best_weight,
    level_bin,
    measure,
    measure_combinations,
)
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM

V, MASK = 5, 4
SIMPLEX, MASKED = Simplex(V), Masked(V, MASK)
PROCESSES = pytest.mark.parametrize("process", [SIMPLEX, MASKED], ids=["simplex", "masked"])
P = [0.1, 0.2, 0.3, 0.4, 0.0]
Q = [0.4, 0.1, 0.4, 0.1, 0.0]


def real_model(process: Any, seed: int) -> BlockDiffusionLM:
    timed = process.name == "simplex"
    config = BackboneConfig(V, 32, 1, 16, block_size=4, timed=timed, self_conditioned=timed, suppressed=(MASK,))
    torch.manual_seed(seed)
    model = BlockDiffusionLM(config).requires_grad_(False)
    model.table.mul_(10)
    return model


def code_length(one_text: ScoredText, p: list[float]) -> float:
    """The nats of a document's tokens but the given first, under these probabilities."""
    return -sum(math.log(p[token]) for token in one_text.tokens[1:])


@pytest.mark.parametrize("window", [4, 8, 12, 40])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_windows_score_every_token_of_a_document_once(unconditional, documents, window, batch):
    """The simplex objective weighs each token by one: what an unconditional model loses is known exactly."""
    heldout = documents(1, 7, 8, 9, 31, 100)
    losses = measure([unconditional(P)], SIMPLEX, heldout, [0.0], LossSettings(window, batch=batch))
    assert losses.sums.shape == (6, 1)
    expected = [code_length(one_text, P) for one_text in heldout]
    np.testing.assert_allclose(losses.sums[:, 0], expected, rtol=1e-5)
    assert losses.tokens.tolist() == [1, 7, 8, 9, 31, 100]
    assert losses.bytes.tolist() == [3, 15, 17, 19, 63, 201]


def test_the_masked_loss_is_the_code_length_in_the_mean(unconditional, documents):
    heldout = documents(*[11] * 40)
    settings = LossSettings(window=12, repeats=40, batch=64)
    losses = measure([unconditional(P)], MASKED, heldout, [0.0], settings)
    errors = losses.sums[:, 0] - [code_length(one_text, P) for one_text in heldout]
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(40)
    assert errors.std() < 0.25 * losses.sums.mean()  # such that the mean says something


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_mixture_is_the_renormalised_product_of_powers(unconditional, documents, share):
    heldout = documents(9, 30)
    members = [unconditional(P), unconditional(Q)]
    mixed = [Combination(mix, (Constant(1 - share), Constant(share)))]
    losses = measure_combinations(members, SIMPLEX, heldout, mixed, LossSettings(8))
    product = [p ** (1 - share) * q**share for p, q in zip(P, Q, strict=True)]
    product[MASK] = 0.0
    mixture = [x / sum(product) for x in product]
    expected = [code_length(one_text, mixture) for one_text in heldout]
    np.testing.assert_allclose(losses.sums[:, 0], expected, rtol=1e-5)


@PROCESSES
def test_a_mixture_at_weight_zero_and_one_is_a_single_member(process, documents):
    heldout = documents(9, 30, 3)
    core, small = real_model(process, 1), real_model(process, 2)
    settings = LossSettings(8)
    both = measure([core, small], process, heldout, [0.0, 0.5, 1.0], settings)
    alone = [measure([member], process, heldout, [0.0], settings).sums[:, 0] for member in (core, small)]
    np.testing.assert_allclose(both.sums[:, 0], alone[0], rtol=1e-6)
    np.testing.assert_allclose(both.sums[:, 2], alone[1], rtol=1e-6)
    assert (both.sums[:, 1] != both.sums[:, 0]).all()
    assert (alone[0] != alone[1]).all()


@PROCESSES
def test_a_member_mixed_with_itself_is_itself(process, documents):
    model = real_model(process, 1)
    sums = measure([model, model], process, documents(9, 30), [0.0, 0.3, 1.0], LossSettings(8)).sums
    np.testing.assert_allclose(sums[:, 1], sums[:, 0], rtol=1e-5)
    np.testing.assert_allclose(sums[:, 2], sums[:, 0], rtol=1e-6)


@PROCESSES
def test_a_measurement_repeats_itself_whatever_is_measured_together(process, documents):
    heldout = documents(9, 30, 14, 3)
    model = real_model(process, 1)
    first = measure([model], process, heldout, [0.0], LossSettings(8)).sums
    np.testing.assert_array_equal(measure([model], process, heldout, [0.0], LossSettings(8)).sums, first)
    for other in (LossSettings(8, batch=1), LossSettings(8, batch=3)):
        np.testing.assert_allclose(measure([model], process, heldout, [0.0], other).sums, first, rtol=1e-4)
    fewer = measure([model], process, heldout[:2], [0.0], LossSettings(8)).sums
    np.testing.assert_allclose(fewer, first[:2], rtol=1e-4)
    seeded = measure([model], process, heldout, [0.0], LossSettings(8, seed=1)).sums
    assert (seeded != first).all()


def test_repeats_are_averaged_and_differ(documents):
    heldout, model = documents(*[15] * 30), real_model(MASKED, 1)
    spread = []
    for repeats in (1, 16):
        runs = [
            measure([model], MASKED, heldout, [0.0], LossSettings(16, repeats, seed, batch=64)).sums[:, 0]
            for seed in range(3)
        ]
        spread.append(np.std(runs, axis=0).mean())
    assert spread[1] < 0.5 * spread[0]


def test_a_prediction_sees_the_text_before_its_block_and_not_the_text_after():
    """A changed token changes the losses of its own block and the later ones in its window, and no others."""
    model = real_model(MASKED, 1)
    base = [0, 1, 2, 3, 1, 2, 3, 0, 1, 2, 3, 2]

    def losses(tokens: list[int]) -> list[float]:
        # A prefix of the text loses the same as the whole text's first part: the differences are blocks' losses.
        return [
            float(measure([model], MASKED, [ScoredText(tokens[:end], 1)], [0.0], LossSettings(12, 8)).sums[0, 0])
            for end in (4, 8, 12)
        ]

    before, after = np.diff(losses(base), prepend=0), np.diff(losses([*base[:5], 3, *base[6:]]), prepend=0)
    assert before[0] == pytest.approx(after[0], rel=1e-6)
    assert before[1] != pytest.approx(after[1], rel=1e-5)
    assert before[2] != pytest.approx(after[2], rel=1e-5)


def test_nats_per_token_and_bits_per_byte_are_of_all_documents_together():
    losses = Losses(np.array([0.0, 1.0]), np.array([[8.0, 4.0], [2.0, 6.0]]), np.array([4, 1]), np.array([10, 10]))
    assert losses.nats_per_token().tolist() == [2, 2]
    np.testing.assert_allclose(losses.bits_per_byte(), [0.5 / math.log(2)] * 2)


def test_the_column_of_a_weight_is_the_nearest():
    losses = Losses(np.linspace(0, 1, 11), np.zeros((1, 11)), np.ones(1, dtype=int), np.ones(1, dtype=int))
    assert [losses.place(i / 10) for i in range(11)] == list(range(11))
    assert losses.place(0.1 + 0.2) == 3


@PROCESSES
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_bins_of_levels_add_up_to_the_whole(process, batch, documents):
    heldout = documents(9, 30, 3, 100)
    members = [real_model(process, 1), real_model(process, 2)]
    losses = measure(members, process, heldout, [0.0, 0.4, 1.0], LossSettings(8, batch=batch))
    np.testing.assert_allclose(losses.level_sums.sum(0), losses.sums.sum(0), rtol=1e-5)
    assert losses.level_tokens.sum() == pytest.approx(losses.tokens.sum())


class OnlyAt(Masked):
    """The masked process, of which only the losses at the levels of one bin count."""

    chosen_bin = 0

    def loss_weights(self, canvas: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return super().loss_weights(canvas, t) * (level_bin(t) == self.chosen_bin)


def test_a_bin_of_levels_is_what_a_measurement_of_them_alone_finds(documents):
    heldout, members = documents(9, 30, 60), [real_model(MASKED, 1), real_model(MASKED, 2)]
    weights, settings = [0.0, 0.4, 1.0], LossSettings(8)
    losses = measure(members, MASKED, heldout, weights, settings)
    alone = OnlyAt(V, MASK)
    for chosen_bin in range(LEVELS):
        object.__setattr__(alone, "chosen_bin", chosen_bin)
        expected = measure(members, alone, heldout, weights, settings).sums.sum(0)
        np.testing.assert_allclose(losses.level_sums[chosen_bin], expected, rtol=1e-5)
    assert (losses.level_sums > 0).all(1).sum() >= LEVELS - 2


def test_a_model_that_looks_at_nothing_loses_the_same_at_every_level(unconditional, documents):
    """The simplex objective weighs each token by one."""
    heldout = [ScoredText([0] + [2] * 400, 400)]
    losses = measure([unconditional(P)], SIMPLEX, heldout, [0.0], LossSettings(40))
    np.testing.assert_allclose(losses.nats_by_level(), -math.log(P[2]), rtol=1e-5)


def test_a_level_that_no_token_was_noised_to_has_no_loss_and_an_infinite_one_stays_where_it_is(
    unconditional, documents
):
    losses = measure(
        [unconditional([0.5, 0.5, 0.0, 0.0, 0.0])], SIMPLEX, [ScoredText([0, 2], 1)], [0.0], LossSettings(4)
    )
    assert np.isnan(losses.nats_by_level()).sum() >= LEVELS - 2
    assert np.isinf(losses.level_sums).sum() in (1, 2)
    assert not np.isnan(losses.level_sums).any()
    assert np.isinf(losses.sums).all()


def test_bins_are_of_equal_width_and_take_in_both_ends():
    assert level_bin(torch.tensor([0.0, 0.05, 0.1001, 0.55, 0.9999, 1.0])).tolist() == [0, 0, 1, 5, 9, 9]


@pytest.mark.parametrize("window", [4, 8, 40])
def test_of_a_conversation_the_answers_alone_are_scored(unconditional, documents, window):
    (text,) = documents(30)
    scored = [place in {3, 4, 5, 6, 7, 20, 30} for place in range(31)]
    talk = ScoredText(text.tokens, 9, scored=scored)
    losses = measure([unconditional(P)], SIMPLEX, [talk, text], [0.0], LossSettings(window))
    expected = -sum(math.log(P[token]) for token, counts in zip(text.tokens, scored, strict=True) if counts)
    np.testing.assert_allclose(losses.sums[:, 0], [expected, code_length(text, P)], rtol=1e-5)
    assert losses.tokens.tolist() == [7, 30]
    assert losses.level_tokens.sum() == pytest.approx(37)


@PROCESSES
def test_an_answer_is_read_after_all_that_was_given_and_after_nothing_that_follows_it(process, documents):
    (text,) = documents(20)
    scored = [10 <= place < 13 for place in range(21)]

    def loss(changed: int | None) -> float:
        tokens = [(token + 1) % 4 if place == changed else token for place, token in enumerate(text.tokens)]
        heldout = [ScoredText(tokens, 9, scored=scored)]
        return float(measure([real_model(process, 0)], process, heldout, [0.0], LossSettings(24, 8)).sums[0, 0])

    assert all(loss(place) != loss(None) for place in (1, 8, 9))
    assert all(loss(place) == loss(None) for place in (14, 17, 20))


@pytest.mark.parametrize(
    ("scored", "blocks"),
    [
        ("..xx", [0, 0, 1, 1]),
        (".....xxxxx", [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]),
        ("xx......xx", [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]),
        ("xx.x", [0, 0, 0, 1]),
        ("..xxxxx.........", [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4]),
        ("....", [0, 0, 0, 0]),
    ],
)
def test_an_answer_begins_a_block_and_what_is_given_fills_its_last_one_and_ends_one(scored, blocks):
    assert answer_blocks([mark == "x" for mark in scored], 4) == blocks


class Hurry(Pace):
    """Time that is over after the k-th look at the clock."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        object.__setattr__(self, "left", [None] * looks)
        object.__setattr__(self, "shares", [])

    def goes_on(self, began: float, share: float) -> bool:
        self.shares.append(share)
        del self.left[:1]
        return bool(self.left)


@pytest.mark.parametrize(("looks", "whole"), [(1, 1), (5, 1), (6, 2), (11, 2), (12, 3)])
def test_when_the_time_is_over_the_documents_that_are_measured_whole_count(looks, whole, documents):
    heldout, model = documents(30, 9, 40, 14), real_model(MASKED, 1)
    everything = measure([model], MASKED, heldout, [0.0], LossSettings(8, batch=2))
    hurry = Hurry(looks)
    found = measure([model], MASKED, heldout, [0.0], LossSettings(8, batch=2, pace=hurry))
    assert len(found.tokens) == whole
    np.testing.assert_allclose(found.sums, everything.sums[:whole], rtol=1e-4)
    np.testing.assert_allclose(found.level_sums.sum(0), found.sums.sum(0), rtol=1e-5)
    assert found.level_tokens.sum() == pytest.approx(found.tokens.sum())
    assert hurry.shares == sorted(hurry.shares)


def test_progress_goes_from_nothing_to_all(documents):
    shares: list[float] = []
    pace = Pace(on_progress=shares.append)
    measure([real_model(MASKED, 1)], MASKED, documents(30, 9, 40), [0.0], LossSettings(8, batch=2, pace=pace))
    assert shares == sorted(shares)
    assert shares[0] < 1
    assert shares[-1] == 1


def test_a_pace_tells_of_work_or_of_time_whichever_is_further_on():
    shares: list[float] = []
    pace = Pace(100.0, shares.append)
    now = time.monotonic()
    assert pace.goes_on(now, 0.3)
    assert pace.goes_on(now - 50, 0.3)
    assert not pace.goes_on(now - 101, 0.3)
    assert shares == [0.3, pytest.approx(0.5, abs=0.01), 1.0]


ONES, TWOS = [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]


def test_the_grid_goes_from_the_core_alone_to_the_small_model_alone():
    assert pytest.approx(np.linspace(0, 1, 11)) == GRID
    assert (GRID[0], GRID[-1]) == (0, 1)


@pytest.mark.parametrize(
    ("ones", "twos", "best"),
    [
        pytest.param(8, 8, 0.5, id="each knows half"),
        pytest.param(0, 16, 1.0, id="the small model knows all"),
        pytest.param(16, 0, 0.1, id="the core knows all, but the small model always takes part"),
    ],
)
def test_the_best_weight_is_the_one_of_the_least_loss(unconditional, ones, twos, best):
    heldout = [ScoredText([0, *[1, 2] * min(ones, twos), *[1] * (ones - twos), *[2] * (twos - ones)], 16)] * 2
    losses = measure([unconditional(ONES), unconditional(TWOS)], Simplex(3), heldout, GRID, LossSettings(8))
    assert best_weight(losses) == best
    nats = losses.nats_per_token()
    assert nats[losses.place(best)] == nats[1:].min()
