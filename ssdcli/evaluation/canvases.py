"""Per-canvas losses under a time budget, for models that cannot score a whole text."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.process import Canvas
from ssdcli.evaluation.combinations import Combination, Positions, combined_losses
from ssdcli.evaluation.estimates import ENOUGH, margins
from ssdcli.evaluation.losses import LEVELS, SCORES, LossesByLevel, Pace, level_bin
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 cover [0, 1) evenly, however many of them there are


@dataclass(frozen=True)
class CanvasSettings:
    """How canvases are drawn and measured.

    pace: how long it may take.
    seed: of the canvases' positions, noise levels and noise.
    rounds: the most canvases of a document.
    context: ids of the private context, which those members that see it read before every text.
    """

    pace: Pace = field(default_factory=Pace)
    seed: int = 0
    rounds: int = 1
    context: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A canvas of a text.

    document: the index of the text.
    text: the document.
    start: the first token of the canvas.
    t: its noise level.
    key: seeds its noise.
    """

    document: int
    text: ScoredText
    start: int
    t: float
    key: int


@torch.no_grad()
def canvas_losses(
    members: Sequence[Member[LoadedModel]],
    texts: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: CanvasSettings,
) -> LossesByLevel | None:
    """Measure combinations of members on canvases of the texts: one canvas of each text, then another of each.

    This works for every model, whatever its attention; where a whole text can be denoised in one pass,
    `measure_combinations` is much faster. Self-conditioning is off. None if fewer than ENOUGH texts have room for a
    canvas and are reached in time.
    """
    began = time.monotonic()
    length = members[0].model.denoiser.backbone.block_size
    places = list(_places(texts, length, settings))
    found: list[tuple[_Place, Tensor]] = []
    for place in places:
        found.append((place, _losses(members, place, combinations, settings.context)))
        if not settings.pace.goes_on(began, len(found) / len(places)):
            break
    documents = len({place.document for place, _ in found})
    return None if documents < ENOUGH else _summed(found)


def _summed(found: Sequence[tuple[_Place, Tensor]]) -> LossesByLevel:
    """Sum the losses by document.

    Canvases are samples of their document: the mean loss over a document's canvases, times the document's tokens, is an
    unbiased estimate of its loss, however many canvases there was time for.
    """
    numbers, rows = np.unique([place.document for place, _ in found], return_inverse=True)
    texts = {place.document: place.text for place, _ in found}
    tokens = np.array([sum(texts[number].counted) for number in numbers])
    each = (tokens / np.bincount(rows))[rows]  # tokens that each canvas represents
    losses = torch.stack([mean for _, mean in found]).numpy() * each[:, None]
    sums = np.zeros((len(numbers), losses.shape[1]))
    np.add.at(sums, rows, losses)
    bins = level_bin(torch.tensor([place.t for place, _ in found])).numpy()
    level_sums, level_tokens = np.zeros((LEVELS, losses.shape[1])), np.zeros(LEVELS)
    np.add.at(level_sums, bins, losses)
    np.add.at(level_tokens, bins, each)
    own_sums, own_tokens = np.zeros((len(numbers), *level_sums.shape)), np.zeros((len(numbers), LEVELS))
    np.add.at(own_sums, (rows, bins), losses)
    np.add.at(own_tokens, (rows, bins), each)
    sizes, level_margins = np.array([texts[number].bytes for number in numbers]), margins(own_sums, own_tokens)
    return LossesByLevel(np.arange(losses.shape[1]), sums, tokens, sizes, level_sums, level_tokens, level_margins)


def _places(texts: Sequence[ScoredText], length: int, settings: CanvasSettings) -> Iterator[_Place]:
    """Draw canvases anywhere in the texts that have room for one.

    Levels are a low-discrepancy sequence from a random start: each is uniform in (0, 1), so that estimates are
    unbiased, and together they cover it evenly wherever the time limit cuts them off, which removes most of the
    variance.
    """
    draws = random.Random(settings.seed)
    fitting = [(number, starts) for number, text in enumerate(texts) if (starts := _starts(text, length))]
    draws.shuffle(fitting)
    first = draws.random()
    for k, (number, starts) in enumerate(fitting * settings.rounds):
        t = (first + k * _GOLDEN_RATIO) % 1
        yield _Place(number, texts[number], draws.choice(starts), t, fold(settings.seed, k))


def _starts(text: ScoredText, length: int) -> list[int]:
    """Where a canvas may begin: in a document, wherever the text fills it; in a conversation, anywhere in an answer."""
    last = len(text.tokens) - (length if text.scored is None else 1)
    return [place for place, counts in enumerate(text.counted) if counts and place <= last]


def _losses(
    members: Sequence[Member[LoadedModel]],
    place: _Place,
    combinations: Sequence[Combination],
    context: tuple[int, ...],
) -> Tensor:
    """The mean loss of a canvas's tokens under each combination: (C,)."""
    process, backbone = members[0].model.denoiser.process, members[0].model.denoiser.backbone
    here = slice(place.start, place.start + backbone.block_size)
    # The last answer of a conversation may end before the canvas does: what pads the canvas is not scored.
    filled = islice(chain(place.text.tokens[here], cycle(place.text.tokens)), backbone.block_size)
    tokens = torch.tensor([list(filled)], device=backbone.device)
    scored = torch.zeros(tokens.shape[1], device=backbone.device)
    scored[: len(place.text.tokens[here])] = torch.tensor(place.text.counted[here], dtype=torch.float32)
    t = torch.full(tokens.shape, place.t, device=backbone.device)
    canvas = process.corrupt(tokens, t, GeneratorNoise([place.key], backbone.device))
    log_ps = [_predict(member, place, canvas, context).to(backbone.device)[0] for member in members]
    positions = Positions(tokens[0], t[0], process.tokens(canvas)[0])
    due = process.loss_weights(canvas, t)[0] * scored
    total = torch.zeros(len(combinations), device=backbone.device)
    for rows in due.nonzero().squeeze(1).split(max(1, SCORES // process.vocabulary)):
        losses = combined_losses([log_p[rows] for log_p in log_ps], positions.rows(rows), combinations)
        total += (losses * due[rows, None]).sum(0)
    return (total / scored.sum()).cpu()


def _predict(member: Member[LoadedModel], place: _Place, canvas: Canvas, context: tuple[int, ...]) -> Tensor:
    """A member's log p on a canvas after the text before it: (1, L, V)."""
    before = member.model.after(place.text.tokens[1 : place.start], context if member.sees_context else ())
    denoiser = member.model.denoiser
    return denoiser.denoise(canvas, place.t, None, denoiser.start([before]))
