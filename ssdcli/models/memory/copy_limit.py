"""How much of a memory's text may be written word for word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssdcli.models.memory.text_index import BORDER, Index


@dataclass(frozen=True)
class MemoryCopyLimit:
    """Forbids what would copy more than some tokens in a row of any of several indexed texts.

    indexes: of the texts.
    most: how many tokens in a row may be copied, one at least.
    """

    indexes: tuple[Index, ...]
    most: int

    def forbidden(self, written: Sequence[int]) -> list[int]:
        """The ids that follow the last `most` written tokens somewhere in the texts."""
        copied = list(written[-self.most :])
        if len(copied) < self.most:
            return []
        ids = [_after(index, copied) for index in self.indexes]
        return sorted({int(id) for found in ids for id in found if id != BORDER})


def _after(index: Index, copied: Sequence[int]) -> np.ndarray:
    """The ids that follow these tokens in an indexed text."""
    places = index.places_after(copied)
    return index.tokens[places]
