"""Gaps in training texts: a few blocks are read last, when both sides of them are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.packed import Packed

_LIMITS = (6 / 11, 9 / 11)  # a gap has 1, 2 or 3 blocks with probabilities in the ratio of 1 to 1/2 to 1/3
_SHORT = 0.5  # the share of gaps whose text ends before they do


@dataclass(frozen=True)
class Gaps:
    """A gap in each sample, (B, 1) int64 each.

    first: the number of its first block. count: its blocks, 0 for none. text: the tokens that belong into it.
    """

    first: Tensor
    count: Tensor
    text: Tensor


@dataclass(frozen=True)
class Infilling:
    """Teaches a model to fill gaps: a share of the texts gets one; `end` is the id of end of text."""

    share: float
    end: int

    def open(self, text: Packed, size: int, noise: Noise) -> Packed:
        """Open a gap in a row (1, T) of one text in blocks of `size` tokens, or leave it as it is.

        One that is too short for the longest gap between two sides has none.
        """
        if int(text.blocks.max()) < len(_LIMITS) + 2:
            return text
        return open_gaps(text, draw_gaps(text.blocks, size, self.share, noise), size, self.end)


def draw_gaps(blocks: Tensor, size: int, share: float, noise: Noise) -> Gaps:
    """Draw the gaps of samples by their blocks (B, T) int64, numbered from left to right.

    A gap has k blocks with a probability in proportion to 1/k, k = 1..3, and is anywhere between the first and the
    last block. Half of the gaps are filled to the end; the lengths of the other texts are log-uniform.
    """
    chance, kind, place, length = (noise.uniform(1) for _ in range(4))
    count = 1 + torch.bucketize(kind, torch.tensor(_LIMITS, device=blocks.device))
    first = 1 + (place * (blocks.amax(1, keepdim=True) - count)).long()
    width = count * size
    text = torch.minimum((width ** (length / _SHORT)).long(), width)
    opened = chance < share
    return Gaps(first, count * opened, text * opened)


def open_gaps(plain: Packed, gaps: Gaps, size: int, end: int) -> Packed:
    """Give every gap its blocks, close its text with `end` where it does not fill them, and read them last.

    What stands behind the text moves to the right by the positions that are left over, and what falls out of the row
    fills these. That does not count, as nothing behind an end of text does (see `lay_out`).
    """
    places = torch.arange(plain.length, device=plain.tokens.device)
    stop = (plain.blocks < gaps.first).sum(1, keepdim=True) + gaps.text
    left_over = gaps.count * size - gaps.text
    rolled = stop + (places - stop - left_over) % (plain.length - stop)
    source = torch.where(places < stop, places, rolled)
    closes, fills = (places == stop) & (left_over > 0), (places > stop) & (places < stop + left_over)
    return replace(
        plain,
        tokens=plain.tokens.gather(1, source).masked_fill(closes, end),
        blocks=read_last(plain.blocks, gaps),
        known=plain.known.gather(1, source) & ~fills,
        scored=(plain.scored.gather(1, source) & ~fills) | closes,
    )


def read_last(blocks: Tensor, gaps: Gaps) -> Tensor:
    """Renumber blocks (B, T) int64 in reading order: those left of the gap, those right of it, those in it."""
    behind = gaps.first + gaps.count
    known = torch.where(blocks < gaps.first, blocks, blocks - gaps.count)
    waiting = blocks + blocks.amax(1, keepdim=True) + 1 - behind
    return torch.where((blocks >= gaps.first) & (blocks < behind), waiting, known)
