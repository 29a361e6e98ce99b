"""Denoising losses of members that are met only as denoisers, canvas by canvas, as far as the time goes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.process import Canvas
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.losses import LEVELS, LossesByLevel, Passage, cross_entropies, stretch_of

ENOUGH = 8  # documents, below which nothing is measured

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly over a circle


@dataclass(frozen=True)
class Reader:
    """A member of a measurement: its denoiser, and the id that it reads before every text."""

    denoiser: Denoiser
    opening: int


@dataclass(frozen=True)
class CanvasSettings:
    """How long to measure, and the seed of the canvases' places, levels and noise."""

    seconds: float
    seed: int = 0


@dataclass(frozen=True)
class _Place:
    """A canvas of a passage: it begins at the token `start` and is noised to the level t."""

    passage: Passage
    start: int
    t: float
    key: int


@torch.no_grad()
def measure_canvases(
    members: Sequence[Reader], passages: Sequence[Passage], weights: Sequence[float], settings: CanvasSettings
) -> LossesByLevel | None:
    """Measure mixtures of two members at each share of the second, on one canvas of each document.

    Every model can be measured so, whatever it attends to; where a whole text can be denoised in one pass, `measure`
    is much faster. Self-conditioning is off. None when there are fewer than ENOUGH documents that a canvas fits into,
    or time for fewer.
    """
    until = time.monotonic() + settings.seconds
    length = members[0].denoiser.backbone.block_size
    losses = []
    for place in _places(passages, length, settings.seed):
        losses.append((place, _losses(members, place, weights)))
        if time.monotonic() > until:
            break
    if len(losses) < ENOUGH:
        return None
    tokens = np.array([sum(place.passage.counted) for place, _ in losses])
    sizes = np.array([place.passage.bytes for place, _ in losses])
    sums = torch.stack([mean for _, mean in losses]).numpy() * tokens[:, None]
    stretches = stretch_of(torch.tensor([place.t for place, _ in losses])).numpy()
    level_sums, level_tokens = np.zeros((LEVELS, len(weights))), np.zeros(LEVELS)
    np.add.at(level_sums, stretches, sums)
    np.add.at(level_tokens, stretches, tokens)
    return LossesByLevel(np.array(weights), sums, tokens, sizes, level_sums, level_tokens)


def _places(passages: Sequence[Passage], length: int, seed: int) -> Iterator[_Place]:
    """A canvas of each passage that has room for one, anywhere in it; the levels cover (0, 1) evenly."""
    draws = random.Random(seed)
    fitting = [(passage, starts) for passage in passages if (starts := _starts(passage, length))]
    draws.shuffle(fitting)
    first = draws.random()
    for k, (passage, starts) in enumerate(fitting):
        yield _Place(passage, draws.choice(starts), (first + k * _GOLDEN_RATIO) % 1, fold(seed, k))


def _starts(passage: Passage, length: int) -> list[int]:
    """Where a canvas may begin: where a text fills it, and in a conversation anywhere in an answer."""
    last = len(passage.tokens) - (length if passage.scored is None else 1)
    return [place for place, counts in enumerate(passage.counted) if counts and place <= last]


def _losses(members: Sequence[Reader], place: _Place, weights: Sequence[float]) -> Tensor:
    """Mean loss of a canvas's tokens at each weight: (W,)."""
    process, backbone = members[0].denoiser.process, members[0].denoiser.backbone
    here = slice(place.start, place.start + backbone.block_size)
    # Behind the last answer of a conversation anything may stand, which does not count.
    text = islice(chain(place.passage.tokens[here], cycle(place.passage.tokens)), backbone.block_size)
    tokens = torch.tensor([list(text)], device=backbone.device)
    scored = torch.zeros(tokens.shape[1], device=backbone.device)
    scored[: len(place.passage.tokens[here])] = torch.tensor(place.passage.counted[here], dtype=torch.float32)
    t = torch.full(tokens.shape, place.t, device=backbone.device)
    canvas = process.corrupt(tokens, t, GeneratorNoise([place.key], backbone.device))
    log_ps = [_predict(member, place, canvas).to(backbone.device) for member in members]
    losses = cross_entropies([log_p[0] for log_p in log_ps], tokens[0], weights)
    due = process.loss_weights(canvas, t)[0] * scored
    return ((losses * due[:, None]).sum(0) / scored.sum()).cpu()


def _predict(member: Reader, place: _Place, canvas: Canvas) -> Tensor:
    """What a member makes of a canvas after the text before it: (1, L, V)."""
    before = Prompt([member.opening, *place.passage.tokens[1 : place.start]])
    return member.denoiser.denoise(canvas, place.t, None, member.denoiser.start([before]))
