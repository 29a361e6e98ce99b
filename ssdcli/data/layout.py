"""A document's tokens in the whole blocks in which it is denoised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ssdcli.data.marking import CLOSING, GIVEN
from ssdcli.data.token_store import Tokens
from ssdcli.engine.packed import Packed


@dataclass(frozen=True)
class _Run:
    """Consecutive tokens that are all given, or all to be written.

    start: the first of its tokens.
    stop: the place after its last token.
    first: columns of its first block.
    columns: columns in all; blocks after the first are whole.
    """

    start: int
    stop: int
    first: int
    columns: int


def in_blocks(tokens: Tokens, marks: Tokens, lead: int, size: int) -> Packed:
    """Place one document in whole blocks: (1, columns).

    A plain document has `lead` columns in its first block, then blocks of `size`. In a conversation, each answer begins
    a block and each prompt ends one, as in generation.

    The last block is filled up with tokens of the document itself, outside of the loss, since the length of a canvas
    must not reveal where the text ends. Ends of text are no filling: inside the loss they would teach a model to put
    ends at the last positions of every canvas, and samplers would return empty texts; outside of it, nothing would
    teach a model that what it predicts after an end is meaningless, and it would not end.

    tokens, marks: (n,), with the ends of text before and after the document.
    """
    parts, block, position = [], 0, 0
    marks = np.concatenate([[GIVEN], marks[1:]])
    for run in _runs(marks, lead, size):
        column = np.arange(run.columns)
        real = column < run.stop - run.start
        place = np.where(real, run.start + column, 1 + (column - run.stop + run.start) % (len(tokens) - 2))
        known = real & (marks[place] != CLOSING)
        blocks = block + np.maximum(column - run.first + size, 0) // size
        scored = real & (marks[place] != GIVEN)
        parts.append((tokens[place].astype(np.int64), blocks, position + column, known, scored))
        block, position = int(blocks[-1]) + 1, position + int(known.sum())
    tokens_, blocks_, positions, known_, scored_ = (
        torch.from_numpy(np.concatenate(columns))[None] for columns in zip(*parts, strict=True)
    )
    return Packed(tokens_, blocks_, positions, torch.zeros_like(blocks_), known_, scored_)


def plain_width(tokens: int, lead: int, size: int) -> int:
    """The columns of a plain document of so many tokens, both ends of text included."""
    return lead + max(0, -(-(tokens - lead) // size)) * size


def conversation_width(marks: Tokens, size: int) -> int:
    """The columns of a conversation with these marks, both ends of text included."""
    return sum(run.columns for run in _runs(np.concatenate([[GIVEN], marks[1:]]), size, size))


def _runs(marks: Tokens, lead: int, size: int) -> Iterator[_Run]:
    """Cut a document where prompts and answers meet."""
    given = marks == GIVEN
    if not given[1:].any():
        yield _Run(0, len(marks), lead, plain_width(len(marks), lead, size))
        return
    edges = [0, *(np.flatnonzero(given[1:] != given[:-1]) + 1).tolist(), len(marks)]
    for start, stop in pairwise(edges):
        length, blocks = stop - start, -(-(stop - start) // size)
        if given[start]:
            yield _Run(start, stop, length - (blocks - 1) * size, length)
        else:
            yield _Run(start, stop, size, blocks * size)
