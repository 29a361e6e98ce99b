"""Texts packed side by side in rows, which are denoised in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Rows of texts, (B, T) each; no text sees another.

    tokens: int64.
    blocks: int64, the block that a column is denoised with; the blocks of a text are numbered in reading order, from
        left to right except for gaps.
    positions: int64, within the text.
    texts: int64, the text of its row that a column belongs to.
    known: bool, whether later blocks read the column as clean text.
    scored: bool, whether its loss counts.
    """

    tokens: Tensor
    blocks: Tensor
    positions: Tensor
    texts: Tensor
    known: Tensor
    scored: Tensor

    @classmethod
    def plain(cls, tokens: Tensor, blocks: Tensor) -> Packed:
        """One text a row, all of it known and scored: tokens, blocks (B, T) int64."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        everything = torch.ones_like(tokens, dtype=torch.bool)
        return cls(tokens, blocks, positions, torch.zeros_like(tokens), everything, everything)

    @classmethod
    def padding(cls, length: int) -> Packed:
        """A row of `length` columns that no other column sees and whose loss does not count; one block."""
        nothing = torch.zeros(1, length, dtype=torch.int64)
        unseen = torch.zeros(1, length, dtype=torch.bool)
        return cls(nothing, nothing, torch.arange(length)[None], nothing, unseen, unseen)

    @property
    def length(self) -> int:
        """T."""
        return self.tokens.shape[1]

    def rows(self, chosen: Tensor) -> Packed:
        """Some of the rows: chosen (b,) int64."""
        return Packed(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def cut(self, start: int, stop: int) -> Packed:
        """The columns from `start` to `stop` of rows of one text each, as texts in their own right."""
        part = Packed(*(getattr(self, field.name)[:, start:stop] for field in fields(self)))
        return replace(part, blocks=part.blocks - part.blocks[:, :1], positions=part.positions - part.positions[:, :1])

    @classmethod
    def joined(cls, texts: Sequence[Packed]) -> Packed:
        """One row from rows of one text each, side by side; block numbers continue from text to text, from 0."""
        parts, first = [], 0
        for number, text in enumerate(texts):
            parts.append(replace(text, blocks=text.blocks + first, texts=torch.full_like(text.texts, number)))
            first += int(text.blocks.max()) + 1
        return cls(*(torch.cat([getattr(part, field.name) for part in parts], dim=1) for field in fields(cls)))
