"""From a document's tokens to the columns in which it is denoised: whole blocks, and nothing behind its end to see."""

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
    """The tokens from `start` to `stop` in `columns` columns, the first block of which has `first`."""

    start: int
    stop: int
    first: int
    columns: int


def lay_out(tokens: Tokens, marks: Tokens, lead: int, size: int) -> Packed:
    """Lay out one document: tokens and marks (n,), its opening and its closing end of text included, to (1, columns).

    A plain document has `lead` columns in its first block, then blocks of `size`. What a conversation's model is to
    write begins with a block of its own, and what is given before ends one: as when it generates.

    Behind the end of a text its last block goes on with tokens of the document itself, which do not count: a canvas
    must not tell by its length where the text ends. (As further ends of text, they would have to count or not. If they
    counted, a canvas's last positions would be ends before anything is known, and samplers would leave texts empty; if
    not, a model would not know that what it guesses there means nothing, and would not end.)
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
    """The columns of a plain document of so many tokens, ends of text included."""
    return lead + max(0, -(-(tokens - lead) // size)) * size


def conversation_width(marks: Tokens, size: int) -> int:
    """The columns of a conversation with these marks, ends of text included."""
    return sum(run.columns for run in _runs(np.concatenate([[GIVEN], marks[1:]]), size, size))


def _runs(marks: Tokens, lead: int, size: int) -> Iterator[_Run]:
    """Cut a document where what is given and what is to be written meet."""
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
