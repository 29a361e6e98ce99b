"""A limit on verbatim copies: tokens that would continue a copy of private text for too long are excluded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

import torch
from torch import Tensor


class CopyLimit(Protocol):
    """Knows a text, and how many of its tokens in a row may be written."""

    def forbidden(self, written: Sequence[int]) -> Sequence[int]:
        """The ids that, after these written ones, would make a copy that is too long."""


def without_copies(
    log_p: Tensor, canvas: Tensor, shown: Tensor, written: Tensor, limits: Sequence[CopyLimit]
) -> Tensor:
    """Log p (B, L, V) of a canvas whose leftmost hidden token does not make a copy too long, renormalised.

    Positions further right stay as they are: only from the left is it known what they would copy.

    canvas: (B, L) int64. shown: which of its tokens are known, (B, L) bool. written: the tokens before it, (B, n).
    limits: one a row.
    """
    changed = log_p.clone()
    rows = zip(written.tolist(), canvas.tolist(), shown.tolist(), limits, strict=True)
    for row, (before, tokens, known, limit) in enumerate(rows):
        place = len(list(takewhile(bool, known)))
        if place == len(known):
            continue
        changed[row, place] = forbid(changed[row, place], limit, [*before, *tokens[:place]])
    return changed


def forbid(log_p: Tensor, limit: CopyLimit, written: Sequence[int]) -> Tensor:
    """Log p (V,) without the tokens that would make a copy too long after these written ones, renormalised."""
    ids = list(limit.forbidden(written))
    if not ids:
        return log_p
    return torch.log_softmax(log_p.index_fill(0, torch.tensor(ids, device=log_p.device), -math.inf), dim=-1)
