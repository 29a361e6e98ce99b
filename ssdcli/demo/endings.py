"""Exact log-probabilities of several endings of one sentence; what endings have in common is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.prompt import Prompt, fit

_CANVASES = 32  # that are denoised at once
_FOUR = 4  # passes are of a multiple of as many tokens, see CausalDenoiser


@dataclass(frozen=True)
class Endings:
    """Endings as a tree.

    ids: the tokens of each ending.
    nodes: the N distinct beginnings after which a token of an ending follows; the first is empty.
    """

    ids: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]]) -> Endings:
        """Build the tree of endings."""
        nodes = {tuple(ending[:length]) for ending in ids for length in range(len(ending))}
        return cls(tuple(map(tuple, ids)), tuple(sorted(nodes, key=lambda node: (len(node), node))))

    def log_p(self, predicted: Tensor) -> list[float]:
        """Log p of each ending in nats, from log p of the token after each node: (N, V)."""
        row = {node: i for i, node in enumerate(self.nodes)}
        tokens = [[(row[ending[:place]], token) for place, token in enumerate(ending)] for ending in self.ids]
        return [float(sum(predicted[where] for where in chosen)) for chosen in tokens]


@torch.no_grad()
def predict_after(denoiser: Denoiser, prompt: Prompt, endings: Endings) -> Tensor:
    """Log p of the token after the prompt and each node: (N, V) float32.

    The model must predict hidden tokens without being told a noise level, so that all of these are exact conditionals.
    """
    if isinstance(denoiser, CausalDenoiser):
        return _read(denoiser, prompt, endings.nodes)
    return _denoised(denoiser, prompt, endings.nodes)


def predict_together(ensemble: Ensemble, predicted: Sequence[Tensor], endings: Endings, block_size: int) -> Tensor:
    """What members predict together after each node, from what each of them predicts: (N, V)."""
    lengths = torch.tensor([len(node) for node in endings.nodes])
    together = torch.empty_like(predicted[0])
    for length in lengths.unique().tolist():  # weights depend on the noise level alone: the share that is hidden
        rows, weights = lengths == length, ensemble.weights(1 - length / block_size)
        running = [log_p[rows] if w != 0 else None for log_p, w in zip(predicted, weights, strict=True)]
        together[rows] = ensemble.combine(running, weights)
    return together


def _read(denoiser: CausalDenoiser, prompt: Prompt, nodes: Sequence[tuple[int, ...]]) -> Tensor:
    """One pass over the prompt and the last token of every node but the first, each of which sees its own beginning."""
    backbone = denoiser.backbone
    before = fit(prompt, backbone.context, backbone.block_size).before
    start = len(before) - 1  # the column that stands for the empty node
    column = {node: start + i for i, node in enumerate(nodes)}
    width = start + len(nodes) + -(start + len(nodes)) % _FOUR
    tokens, positions = torch.zeros(2, width, dtype=torch.int64)
    mask = torch.ones(width, width).tril().bool()
    tokens[: start + 1], positions[: start + 1] = torch.tensor(before), torch.arange(start + 1)
    for node, own in list(column.items())[1:]:
        tokens[own], positions[own] = node[-1], start + len(node)
        mask[own, start + 1 :] = False
        mask[own, [column[node[: length + 1]] for length in range(len(node))]] = True
    placed = [value.to(backbone.device)[None] for value in (tokens, positions, mask[None])]
    hidden = backbone.encode(backbone.embed(placed[0]), placed[1], placed[2], None)
    return denoiser.log_p(hidden[0, start : start + len(nodes)])


def _denoised(denoiser: Denoiser, prompt: Prompt, nodes: Sequence[tuple[int, ...]]) -> Tensor:
    """A canvas for each node, whose other tokens are hidden."""
    prefix = denoiser.start([prompt] * _CANVASES)
    hidden = denoiser.process.prior(denoiser.backbone.block_size, CounterNoise([0], str(denoiser.backbone.device)))
    canvases = hidden.repeat(len(nodes) + -len(nodes) % _CANVASES, 1)
    for row, node in enumerate(nodes):
        canvases[row, : len(node)] = torch.tensor(node, dtype=torch.int64)
    places = torch.tensor([len(node) for node in nodes], device=canvases.device)
    log_ps = [
        denoiser.denoise(part, 1.0, None, prefix)[torch.arange(len(at)), at]
        for part, at in zip(canvases.split(_CANVASES), places.split(_CANVASES), strict=True)
    ]
    return torch.cat(log_ps)
