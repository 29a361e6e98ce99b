"""What of a training's text a memory holds, and where."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssdcli.data.store_side import Side, StoreSide
from ssdcli.data.token_store import TokenStore
from ssdcli.models.memory.memory_files import Memory, Origin, remember
from ssdcli.models.memory.text_index import Ids


def memory_of(store: TokenStore) -> Memory:
    """The memory of a training's text, held-out documents included, planted ones not."""
    return remember(*texts_of(store))


def texts_of(store: TokenStore) -> tuple[list[NDArray[np.integer]], list[Origin]]:
    """The texts of a store, planted ones left out, and where each comes from."""
    texts: list[NDArray[np.integer]] = []
    origins: list[Origin] = []
    for side in (StoreSide.of(store, "train"), StoreSide.of(store, "heldout")):
        for (start, stop, _), origin, planted in zip(side.documents, side.origins, side.planted, strict=True):
            if not planted:
                texts.append(side.tokens[start:stop])
                origins.append(Origin(*origin))
    return texts, origins


def places_in(memory: Memory, store: TokenStore, name: Side, places: Ids) -> Ids:
    """Where in the memory of a store the tokens at places of one of its sides stand: (n,) int64.

    It is -1 for what the memory does not hold: the ends behind documents, and planted documents.
    """
    side, before = StoreSide.of(store, name), 0
    if name == "heldout":
        before = StoreSide.of(store, "train").planted.count(False)
    kept = ~np.array(side.planted, bool)
    first = np.full(len(kept), -1, np.int64)
    first[kept] = memory.index.borders[before : before + kept.sum()] + 1
    starts, stops, _ = np.array(side.documents, np.int64).reshape(-1, 3).T
    document = np.searchsorted(starts, places, "right") - 1
    held = (places < stops[document]) & (first[document] >= 0)
    found: Ids = np.where(held, first[document] + places - starts[document], -1)
    return found
