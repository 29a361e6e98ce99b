"""Gaps in training samples: a few blocks are read last, when both sides of them are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise

_LIMITS = (6 / 11, 9 / 11)  # a gap has 1, 2 or 3 blocks with probabilities in the ratio of 1 to 1/2 to 1/3
_SHORT = 0.5  # the share of gaps whose text ends before they do


@dataclass(frozen=True)
class Reading:
    """Samples as they are denoised, (B, T) each.

    tokens: int64. blocks: int64, each token's block, numbered in reading order. counted: bool, whose loss counts.
    """

    tokens: Tensor
    blocks: Tensor
    counted: Tensor

    @classmethod
    def plain(cls, tokens: Tensor, blocks: Tensor) -> Reading:
        """All tokens count, in blocks (B, T) int64."""
        return cls(tokens, blocks, torch.ones_like(tokens, dtype=torch.bool))


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
    """Teaches a model to fill gaps: a share of the samples gets one; `end` is the id of end of text."""

    share: float
    end: int

    def read(self, tokens: Tensor, blocks: Tensor, size: int, noise: Noise) -> Reading:
        """Open gaps in samples whose blocks of `size` tokens are numbered from left to right, (B, T) int64 each.

        ValueError if the samples are too short for the longest gap between two sides.
        """
        shortest = (len(_LIMITS) + 3) * size
        if tokens.shape[1] < shortest:
            raise ValueError(f"samples of {tokens.shape[1]} tokens have no room for gaps: {shortest} are needed")
        return open_gaps(Reading.plain(tokens, blocks), draw_gaps(blocks, size, self.share, noise), size, self.end)


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


def open_gaps(plain: Reading, gaps: Gaps, size: int, end: int) -> Reading:
    """Give every gap its blocks, close its text with `end` where it does not fill them, and read them last.

    What stands behind the text moves to the right by the positions that are left over, and what falls out of the
    sample fills these: an end of text is followed by another text, as everywhere in training. That one does not
    count, since it will never be read. (If ends of text filled them and counted, a gap's last positions would be ends
    before anything is known, and samplers would leave gaps empty; if they did not count, a model would not know that
    text which it guesses there means nothing, and would not end.)
    """
    places = torch.arange(plain.tokens.shape[1], device=plain.tokens.device)
    stop = (plain.blocks < gaps.first).sum(1, keepdim=True) + gaps.text
    left_over = gaps.count * size - gaps.text
    rolled = stop + (places - stop - left_over) % (len(places) - stop)
    tokens = plain.tokens.gather(1, torch.where(places < stop, places, rolled))
    closed = tokens.masked_fill((places == stop) & (left_over > 0), end)
    counted = (places <= stop) | (places >= stop + left_over)
    return Reading(closed, read_last(plain.blocks, gaps), counted)


def read_last(blocks: Tensor, gaps: Gaps) -> Tensor:
    """Renumber blocks (B, T) int64 in reading order: those left of the gap, those right of it, those in it."""
    behind = gaps.first + gaps.count
    known = torch.where(blocks < gaps.first, blocks, blocks - gaps.count)
    waiting = blocks + blocks.amax(1, keepdim=True) + 1 - behind
    return torch.where((blocks >= gaps.first) & (blocks < behind), waiting, known)
