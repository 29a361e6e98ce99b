"""Denoising losses of whole texts under any members whose prefix does not see the canvas: all blocks in one pass.

Each member reads a text once, as it reads its own prefixes, and then denoises all blocks of it side by side. Models
that `train-small` makes are measured by `measure_combinations`, which takes several texts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.blocks import block_levels
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.process import Canvas
from ssdcli.engine.whole_text import WholeText
from ssdcli.evaluation.combinations import Combination, Positions, combined_losses
from ssdcli.evaluation.losses import LEVELS, SCORES, LossesByLevel, Pace, level_bin
from ssdcli.evaluation.runs import Run, runs_of, windows
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel


@dataclass(frozen=True)
class BlockSettings:
    """How losses are measured.

    pace: how long it may take.
    seed: of the noise.
    repeats: sets of noise levels that each text is measured at.
    """

    pace: Pace = field(default_factory=Pace)
    seed: int = 0
    repeats: int = 2


@dataclass(frozen=True)
class _Noised:
    """A run in whole blocks, noised: (1, C, ...) each.

    tokens: the clean ones; the last block is filled up with the id of end of text.
    canvas: all blocks.
    t: the level of each column, the same in a block.
    due: the weight of each column's loss; zero for what fills the last block up.
    """

    tokens: Tensor
    canvas: Canvas
    t: Tensor
    due: Tensor


@torch.no_grad()
def block_losses(
    members: Sequence[Member[LoadedModel]],
    texts: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: BlockSettings,
) -> LossesByLevel:
    """Measure combinations of members on the same noise, of as many texts as there is time for.

    Texts are measured in their order, whole or not at all; the first always is. Self-conditioning is off.
    """
    began = settings.pace.clock()
    sums, seen = np.zeros((len(texts), LEVELS, len(combinations))), np.zeros((len(texts), LEVELS))
    done = 0
    for text in texts:
        for run in runs_of(text):
            for repeat in range(settings.repeats):
                noised = _noised(members[0].model, run, fold(settings.seed, done, run.start, repeat))
                losses, tokens = _run_losses(members, run, noised, combinations)
                sums[done] += losses.numpy() / settings.repeats
                seen[done] += tokens.numpy() / settings.repeats
        done += 1
        if not settings.pace.goes_on(began, done / len(texts)):
            break
    return LossesByLevel.of(sums[:done], seen[:done], texts[:done])


def _noised(model: LoadedModel, run: Run, key: int) -> _Noised:
    """Noise each block of a run at a level of its own."""
    backbone, process = model.denoiser.backbone, model.denoiser.process
    noise, filling = GeneratorNoise([key], backbone.device), -len(run) % backbone.block_size
    tokens = torch.tensor([[*run.tokens, *[model.format.ends[0]] * filling]], device=backbone.device)
    t = block_levels(torch.arange(tokens.shape[1], device=backbone.device)[None] // backbone.block_size, noise)
    canvas = process.corrupt(tokens, t, noise)
    due = process.loss_weights(canvas, t)
    due[:, len(run) :] = 0
    return _Noised(tokens, canvas, t, due)


def _run_losses(
    members: Sequence[Member[LoadedModel]], run: Run, noised: _Noised, combinations: Sequence[Combination]
) -> tuple[Tensor, Tensor]:
    """Each combination's summed loss by bin of levels, and the tokens: (LEVELS, C), (LEVELS,) on the CPU."""
    process, tokens = members[0].model.denoiser.process, noised.tokens[0]
    hidden = [_hidden(member.model, run, noised) for member in members]
    positions = Positions(tokens, noised.t[0], process.tokens(noised.canvas)[0])
    losses = torch.zeros(len(tokens), len(combinations), device=tokens.device)
    for rows in noised.due[0].nonzero().squeeze(1).split(max(1, SCORES // process.vocabulary)):
        log_ps = [
            torch.log_softmax(member.model.denoiser.backbone.logits(h[rows.to(h.device)]), dim=-1).to(rows.device)
            for member, h in zip(members, hidden, strict=True)
        ]
        losses[rows] = combined_losses(log_ps, positions.rows(rows), combinations)
    bins, counted = level_bin(noised.t[0]).cpu(), (torch.arange(len(tokens)) < len(run)).float()
    weighted = (losses * noised.due[0][:, None]).cpu()
    by_level = torch.zeros(LEVELS, len(combinations)).index_add_(0, bins, weighted)
    return by_level, torch.zeros(LEVELS).index_add_(0, bins, counted)


def _hidden(model: LoadedModel, run: Run, noised: _Noised) -> Tensor:
    """The hidden states that predict a run's columns: (C, H)."""
    denoiser, parts, start = model.denoiser, [], 0
    for window in windows(model, run):
        tokens = torch.tensor(window.tokens, device=denoiser.backbone.device)
        whole = WholeText.read(denoiser, window.prompt, tokens)
        here = slice(start, start + whole.tokens.shape[1])
        level = noised.t[:, here].to(tokens.device) if denoiser.process.timed else None
        parts.append(whole.denoise(noised.canvas[:, here].to(tokens.device), level)[0])
        start = here.stop
    return torch.cat(parts)
