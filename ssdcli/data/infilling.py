"""Gaps in training texts: a few blocks that come last in reading order, when both sides of them are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.packed import Packed

# Of a uniform draw: 1, 2 and 3 blocks are as likely as 1 : 1/2 : 1/3 = 6 : 3 : 2.
_LIMITS = (6 / 11, 9 / 11)
_SHORT = 0.5  # share of the gaps whose text ends before they do


@dataclass(frozen=True)
class Gaps:
    """A gap in each sample, (B, 1) int64 each.

    first: the number of its first block.
    count: its blocks, 0 for no gap.
    text: the tokens of the text that belongs in it.
    """

    first: Tensor
    count: Tensor
    text: Tensor


@dataclass(frozen=True)
class Infilling:
    """How a model learns to fill gaps.

    share: of the texts that get a gap.
    end: the id of end of text, which closes a text that does not fill its gap.
    """

    share: float
    end: int

    def open(self, text: Packed, size: int, noise: Noise) -> Packed:
        """Open a gap in one text (1, T) with blocks of `size` tokens, or leave it as it is.

        A text that is too short for the longest gap and a block at either side gets none.
        """
        if int(text.blocks.max()) < len(_LIMITS) + 2:
            return text
        return open_gaps(text, draw_gaps(text.blocks, size, self.share, noise), size, self.end)


def draw_gaps(blocks: Tensor, size: int, share: float, noise: Noise) -> Gaps:
    """Draw the gaps of samples.

    A gap has k blocks with probability proportional to 1/k, k = 1..3, anywhere between the first and the last block.
    Half of the gaps are full; in the others the text's length n is log-uniform, width^u for uniform u: at every scale,
    short texts are as well represented as long ones.

    blocks: (B, T) int64, numbered from left to right.
    """
    chance, kind, place, length = (noise.uniform(1) for _ in range(4))
    count = 1 + torch.bucketize(kind, torch.tensor(_LIMITS, device=blocks.device))
    first = 1 + (place * (blocks.amax(1, keepdim=True) - count)).long()
    width = count * size
    text = torch.minimum((width ** (length / _SHORT)).long(), width)
    opened = chance < share
    return Gaps(first, count * opened, text * opened)


def open_gaps(plain: Packed, gaps: Gaps, size: int, end: int) -> Packed:
    """Give every gap its blocks, which come last in reading order; `end` closes a text that does not fill them.

    What follows the text moves right by the positions that are left over, and what falls out of the row fills these,
    outside of the loss, as after any end of text (see `in_blocks`).
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
    """Renumber blocks (B, T) int64 in reading order: left of the gap, right of it, in it."""
    behind = gaps.first + gaps.count
    known = torch.where(blocks < gaps.first, blocks, blocks - gaps.count)
    waiting = blocks + blocks.amax(1, keepdim=True) + 1 - behind
    return torch.where((blocks >= gaps.first) & (blocks < behind), waiting, known)
