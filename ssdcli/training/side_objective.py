"""The objective of a small model that reads the core: the cross-entropy of the next token."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssdcli.engine.noise import fold
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.models.backbones.tuned_core import TunedCore

NextTokenModel = SideNetwork | TunedCore | SmallCausalLM

_SAMPLED = 2048  # ids that stand for all those that the text does not hold
_SLICE = 256  # positions whose predictions over the vocabulary are held at once


class SampledIds:
    """The ids that a step scores.

    Those of the text are all scored, of the others a sample, each for so many as it stands for: that leaves the
    normaliser of the softmax right on average (sampled softmax, Bengio and Senécal, 2008).
    """

    def __init__(self, active: Tensor, rows: int, seed: int) -> None:
        """active: the ids that the text holds, (A,) int64, ascending, of `rows` in all."""
        rest = torch.ones(rows, dtype=torch.bool)
        rest[active] = False
        self._active = active
        self._rest = rest.nonzero()[:, 0]
        self._seed = seed

    def at(self, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The ids that a step of this number scores, and the log of how many each stands for."""
        count = min(_SAMPLED, len(self._rest))
        random = torch.Generator().manual_seed(fold(self._seed, number) >> 1)
        chosen = self._rest[torch.randperm(len(self._rest), generator=random)[:count]]
        weight = math.log(len(self._rest) / count) if count else 0.0
        weights = torch.cat([torch.zeros(len(self._active)), torch.full((count,), weight)])
        return torch.cat([self._active, chosen]).to(device), weights.to(device)

    def places(self, targets: Tensor) -> Tensor:
        """Where tokens of the text stand among the ids that are scored: (N,) int64 to (N,)."""
        return torch.searchsorted(self._active.to(targets.device), targets)


class SideObjective(nn.Module):
    """A side network whose forward pass returns its training loss."""

    teacher = None

    def __init__(self, backbone: SideNetwork, ids: SampledIds) -> None:
        """ids: those that are scored."""
        super().__init__()
        self.backbone = backbone
        self._ids = ids

    def forward(self, columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """The mean loss in nats per token.

        columns: states (B, n, (1 + k) H) and targets (B, n). index: (B,) int64, the numbers of the samples.
        """
        states, targets = columns["states"].flatten(0, 1), columns["targets"].flatten()
        ids, weights = self._ids.at(int(index[0]), states.device)
        scores = self.backbone.core.scores_of(self.backbone(states), ids).float()
        return functional.cross_entropy(scores + weights, self._ids.places(targets))


@torch.no_grad()
def mean_loss(network: NextTokenModel, states: Tensor, targets: Tensor) -> float:
    """The mean cross-entropy of tokens (N,) after states (N, D), in nats, over the whole vocabulary."""
    training = network.training
    network.eval()
    pairs = zip(states.split(_SLICE), targets.split(_SLICE), strict=True)
    device = network.device
    sums = [
        functional.cross_entropy(network.logits(part.to(device)), own.to(device), reduction="sum")
        for part, own in pairs
    ]
    network.train(training)
    return float(torch.stack(sums).sum()) / len(targets)
