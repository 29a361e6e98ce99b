"""Text files as the benchmarks train and measure on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ssdcli.data.documents import ReadReport
from ssdcli.data.marking import CLOSING, WRITTEN
from ssdcli.data.readers.files import read_documents
from ssdcli.data.windows import Texts


def read_texts(path: Path, limit: int | None = None) -> list[str]:
    """The texts of a file or folder, at most the first `limit`."""
    return [document.text for document in read_documents((str(path),), ReadReport())][:limit]


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of texts, special ones spelled out; those without any are left out."""
    tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False) if encoding.ids]


def packable(documents: Sequence[Sequence[int]], end: int) -> Texts:
    """Plain documents as a token store holds them; `end` is the id of end of text."""
    stream = [end, *(token for document in documents for token in [*document, end])]
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    starts = np.cumsum(lengths + 1) - lengths
    marks = np.full(len(stream), WRITTEN, dtype=np.uint8)
    marks[[0, *(starts + lengths)]] = CLOSING
    return Texts(np.array(stream, dtype=np.int64), marks, starts, starts + lengths)
