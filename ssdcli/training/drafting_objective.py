"""The objective of a draft head: the cross-entropy of its guesses with what the core predicts there itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssdcli.engine.noise import fold
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.draft_head import DraftHead

AHEAD = 3  # tokens that are drafted
_SAMPLED = 1024  # ids that are scored at a step, beside the likeliest ones there
_NEARER = 0.7  # the weight of a drafted token beside that of the one before it


class DraftingObjective(nn.Module):
    """A draft head whose forward pass returns its training loss."""

    teacher = None

    def __init__(self, backbone: DraftHead, core: CausalCore, seed: int, ahead: Callable[[int], int]) -> None:
        """ahead: how many tokens are drafted at the sample of this number. The seed decides which ids are scored."""
        super().__init__()
        self.backbone = backbone
        self.seed = seed
        self._core = (core,)  # in a tuple, so that its weights are not the objective's
        self._ahead = ahead

    def forward(self, columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """The mean loss in nats per run, later tokens counting less.

        columns: states (B, n, 1 + AHEAD, (1 + k) H) and targets (B, n, AHEAD). index: (B,) int64, of the samples.
        """
        number = int(index[0])
        states, tokens = columns["states"].flatten(0, 1), columns["targets"].flatten(0, 1)
        return self.loss(states, tokens, self._ahead(number), number)

    def loss(self, states: Tensor, tokens: Tensor, ahead: int, number: int) -> Tensor:
        """The same for runs: states (R, 1 + AHEAD, (1 + k) H), and tokens (R, AHEAD) after all but the last."""
        head, core = self.backbone, self._core[0]
        embedded = core.embed(tokens[:, :ahead])
        own = states[:, 1 : 1 + ahead, : head.size].to(embedded.dtype)
        ids, weights = self._scored(own, number)
        losses, guess = [], torch.empty(0)
        for place, token in enumerate(embedded.unbind(1)):
            guess = head.step(guess, token) if place else head.begin(states[:, 0], token)
            wanted = (core.scores_of(own[:, place], ids).float() + weights).softmax(-1)
            said = core.scores_of(head.as_state(guess).to(own.dtype), ids).float() + weights
            losses.append(_NEARER**place * functional.cross_entropy(said, wanted))
        return torch.stack(losses).sum()

    def _scored(self, own: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The ids that a step scores, and the log of how many each stands for.

        They are the likeliest of each place, and a sample of the others that counts for all that it stands for (sampled
        softmax, Bengio and Senécal, 2008).
        """
        ids = self.backbone.ids
        with torch.no_grad():
            best = self._core[0].scores_of(own.flatten(0, 1), ids).argmax(-1).unique()
        random = torch.Generator().manual_seed(fold(self.seed, number) >> 1)
        others = torch.randperm(len(ids), generator=random)[:_SAMPLED].to(best.device)
        others = others[~torch.isin(others, best)]
        share = (len(ids) - len(best)) / max(1, len(others))
        weights = torch.cat([torch.zeros(len(best)), torch.full((len(others),), math.log(share or 1))])
        return ids[torch.cat([best, others])], weights.to(best.device)


@torch.no_grad()
def agreement(head: DraftHead, core: CausalCore, states: Tensor, tokens: Tensor) -> list[float]:
    """How often each drafted token is the core's likeliest one, behind the true text; shapes as of the loss."""
    right, guess = [], torch.empty(0)
    for place, token in enumerate(core.embed(tokens).unbind(1)):
        guess = head.step(guess, token) if place else head.begin(states[:, 0], token)
        scores = core.logits(head.as_state(guess))[:, head.ids]
        right.append(
            float((head.ids[scores.argmax(-1)] == core.logits(states[:, 1 + place]).argmax(-1)).float().mean())
        )
    return right
