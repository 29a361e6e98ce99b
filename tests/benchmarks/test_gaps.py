from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.lib.columns import Columns
from benchmarks.lib.gaps import (
    Gap,
    GapLosses,
    GapSettings,
    Viewer,
    choose_gaps,
    combined,
    left_side,
    measure,
    steady,
)
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.rules import average, contrast
from ssdcli.engine.ensemble.schedules import sharing
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.combinations import Combination, alone
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from tests import tiny

V, MASK, BLOCK = 6, 5, 4
PROCESSES = pytest.mark.parametrize("process", [Masked(V, MASK), Simplex(V)], ids=["masked", "simplex"])
P = [0.1, 0.2, 0.3, 0.3, 0.1, 0.0]


def both_sides(gap: Gap) -> Prompt:
    """What a model is shown when it fills a gap."""
    return Prompt(gap.before, gap.after, len(gap.canvas))


VIEWS = [left_side, both_sides]


def measure_gaps(denoiser: Any, gaps: list[Gap], views: list[Any], settings: GapSettings) -> GapLosses:
    """Measure one model under several views of the same noised canvases."""
    each = [alone(place, len(views)) for place in range(len(views))]
    return measure([Viewer(denoiser, view) for view in views], each, gaps, settings)


def settings(text: int = BLOCK, **changes: Any) -> GapSettings:
    return GapSettings(BLOCK, text, **({"left": 12, "right": 8} | changes))


def real(process: Any) -> Denoiser:
    """A model with lively random weights."""
    timed = process.timed
    config = BackboneConfig(V, 32, 1, 16, BLOCK, 64, timed=timed, self_conditioned=timed, suppressed=(MASK,))
    torch.manual_seed(0)
    model = BlockDiffusionLM(config).requires_grad_(False).eval()
    model.table.mul_(10)
    return Denoiser(model, process)


class Constant:
    """Predicts P everywhere, and keeps what it was shown."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.backbone = type("Backbone", (), {"device": torch.device("cpu")})()
        self.prompts: list[Prompt] = []
        self.levels: list[float] = []
        self.canvases: list[torch.Tensor] = []

    def start(self, prompts: list[Prompt]) -> None:
        self.prompts += prompts

    def denoise(self, canvas: torch.Tensor, t: float, previous: Any, prefix: None) -> torch.Tensor:
        assert previous is None
        self.levels.append(t)
        self.canvases.append(canvas)
        return torch.tensor(P).log().expand(*canvas.shape[:2], -1)


@pytest.mark.parametrize("text", [1, 3, BLOCK])
def test_a_gap_is_a_part_of_its_document_between_what_stands_around_it(documents, text):
    heldout = documents(*[30] * 40)
    for gap in choose_gaps(heldout, settings(text, left=1000, right=1000)):
        tokens = heldout[gap.document].tokens
        assert [*gap.before, *gap.canvas[:text], *gap.after] == list(tokens)
        assert gap.length == text
        assert len(gap.before) > 0
        assert len(gap.after) > 0


def test_a_text_shorter_than_its_gap_is_followed_by_the_beginning_of_another_document(documents):
    heldout = documents(20, 1, 20)
    first, last = (gap.canvas for gap in choose_gaps(heldout, settings(1)) if len(gap.canvas) == BLOCK)
    assert first[1:] == [0, heldout[1].tokens[1], 0]  # and of that one again, where it is too short
    assert last[1:] == heldout[0].tokens[:3]


def test_the_sides_are_cut_to_what_is_next_to_the_gap(documents):
    heldout = documents(*[30] * 40)
    whole = choose_gaps(heldout, settings(left=1000, right=1000))
    for gap, cut in zip(whole, choose_gaps(heldout, settings(left=5, right=3)), strict=True):
        assert (cut.before, cut.after) == (gap.before[-5:], gap.after[:3])
        assert cut.canvas == gap.canvas


def test_gaps_are_anywhere_and_documents_without_room_have_none(documents):
    gaps = choose_gaps(documents(*[8] * 500), settings(left=100))
    starts = np.bincount([len(gap.before) for gap in gaps], minlength=5)
    assert starts[0] == 0
    assert len(starts) == 5  # 1 to 4 tokens of 9 come before a gap of 4 with one behind it
    assert all(abs(n - 125) < 4.5 * math.sqrt(500 * 3 / 16) for n in starts[1:])
    assert [gap.document for gap in choose_gaps(documents(4, 5, 3, 9), settings(per_document=2))] == [1, 1, 3, 3]
    assert choose_gaps([], settings()) == []


def test_more_gaps_of_a_document_differ_and_the_first_stays(documents):
    heldout = documents(*[50] * 10)
    one, three = (choose_gaps(heldout, settings(per_document=n)) for n in (1, 3))
    assert three[::3] == one
    assert len({gap.key for gap in three}) == 30
    assert choose_gaps(heldout, settings(seed=1)) != one


@pytest.mark.parametrize("text", [1, 3, BLOCK])
def test_the_loss_of_a_model_that_always_says_the_same_is_known_exactly(documents, text):
    heldout = documents(*[30] * 7, 2)
    gaps = choose_gaps(heldout, settings(text, per_document=2))
    losses = measure_gaps(Constant(Simplex(V)), gaps, VIEWS, settings(text, batch=3))
    assert losses.sums.shape == (8 if text == 1 else 7, 2, 8)
    for document, sums in enumerate(losses.sums):
        own = [token for gap in gaps if gap.document == document for token in gap.canvas[:text]]
        np.testing.assert_allclose(sums, -sum(math.log(P[token]) for token in own), rtol=1e-5)
        assert losses.tokens[document] == 2 * text


def test_the_masked_loss_is_the_code_length_in_the_mean(documents):
    gaps = choose_gaps(documents(*[11] * 400), settings())
    losses = measure_gaps(Constant(Masked(V, MASK)), gaps, [left_side], settings(levels=16, batch=64))
    expected = -np.array([sum(math.log(P[token]) for token in gap.canvas) for gap in gaps])
    errors = losses.sums[:, 0].mean(-1) - expected
    assert abs(errors.mean()) < 4 * errors.std() / 20
    assert errors.std() < 0.5 * expected.mean()


def test_levels_cover_the_unit_interval_evenly_and_all_views_see_the_same_canvases(documents):
    constant = Constant(Simplex(V))
    gaps = choose_gaps(documents(*[30] * 4), settings())
    losses = measure_gaps(constant, gaps, VIEWS, settings(levels=10))
    np.testing.assert_allclose(np.diff(losses.levels), 0.1)
    assert 0 < losses.levels[0] < 0.1
    assert constant.levels == [level for level in losses.levels for _ in VIEWS]
    assert constant.prompts == [view(gap) for view in VIEWS for gap in gaps]
    for one, other in zip(constant.canvases[::2], constant.canvases[1::2], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(constant.canvases[0], constant.canvases[2])


def test_every_level_has_noise_of_its_own(documents):
    constant = Constant(Masked(V, MASK))
    measure_gaps(constant, choose_gaps(documents(*[30] * 16), settings()), [left_side], settings())
    hidden = [canvas == MASK for canvas in constant.canvases]
    assert any((low & ~high).any() for low, high in pairwise(hidden))


@PROCESSES
def test_a_gap_loses_what_denoising_it_by_hand_does(documents, process):
    denoiser = real(process)
    gap = choose_gaps(documents(30), settings(3))[0]
    losses = measure_gaps(denoiser, [gap], VIEWS, settings(3, levels=2))
    tokens = torch.tensor([gap.canvas])
    for place, level in enumerate(losses.levels.tolist()):
        constant = Constant(process)
        measure_gaps(constant, [gap], [left_side], settings(3, levels=2))
        canvas = constant.canvases[place]
        for view, prompt in enumerate([Prompt(gap.before), Prompt(gap.before, gap.after, BLOCK)]):
            log_p = denoiser.denoise(canvas, level, None, denoiser.start([prompt]))
            weights = process.loss_weights(canvas, torch.full(tokens.shape, level))
            missed = -(log_p.gather(-1, tokens[..., None])[0, :, 0] * weights[0])[:3]
            assert losses.sums[0, view, place] == pytest.approx(float(missed.sum()), rel=1e-5)


@PROCESSES
def test_a_measurement_does_not_depend_on_what_is_measured_together(documents, process):
    denoiser, gaps = real(process), choose_gaps(documents(9, 30, 14, 60), settings())
    first = measure_gaps(denoiser, gaps, VIEWS, settings()).sums
    assert (first[:, 0] != first[:, 1]).any(-1).all()
    for other in (
        measure_gaps(denoiser, gaps, VIEWS, settings(batch=1)),
        measure_gaps(denoiser, gaps, VIEWS, settings(batch=3)),
    ):
        np.testing.assert_allclose(other.sums, first, rtol=1e-4)
    np.testing.assert_allclose(measure_gaps(denoiser, gaps[2:], VIEWS[1:], settings()).sums, first[2:, 1:], rtol=1e-4)
    assert (measure_gaps(denoiser, gaps, VIEWS, settings(seed=1)).sums != first).any()


def made_up(documents: int = 300) -> GapLosses:
    """Losses of documents with different numbers of gaps, in two views that go up and down together."""
    random = np.random.default_rng(0)
    tokens = random.integers(4, 100, documents)
    own = random.normal(3, 0.5, (documents, 1, 1)) + random.normal(0, 0.05, (documents, 2, 4)) + [[0.0], [-0.2]]
    return GapLosses(np.array([0.1, 0.4, 0.6, 0.9]), own * tokens[:, None, None], tokens)


def bootstrap(losses: GapLosses, statistic: Any) -> float:
    random = np.random.default_rng(1)
    drawn = (random.integers(len(losses.tokens), size=len(losses.tokens)) for _ in range(2000))
    columns = losses.columns()
    return float(np.std([statistic(Columns(columns.sums[d], columns.tokens[d])) for d in drawn]))


def test_errors_are_those_of_a_bootstrap_over_documents():
    losses = made_up()
    columns = losses.columns()
    mean, error = columns.loss(0)
    assert mean == pytest.approx(losses.sums[:, 0].sum() / losses.tokens.sum() / 4)
    assert error == pytest.approx(bootstrap(losses, lambda drawn: drawn.loss(0)[0]), rel=0.06)
    gain, paired = columns.gain(1, over=0)
    assert gain == pytest.approx(columns.loss(0)[0] - columns.loss(1)[0])
    assert gain == pytest.approx(0.2, abs=4 * paired)
    assert paired == pytest.approx(bootstrap(losses, lambda drawn: drawn.gain(1, over=0)[0]), rel=0.06)
    assert paired < 0.3 * error


# Combinations of viewers

NAMES = ("core", "small", "seeing")
TINY = GapSettings(tiny.BLOCK, tiny.BLOCK, left=16, right=8, per_document=2, levels=3, batch=3)
TINY_PROCESSES = pytest.mark.parametrize(
    "process", [Masked(tiny.VOCABULARY, 1), Simplex(tiny.VOCABULARY)], ids=["masked", "simplex"]
)


def tiny_gaps() -> list[Gap]:
    draws = np.random.default_rng(0)
    return choose_gaps([ScoredText([0, *draws.integers(3, 40, 30 + 7 * number)], 1) for number in range(3)], TINY)


def viewers(process: Process) -> list[Viewer]:
    """A core, a small model, and the small model once more, shown both sides."""
    core, small = (Denoiser(tiny.tiny_backbone(seed, process=process.name), process) for seed in (0, 1))
    return [Viewer(core, left_side), Viewer(small, left_side), Viewer(small, both_sides)]


def measured(process: Process, *combinations: Combination) -> np.ndarray:
    return measure(viewers(process), combinations, tiny_gaps(), TINY).columns().sums


@TINY_PROCESSES
def test_a_viewer_alone_loses_what_it_loses_when_it_is_measured_by_itself(process: Process) -> None:
    found = measured(process, steady(NAMES, {"small": 1.0}), steady(NAMES, {"seeing": 1.0}))
    expected = measure_gaps(viewers(process)[1].denoiser, tiny_gaps(), VIEWS, TINY).columns()
    assert found == pytest.approx(expected.sums, rel=1e-5)


@TINY_PROCESSES
def test_an_average_of_a_viewer_with_itself_is_that_viewer(process: Process) -> None:
    found = measured(process, steady(NAMES, {"small": 1.0}), steady(NAMES, {"small": 1.0, "core": 1e-9}, average))
    assert found[:, 1] == pytest.approx(found[:, 0], rel=1e-5)


def test_a_mixture_lies_below_the_weighted_losses_of_its_members() -> None:
    # By the inequality of the means: the normaliser of a weighted geometric mean is at most 1.
    weights = ({"core": 1.0}, {"small": 1.0}, {"core": 0.5, "small": 0.5})
    found = measured(Simplex(tiny.VOCABULARY), *(steady(NAMES, each) for each in weights))
    assert (found[:, 2] < found[:, :2].mean(1)).all()


def test_a_schedule_weighs_by_the_level() -> None:
    shared = dict(zip(("core", "small"), sharing(0.3, "simplex"), strict=True))
    assert combined(NAMES, shared).weights(0.5) == (0.7, 0.3, 0.0)
    found = measured(Simplex(tiny.VOCABULARY), combined(NAMES, shared), steady(NAMES, {"core": 0.7, "small": 0.3}))
    assert found[:, 0] != pytest.approx(found[:, 1], rel=1e-4)


def test_a_contrast_is_moved_by_what_a_viewer_sees_and_by_nothing_else() -> None:
    names, process = (*NAMES, "same"), Simplex(tiny.VOCABULARY)
    contrasts = (steady(names, {"core": 1.0, name: 0.5, "small": -0.5}, contrast) for name in ("same", "seeing"))
    own = viewers(process)
    found = measure([*own, own[1]], [steady(names, {"core": 1.0}), *contrasts], tiny_gaps(), TINY).columns().sums
    core, unmoved, moved = found.T
    assert unmoved == pytest.approx(core, rel=1e-6)
    assert moved != pytest.approx(core, rel=1e-5)
