"""Per-canvas losses under a time budget, for models that cannot score a whole text."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.process import Canvas, Process
from ssdcli.evaluation.combinations import Combination, Positions, combined_losses
from ssdcli.evaluation.estimates import ENOUGH, margins
from ssdcli.evaluation.losses import LEVELS, SCORES, LossesByLevel, Pace, level_bin
from ssdcli.evaluation.runs import runs_of
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel

ROUNDS = 8  # the most positions in a document, if there is time

_TOGETHER = 4  # canvases after one reading of a prefix
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 cover [0, 1) evenly, however many of them there are


@dataclass(frozen=True)
class CanvasSettings:
    """How canvases are drawn and measured.

    pace: how long it may take.
    seed: of the canvases' positions, noise levels and noise.
    rounds: the most positions in a document.
    together: how many canvases are measured at each position, after one reading of the prefix.
    context: ids of the private context, which those members that see it read before every text.
    """

    pace: Pace = field(default_factory=Pace)
    seed: int = 0
    rounds: int = 1
    together: int = 1
    context: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A position in a text where canvases begin.

    document: the index of the text.
    text: the document.
    start: the first token of the canvases.
    levels: their noise levels.
    key: seeds their noise.
    counts: how many tokens count where the others are pure noise; None where all are noised alike.
    """

    document: int
    text: ScoredText
    start: int
    levels: tuple[float, ...]
    key: int
    counts: int | None = None


def canvases_together(members: Sequence[Member[LoadedModel]]) -> int:
    """How many canvases to measure at a position: several where a pulled core reads its prefix separately.

    A model with full attention reads prefix and canvas together, so that a canvas at another position costs the same,
    and tells more.
    """
    if any(isinstance(member.model.denoiser, FullDenoiser) for member in members):
        return 1
    return 1 if all(member.model.scores_whole_texts for member in members) else _TOGETHER


@torch.no_grad()
def canvas_losses(
    members: Sequence[Member[LoadedModel]],
    texts: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: CanvasSettings,
) -> LossesByLevel | None:
    """Measure combinations of members on canvases of the texts: at one position of each text, then another of each.

    This works for every model, whatever its attention; where a whole text can be denoised in one pass,
    `measure_combinations` is much faster. Self-conditioning is off. None if fewer than ENOUGH texts have room for a
    canvas and are reached in time.
    """
    began = settings.pace.clock()
    length = members[0].model.denoiser.backbone.block_size
    places = list(_places(texts, length, settings))
    found: list[tuple[_Place, float, Tensor]] = []
    for count, place in enumerate(places, start=1):
        losses = _losses(members, place, combinations, settings.context)
        found += [(place, t, loss) for t, loss in zip(place.levels, losses, strict=True)]
        if not settings.pace.goes_on(began, count / len(places)):
            break
    documents = len({place.document for place, _, _ in found})
    return None if documents < ENOUGH else _summed(found)


@torch.no_grad()
def bound(
    members: Sequence[Member[LoadedModel]], text: ScoredText, combination: Combination, seed: int, levels: int
) -> float:
    """An estimate of the NELBO of what counts of a text, in nats, which bounds -log p from above.

    Each block is noised at so many levels, evenly spaced from a random start, after the clean text before it. A process
    that hides tokens hides as many as the level says (Nie et al., 2025), which is exact for a single one.
    What does not count is pure noise.
    """
    process, size = members[0].model.denoiser.process, members[0].model.denoiser.backbone.block_size
    first, nats = random.Random(seed).random(), 0.0
    for run in runs_of(text):
        for start in range(run.start, run.stop, size):
            count = min(size, run.stop - start)
            spaced = [(first + k / levels) % 1 for k in range(levels if count > 1 else 1)]
            own = tuple((1 + int(t * count)) / count if process.hides else t for t in spaced)
            place = _Place(0, text, start, own, fold(seed, start - run.start), counts=count)
            nats += count * float(torch.cat(_losses(members, place, [combination], ())).mean())
    return nats


def _summed(found: Sequence[tuple[_Place, float, Tensor]]) -> LossesByLevel:
    """Sum the losses by document.

    Canvases are samples of their document: the mean loss over a document's canvases, times the document's tokens, is an
    unbiased estimate of its loss, however many canvases there was time for.
    """
    numbers, rows = np.unique([place.document for place, _, _ in found], return_inverse=True)
    texts = {place.document: place.text for place, _, _ in found}
    tokens = np.array([sum(texts[number].counted) for number in numbers])
    each = (tokens / np.bincount(rows))[rows]  # tokens that each canvas represents
    losses = torch.stack([mean for _, _, mean in found]).numpy() * each[:, None]
    sums = np.zeros((len(numbers), losses.shape[1]))
    np.add.at(sums, rows, losses)
    bins = level_bin(torch.tensor([t for _, t, _ in found])).numpy()
    level_sums, level_tokens = np.zeros((LEVELS, losses.shape[1])), np.zeros(LEVELS)
    np.add.at(level_sums, bins, losses)
    np.add.at(level_tokens, bins, each)
    own_sums, own_tokens = np.zeros((len(numbers), *level_sums.shape)), np.zeros((len(numbers), LEVELS))
    np.add.at(own_sums, (rows, bins), losses)
    np.add.at(own_tokens, (rows, bins), each)
    sizes, level_margins = np.array([texts[number].bytes for number in numbers]), margins(own_sums, own_tokens)
    return LossesByLevel(np.arange(losses.shape[1]), sums, tokens, sizes, level_sums, level_tokens, level_margins)


def _places(texts: Sequence[ScoredText], length: int, settings: CanvasSettings) -> Iterator[_Place]:
    """Draw positions of canvases anywhere in the texts that have room for one.

    Levels are a low-discrepancy sequence from a random start: each is uniform in (0, 1), so that estimates are
    unbiased, and together they cover it evenly wherever the time limit cuts them off, which removes most of the
    variance. Those at one position are evenly spaced.
    """
    draws = random.Random(settings.seed)
    fitting = [(number, starts) for number, text in enumerate(texts) if (starts := _starts(text, length))]
    draws.shuffle(fitting)
    first = draws.random()
    for k, (number, starts) in enumerate(fitting * settings.rounds):
        t = (first + k * _GOLDEN_RATIO) % 1
        levels = tuple((t + place / settings.together) % 1 for place in range(settings.together))
        yield _Place(number, texts[number], draws.choice(starts), levels, fold(settings.seed, k))


def _starts(text: ScoredText, length: int) -> list[int]:
    """Where a canvas may begin: in a document, wherever the text fills it; in a conversation, anywhere in an answer."""
    last = len(text.tokens) - (length if text.scored is None else 1)
    return [place for place, counts in enumerate(text.counted) if counts and place <= last]


def _losses(
    members: Sequence[Member[LoadedModel]],
    place: _Place,
    combinations: Sequence[Combination],
    context: tuple[int, ...],
) -> list[Tensor]:
    """The mean loss of the tokens of each canvas at a position under each combination: (C,) each."""
    denoisers = [member.model.denoiser for member in members]
    backbone = denoisers[0].backbone
    here = slice(place.start, place.start + backbone.block_size)
    # The last answer of a conversation may end before the canvas does: what pads the canvas is not scored.
    filled = islice(chain(place.text.tokens[here], cycle(place.text.tokens)), backbone.block_size)
    tokens = torch.tensor([list(filled)], device=backbone.device)
    scored = torch.zeros(tokens.shape[1], device=backbone.device)
    scored[: len(place.text.tokens[here])] = torch.tensor(place.text.counted[here], dtype=torch.float32)
    prefixes = [_prefix(member, place, context) for member in members]
    noise = GeneratorNoise([place.key], backbone.device)
    found = []
    for t in place.levels:
        levels = _noise_levels(place, t, tokens, denoisers[0].process, noise)
        canvas = denoisers[0].process.corrupt(tokens, levels, noise)
        log_ps = [one.denoise(canvas, t, None, prefix)[0] for one, prefix in zip(denoisers, prefixes, strict=True)]
        predicted = _Predicted(tokens, canvas, t, [log_p.to(backbone.device) for log_p in log_ps])
        found.append(_mean_loss(predicted, denoisers[0].process, scored, combinations))
    return found


def _noise_levels(place: _Place, t: float, tokens: Tensor, process: Process, noise: GeneratorNoise) -> Tensor:
    """The level of each position of a canvas (1, L) at level t: (1, L) float32."""
    levels = torch.full(tokens.shape, t, device=tokens.device)
    if place.counts is None:
        return levels
    if process.hides:
        drawn = noise.uniform(place.counts)
        levels[:, : place.counts] = (drawn.argsort().argsort() < round(t * place.counts)).float()
    levels[:, place.counts :] = 1.0
    return levels


def _prefix(member: Member[LoadedModel], place: _Place, context: tuple[int, ...]) -> Any:
    """What a member reads before a canvas."""
    own = context if member.sees_context else ()
    before = member.model.after(place.text.own(place.start), own, opened=place.text.opened)
    return member.model.denoiser.start([before])


@dataclass(frozen=True)
class _Predicted:
    """A noised canvas and what is predicted of it.

    tokens: the clean ones, (1, L) int64.
    canvas: the noised ones, (1, L, ...).
    t: the noise level.
    log_ps: of each member, (L, V).
    """

    tokens: Tensor
    canvas: Canvas
    t: float
    log_ps: list[Tensor]


def _mean_loss(predicted: _Predicted, process: Process, scored: Tensor, combinations: Sequence[Combination]) -> Tensor:
    """The mean loss of the scored tokens (L,) of a canvas under each combination: (C,) on the CPU."""
    tokens, canvas = predicted.tokens, predicted.canvas
    t = torch.full(tokens.shape, predicted.t, device=tokens.device)
    positions = Positions(tokens[0], t[0], process.tokens(canvas)[0])
    due = process.loss_weights(canvas, t)[0] * scored
    total = torch.zeros(len(combinations), device=tokens.device)
    for rows in due.nonzero().squeeze(1).split(max(1, SCORES // process.vocabulary)):
        losses = combined_losses([log_p[rows] for log_p in predicted.log_ps], positions.rows(rows), combinations)
        total += (losses * due[rows, None]).sum(0)
    return (total / scored.sum()).cpu()
