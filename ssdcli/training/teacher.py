"""A core as teacher: what it expects where a small model learns to denoise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.denoiser import Backbone, denoise_sequence
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Canvas, Process
from ssdcli.models.active_vocabulary import ActiveVocabulary, WholeVocabulary
from ssdcli.training.distilled import Lesson

_SCORES = 1 << 22  # of the predictions over all tokens that are held at once: 512 positions of 8,192 tokens

Reading = Callable[[Backbone, Tensor, Packed, Tensor | None], Tensor]


def without_context(backbone: Backbone, embedded: Tensor, packed: Packed, level: Tensor | None) -> Tensor:
    """Denoise texts as a small model does; no self-conditioning: hidden states (B, T, H)."""
    return denoise_sequence(backbone, embedded, packed, (level, None))


@dataclass(frozen=True)
class Noised:
    """Samples (B, T), and what noise at the levels t (B, T) leaves of them."""

    packed: Packed
    canvas: Canvas
    t: Tensor


@dataclass(frozen=True)
class Teacher:
    """A model that is never trained, and the share of its predictions in the loss.

    No module, so that it is no part of what learns from it. vocabulary: the learner's rows. read: how texts are put.
    """

    backbone: Backbone
    process: Process
    vocabulary: WholeVocabulary | ActiveVocabulary
    share: float
    read: Reading = without_context

    @torch.no_grad()
    def lesson(self, noised: Noised, due: Tensor) -> Lesson:
        """What it expects at the columns `due`, (N,) int64 places in (B, T)."""
        hidden = self.hidden(noised)[due]
        tokens = self.vocabulary.rows(noised.packed.tokens.reshape(-1)[due])
        return Lesson(tokens, lambda rows: self.probabilities(hidden[rows]), self.share)

    def hidden(self, noised: Noised) -> Tensor:
        """Hidden states of all columns, one after the other: (B * T, H)."""
        embedded = self.process.embed(noised.canvas, self.backbone)
        level = noised.t if self.process.timed else None
        return self.read(self.backbone, embedded, noised.packed, level).flatten(0, 1)

    @torch.no_grad()
    def probabilities(self, hidden: Tensor) -> Tensor:
        """The probabilities of the learner's rows: hidden (n, H) to (n, rows) float32, 0 for what is never text."""
        at_once = max(1, _SCORES // self.process.vocabulary)
        parts = [self.vocabulary.pooled(self.backbone.logits(part).softmax(-1)) for part in hidden.split(at_once)]
        p = torch.cat(parts).index_fill_(-1, self.vocabulary.muted, 0)
        return p.div_(p.sum(-1, keepdim=True))
