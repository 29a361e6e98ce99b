"""Denoising losses of members that are met only as denoisers, canvas by canvas, as far as the time goes."""

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
from ssdcli.evaluation.losses import LEVELS, SCORES, LossesByLevel, Pace, stretch_of
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel

ENOUGH = 8  # documents, below which nothing is measured

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly over a circle


@dataclass(frozen=True)
class CanvasSettings:
    """How to measure.

    pace: how long.
    seed: of the canvases' places, levels and noise.
    rounds: canvases of a document, at most.
    context: ids that the members who see private context read before every text.
    """

    pace: Pace = field(default_factory=Pace)
    seed: int = 0
    rounds: int = 1
    context: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A canvas of a passage: it begins at the token `start` and is noised to the level t."""

    document: int
    passage: ScoredText
    start: int
    t: float
    key: int


@torch.no_grad()
def canvas_losses(
    members: Sequence[Member[LoadedModel]],
    passages: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: CanvasSettings,
) -> LossesByLevel | None:
    """Measure combinations of members on canvases of the documents, first one of each, then another one of each.

    Every model can be measured so, whatever it attends to; where a whole text can be denoised in one pass,
    `measure_combinations` is much faster. Self-conditioning is off. None when there are fewer than ENOUGH documents
    that a canvas fits into, or time for fewer.
    """
    began = time.monotonic()
    length = members[0].model.denoiser.backbone.block_size
    places = list(_places(passages, length, settings))
    found: list[tuple[_Place, Tensor]] = []
    for place in places:
        found.append((place, _losses(members, place, combinations, settings.context)))
        if not settings.pace.goes_on(began, len(found) / len(places)):
            break
    documents = len({place.document for place, _ in found})
    return None if documents < ENOUGH else _summed(found)


def _summed(found: Sequence[tuple[_Place, Tensor]]) -> LossesByLevel:
    """The losses of documents, each the mean over its canvases, which share its tokens."""
    numbers, rows = np.unique([place.document for place, _ in found], return_inverse=True)
    passages = {place.document: place.passage for place, _ in found}
    tokens = np.array([sum(passages[number].counted) for number in numbers])
    each = (tokens / np.bincount(rows))[rows]  # tokens that a canvas stands for
    losses = torch.stack([mean for _, mean in found]).numpy() * each[:, None]
    sums = np.zeros((len(numbers), losses.shape[1]))
    np.add.at(sums, rows, losses)
    stretches = stretch_of(torch.tensor([place.t for place, _ in found])).numpy()
    level_sums, level_tokens = np.zeros((LEVELS, losses.shape[1])), np.zeros(LEVELS)
    np.add.at(level_sums, stretches, losses)
    np.add.at(level_tokens, stretches, each)
    sizes = np.array([passages[number].bytes for number in numbers])
    return LossesByLevel(np.arange(losses.shape[1]), sums, tokens, sizes, level_sums, level_tokens)


def _places(passages: Sequence[ScoredText], length: int, settings: CanvasSettings) -> Iterator[_Place]:
    """Canvases of the passages that have room for one, anywhere in them; the levels cover (0, 1) evenly."""
    draws = random.Random(settings.seed)
    fitting = [(number, starts) for number, passage in enumerate(passages) if (starts := _starts(passage, length))]
    draws.shuffle(fitting)
    first = draws.random()
    for k, (number, starts) in enumerate(fitting * settings.rounds):
        t = (first + k * _GOLDEN_RATIO) % 1
        yield _Place(number, passages[number], draws.choice(starts), t, fold(settings.seed, k))


def _starts(passage: ScoredText, length: int) -> list[int]:
    """Where a canvas may begin: where a text fills it, and in a conversation anywhere in an answer."""
    last = len(passage.tokens) - (length if passage.scored is None else 1)
    return [place for place, counts in enumerate(passage.counted) if counts and place <= last]


def _losses(
    members: Sequence[Member[LoadedModel]],
    place: _Place,
    combinations: Sequence[Combination],
    context: tuple[int, ...],
) -> Tensor:
    """Mean loss of a canvas's tokens under each combination: (C,)."""
    process, backbone = members[0].model.denoiser.process, members[0].model.denoiser.backbone
    here = slice(place.start, place.start + backbone.block_size)
    # Behind the last answer of a conversation anything may stand, which does not count.
    text = islice(chain(place.passage.tokens[here], cycle(place.passage.tokens)), backbone.block_size)
    tokens = torch.tensor([list(text)], device=backbone.device)
    scored = torch.zeros(tokens.shape[1], device=backbone.device)
    scored[: len(place.passage.tokens[here])] = torch.tensor(place.passage.counted[here], dtype=torch.float32)
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
    """What a member predicts for a canvas after the text before it: (1, L, V)."""
    before = member.model.after(place.passage.tokens[1 : place.start], context if member.sees_context else ())
    denoiser = member.model.denoiser
    return denoiser.denoise(canvas, place.t, None, denoiser.start([before]))
