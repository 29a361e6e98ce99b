"""Schedules of a heavy and a light member in equal segments of the trajectory, and the losses under all of them.

Denoising losses add up over the noise levels, and the loss at a level does not depend on what ran at others. So each
member's loss in each segment, measured once, gives the loss of every schedule exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.columns import Columns
from benchmarks.lib.experiment import Line
from ssdcli.engine.blocks import block_levels
from ssdcli.engine.denoiser import Backbone, denoise_sequence
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Canvas, Process
from ssdcli.evaluation.scored_text import ScoredText

SEGMENTS = 8
HEAVY, LIGHT = "H", "L"
SANDWICH = "sandwich"
WINDOWS = 4  # of a document, at most, that losses are measured on


def shapes(heavy: int) -> dict[str, str]:
    """Named schedules with an even number of heavy segments; the first segment begins at t = 1."""
    light = SEGMENTS - heavy
    if not heavy or not light:
        return {"heavy alone" if heavy else "light alone": HEAVY * heavy + LIGHT * light}
    return {
        SANDWICH: LIGHT * (light // 2) + HEAVY * heavy + LIGHT * (light // 2),
        "heavy at both ends": HEAVY * (heavy // 2) + LIGHT * light + HEAVY * (heavy // 2),
        "heavy first": HEAVY * heavy + LIGHT * light,
        "heavy last": LIGHT * light + HEAVY * heavy,
    }


def all_schedules(heavy: int) -> list[str]:
    """All schedules with so many heavy segments."""
    places = combinations(range(SEGMENTS), heavy)
    return ["".join(HEAVY if place in chosen else LIGHT for place in range(SEGMENTS)) for chosen in places]


@dataclass(frozen=True)
class Levels:
    """Losses of documents as if all of their noise levels lay in one segment: (D, SEGMENTS) each, in nats.

    heavy: of the core and the small model together where both run, else of the core.
    apart: KL(core || small), summed like a loss.
    tokens: (D,).
    """

    core: np.ndarray
    small: np.ndarray
    heavy: np.ndarray
    apart: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, line: Line) -> Levels:
        """Read what was measured."""
        core, small, heavy, apart = np.array(line["losses"]).transpose(2, 0, 1)
        return cls(core, small, heavy, apart, np.array(line["tokens"]))

    def by_schedule(self, schedules: Sequence[str]) -> Columns:
        """The denoising loss under each schedule: the mean over the segments of the loss of what runs there."""
        runs = np.array([[segment == HEAVY for segment in schedule] for schedule in schedules])
        chosen = np.where(runs[None], self.heavy[:, None], self.small[:, None])
        return Columns(chosen.mean(-1), self.tokens)


@torch.no_grad()
def document_losses(
    members: Sequence[Backbone], process: Process, document: ScoredText, share: float, key: int
) -> Tensor:
    """A document's losses and its KL, see `Levels`: (SEGMENTS, 4). share: the small model's beside the core."""
    window = min(member.context for member in members)
    sums = torch.zeros(SEGMENTS, 4, dtype=torch.float64)
    for start in range(0, min(len(document.tokens), WINDOWS * window), window):
        here = slice(start, start + window)
        tokens = torch.tensor(document.tokens[here]).expand(SEGMENTS, -1)
        sums += window_losses(members, process, (tokens, torch.tensor(document.counted[here])), share, fold(key, start))
    return sums


def window_losses(
    members: Sequence[Backbone], process: Process, text: tuple[Tensor, Tensor], share: float, key: int
) -> Tensor:
    """The losses of a window, row s of which is noised to levels of segment s: (SEGMENTS, 4)."""
    tokens, scored = text
    noise = GeneratorNoise([fold(key, segment) for segment in range(SEGMENTS)])
    blocks = (torch.arange(tokens.shape[1]) // members[0].block_size).expand(SEGMENTS, -1)
    lowest = torch.arange(SEGMENTS - 1, -1, -1)[:, None]
    t = (lowest + block_levels(blocks, noise)) / SEGMENTS
    canvas = process.corrupt(tokens, t, noise)
    due = process.loss_weights(canvas, t) * scored
    packed = Packed.plain(tokens, blocks)
    core, small = (_predict(member, process, canvas, packed, t) for member in members)
    heavy = core if share == 0 else mix([core, small], [1 - share, share])
    losses = [-log_p.gather(-1, tokens[..., None])[..., 0] for log_p in (core, small, heavy)]
    apart = (core.exp() * (core - small).nan_to_num(0)).sum(-1)  # both say -inf of ids that are never text
    return torch.stack([(values * due).sum(1, dtype=torch.float64) for values in (*losses, apart)], dim=1)


def _predict(member: Backbone, process: Process, canvas: Canvas, packed: Packed, t: Tensor) -> Tensor:
    """Log p of every token of noised windows: (B, T, V)."""
    level = t if process.timed else None
    return member.logits(denoise_sequence(member, process.embed(canvas, member), packed, level)).log_softmax(-1)
