"""Guides: off-the-shelf classifiers that steer an ensemble (modular control of SSD-LM, Han et al., ACL 2023).

Each aims at p(x) c(x)^scale, where c is the classifier's probability of a label. A canvas that is denoised at once
follows its gradient. Text from the left needs none: the likeliest next tokens are read one by one, as in FUDGE (Yang
and Klein, NAACL 2021), so that a draft is verified under guides as it is without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CANDIDATES = 16
"""The next tokens that a classifier reads."""


class Guide(Protocol):
    """Something that steers the text."""

    @property
    def scale(self) -> float:
        """The guidance scale: zero is no steering, below zero is away from what it wants."""

    def push(self, log_p: Tensor, written: Tensor) -> Tensor:
        """Where to move the logits log_p (B, L, V), given the tokens before (B, n): (B, L, V) float32."""

    def judge(self, candidates: Tensor, before: Tensor) -> Tensor:
        """Log c of a text (n,) with each of these next tokens (K,): (K,) float32."""
        ...


def guided(log_p: Tensor, guides: Sequence[Guide], written: Tensor) -> Tensor:
    """Add every guide's push, times its scale, to the ensemble's prediction, and renormalise: (B, L, V).

    A guide whose scale is zero is never called.
    """
    steering = [guide for guide in guides if guide.scale != 0]
    if not steering:
        return log_p
    pushed = log_p.float()
    for guide in steering:
        pushed = torch.add(pushed, guide.push(log_p, written), alpha=guide.scale)
    return torch.log_softmax(pushed, dim=-1)


def guided_next(log_p: Tensor, guides: Sequence[Guide], before: Tensor) -> Tensor:
    """Weigh the likeliest next tokens by c^scale of every guide: log p (V,), given the tokens before (n,), to (V,).

    The candidates keep the mass that they have together, and the other tokens theirs: guides to which all candidates
    are alike change nothing, bit for bit. A guide whose scale is zero is never called.
    """
    steering = [guide for guide in guides if guide.scale != 0]
    if not steering or bool(log_p[0].isnan()):
        return log_p
    likeliest, ids = log_p.float().topk(min(CANDIDATES, len(log_p)))
    score = torch.stack([guide.scale * guide.judge(ids, before) for guide in steering]).sum(0)
    score = score - score.max()
    score = score - ((likeliest + score).logsumexp(0) - likeliest.logsumexp(0))
    return log_p.index_add(0, ids, score.to(log_p.dtype))


def guided_from_left(log_p: Tensor, guides: Sequence[Guide], written: Tensor, canvas: tuple[Tensor, Tensor]) -> Tensor:
    """As `guided_next` at the leftmost position of each row that does not show a token: log p (B, L, V).

    canvas: the tokens that it shows, (B, L) int64, and where, (B, L) bool.
    """
    tokens, shown = canvas
    if all(guide.scale == 0 for guide in guides):
        return log_p
    log_p = log_p.clone()
    for row, place in enumerate(shown.long().cumprod(1).sum(1).tolist()):
        if place < shown.shape[1]:
            before = torch.cat([written[row], tokens[row, :place]])
            log_p[row, place] = guided_next(log_p[row, place], guides, before)
    return log_p


class Classifier(Protocol):
    """A classifier of texts that reads embeddings, so that a token can be a mixture of tokens.

    table: (V, H) float32, the embeddings of the ensemble's tokens, and perhaps of more.
    window: the longest text, special tokens included.
    opening: int64, the ids of the special tokens before a text.
    closing: those after it.
    """

    table: Tensor
    window: int
    opening: Tensor
    closing: Tensor

    def log_p(self, embedded: Tensor) -> Tensor:
        """Log p of each label: embedded (B, T, H) to (B, labels)."""


@dataclass(frozen=True)
class ClassifierGuide:
    """Steers towards texts to which a classifier gives a label.

    classifier: over the same tokenizer as the ensemble.
    label: the column of its log p.
    scale: see `Guide`.
    """

    classifier: Classifier
    label: int
    scale: float

    def push(self, log_p: Tensor, written: Tensor) -> Tensor:
        """What each token would add to log p(label), to first order, beside the mixture: (B, L, V) float32.

        The classifier reads the end of what is written, as much as its window holds, and then the canvas; ValueError
        if not even that fits.
        """
        if log_p.device.type != "cpu":
            return self._push(log_p, written)
        # On a CPU the order in which a product is summed depends on its number of rows, and a classifier's head has one
        # row a text: one text at a time, a row is what it is alone.
        return torch.cat([self._push(*row) for row in zip(log_p.split(1), written.split(1), strict=True)])

    def _push(self, log_p: Tensor, written: Tensor) -> Tensor:
        """Expand around c = p E, the mixture that the classifier reads, so that no graph holds a (B, L, V) tensor.

        With d = d log p(label) / dc, a token w in place of the mixture adds <E_w - c, d> (Taylor-approximated guidance,
        Nisonoff et al., "Unlocking guidance for discrete state-space diffusion and flow models", 2025).
        """
        p = torch.softmax(log_p.float(), dim=-1)
        p = p.where(~p.isnan(), 1 / p.shape[-1])  # where nobody predicts, any token may follow
        table = self.classifier.table[: p.shape[-1]]
        canvas = p @ table
        d = self._gradient(canvas, written)
        return d @ table.T - (canvas * d).sum(-1, keepdim=True)

    @torch.no_grad()
    def judge(self, candidates: Tensor, before: Tensor) -> Tensor:
        """Log p(label | the text and each candidate): (K,) float32, by one pass over as many rows."""
        embedded = self.classifier.table[candidates][:, None]
        framed = self._framed(embedded, before.expand(len(candidates), -1))
        return self.classifier.log_p(framed)[:, self.label]

    def _gradient(self, canvas: Tensor, written: Tensor) -> Tensor:
        """The gradient of log p(label) by an embedded canvas (B, L, H): (B, L, H)."""
        with torch.enable_grad():
            canvas = canvas.detach().requires_grad_()
            log_p = self.classifier.log_p(self._framed(canvas, written))[:, self.label]
            (gradient,) = torch.autograd.grad(log_p.sum(), canvas)
        return gradient

    def _framed(self, canvas: Tensor, written: Tensor) -> Tensor:
        """An embedded canvas (B, L, H) with what the classifier reads around it: (B, T, H)."""
        reader, rows = self.classifier, len(canvas)
        room = reader.window - len(reader.opening) - canvas.shape[1] - len(reader.closing)
        if room < 0:
            raise ValueError(
                f"a canvas of {canvas.shape[1]} tokens does not fit a classifier's window of {reader.window}"
            )
        kept = written[:, max(written.shape[1] - room, 0) :]
        before = torch.cat([reader.opening.expand(rows, -1), kept], dim=1)
        after = reader.closing.expand(rows, -1)
        return torch.cat([reader.table[before], canvas, reader.table[after]], dim=1)
