"""Documents as a token store holds them, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssdcli.data.marking import CLOSING, WRITTEN
from ssdcli.data.windows import Corpus
from ssdcli.engine.packed import Packed


def texts_of(documents: Sequence[Sequence[int]], end: int, marks: Sequence[Sequence[int]] | None = None) -> Corpus:
    """Documents, all of them to be written unless `marks` says what of them is given."""
    if marks is None:
        marks = [[WRITTEN] * len(document) for document in documents]
    stream, marked, starts = [end], [CLOSING], []
    for document, marks_of_it in zip(documents, marks, strict=True):
        starts.append(len(stream))
        stream += [*document, end]
        marked += [*marks_of_it, CLOSING]
    first = np.array(starts, dtype=np.int64)
    stops = first + [len(document) for document in documents]
    return Corpus(np.array(stream, dtype=np.uint16), np.array(marked, dtype=np.uint8), first, stops)


def block_ids(length: int, block: int, offsets: Tensor) -> Tensor:
    """Number the positions of a sequence by block: (B, length) int64.

    offsets: (B,) int64 in [0, block), how many positions short the first block of each row is.
    """
    positions = torch.arange(length, device=offsets.device)
    return (positions[None, :] + offsets[:, None]) // block


def plain(tokens: Tensor, block: int, offset: int = 0) -> Packed:
    """One text a row, in blocks of `block` from an offset: tokens (B, T) int64."""
    return Packed.plain(tokens, block_ids(tokens.shape[1], block, torch.full((len(tokens),), offset)))


def batch(packed: Packed, *indices: int) -> dict[str, object]:
    """What the objective is called with for samples of these indices."""
    return {"columns": vars(packed), "index": torch.tensor(indices)}
