"""The objectives of an adapter of a causal core and of a small causal model: the cross-entropy of the next token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ssdcli.engine.packed import Packed
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.training.cross_entropy import head_cross_entropy
from ssdcli.training.side_objective import SampledIds

_LESSONS = ("lessons", "taught")
_SLICE = 256  # positions whose predictions over the vocabulary are held at once
_NEVER = -1e4  # the logit of what is no text


@dataclass(frozen=True)
class Borders:
    """The ids around a document: `opening` stands before it as the core reads it, `end` as it is stored."""

    opening: int
    end: int


class CausalObjective(nn.Module):
    """A core with an adapter whose forward pass returns its training loss."""

    teacher = None

    def __init__(self, backbone: TunedCore, ids: SampledIds, borders: Borders) -> None:
        """ids: those that are scored."""
        super().__init__()
        self.backbone = backbone
        self._ids = ids
        self._borders = borders

    def forward(self, columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """The mean loss in nats per scored token.

        columns: the fields of `Packed`. index: (B,) int64, the numbers of the samples.
        """
        packed, borders = Packed(**columns), self._borders
        begins = (packed.tokens == borders.end) & (packed.positions == 0)
        tokens = packed.tokens.masked_fill(begins, borders.opening)
        hidden = self.backbone.states(tokens, packed.positions, _mask(packed))
        due = _due(packed)
        ids, weights = self._ids.at(int(index[0]), hidden.device)
        scores = self.backbone.core.scores_of(hidden[:, :-1][due], ids).float() + weights
        places = self._ids.places(packed.tokens[:, 1:][due])
        return functional.cross_entropy(scores, places, reduction="sum") / due.sum().clamp(min=1)


class TaughtObjective(CausalObjective):
    """The same of a core that also learns to predict lessons as it did when it had read what they are about."""

    def __init__(self, backbone: TunedCore, ids: SampledIds, borders: Borders, share: float) -> None:
        """share: that of the lessons in the loss."""
        super().__init__(backbone, ids, borders)
        self._share = share

    def forward(self, columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """The mean loss of the text in nats per scored token, with the gradient of the mixture of both losses.

        columns: the fields of `Packed`, and those of `Lessons` as `lessons` and `taught` beside each sample.
        """
        text = super().forward({name: columns[name] for name in columns if name not in _LESSONS}, index)
        tokens, taught = (columns[name].flatten(0, 1) for name in _LESSONS)
        mixed = (1 - self._share) * text + self._share * self.divergence(tokens, taught)
        return mixed + (text - mixed).detach()

    def divergence(self, tokens: Tensor, taught: Tensor) -> Tensor:
        """The mean KL divergence from what states (R, W, H) predict of the last W of tokens (R, n), in nats."""
        core, written = self.backbone.core, taught.shape[1]
        given = tokens[:, :-1]
        positions = torch.arange(given.shape[1], device=given.device).expand_as(given)
        hidden = core.encode(core.embed(given), positions, None, None)[:, -written:].flatten(0, 1)
        pairs = zip(hidden.split(_SLICE), taught.flatten(0, 1).to(hidden.dtype).split(_SLICE), strict=True)
        parts = [checkpoint(_divergence, core, own, goal, use_reentrant=False) for own, goal in pairs]
        return torch.stack(parts).sum() / len(hidden)


def _divergence(core: CausalCore, own: Tensor, goal: Tensor) -> Tensor:
    """The sum of KL divergences of what states (N, H) predict from what others do; ids that are no text are out."""
    log_p, log_q = (core.logits(states).clamp(min=_NEVER).log_softmax(-1) for states in (own, goal))
    return functional.kl_div(log_p, log_q, log_target=True, reduction="sum")


class SmallCausalObjective(nn.Module):
    """A small causal model whose forward pass returns its training loss."""

    teacher = None

    def __init__(self, backbone: SmallCausalLM) -> None:
        """For this model."""
        super().__init__()
        self.backbone = backbone

    def forward(self, columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """The mean loss in nats per scored token.

        columns: the fields of `Packed`. index: (B,) int64, the numbers of the samples.
        """
        packed, backbone, vocabulary = Packed(**columns), self.backbone, self.backbone.vocabulary
        hidden = backbone.encode(backbone.embed(packed.tokens), packed.positions, _mask(packed), None)
        due = _due(packed)
        targets, scored = packed.tokens[:, 1:][due], backbone.to_rank(hidden[:, :-1][due])
        each = torch.ones(len(targets), device=targets.device)
        total = head_cross_entropy(scored, backbone.head, vocabulary.rows(targets), each, vocabulary.muted)
        return (total - vocabulary.log_share(targets).sum()) / max(1, len(targets))


NextTokenObjective = CausalObjective | SmallCausalObjective


def _due(packed: Packed) -> Tensor:
    """Which columns but the last predict the next one: (B, T - 1) bool."""
    same = packed.texts[:, 1:] == packed.texts[:, :-1]
    return packed.scored[:, 1:] & packed.known[:, :-1] & same


def _mask(packed: Packed) -> Tensor:
    """Each token sees itself and what is known before it in its text: (B, 1, T, T) bool."""
    seen = (packed.texts[:, :, None] == packed.texts[:, None, :]) & packed.known[:, None, :]
    itself = torch.eye(packed.length, dtype=torch.bool, device=seen.device)
    return (seen.tril() | itself)[:, None]
