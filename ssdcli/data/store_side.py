"""One side of a token store, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ssdcli.data.canaries import PLANTED
from ssdcli.data.token_store import Tokens, TokenStore

Side = Literal["train", "heldout"]


@dataclass(frozen=True)
class StoreSide:
    """The documents of one side.

    tokens, marks: as in `TokenStore`, (n,).
    documents: start, stop and UTF-8 bytes of each.
    origins: the source and the first line of each; of no source in a store of an earlier version.
    """

    tokens: Tokens
    marks: Tokens
    documents: list[tuple[int, int, int]]
    origins: list[tuple[str, int]]

    @classmethod
    def of(cls, store: TokenStore, name: Side) -> StoreSide:
        """The side of this name."""
        if name == "train":
            tokens, marks, documents = store.train, store.train_marks, store.train_documents
        else:
            tokens, marks, documents = store.heldout, store.heldout_marks, store.heldout_documents
        return cls(tokens, marks, documents, store.origins(name) or [("", 1)] * len(documents))

    @property
    def planted(self) -> list[bool]:
        """Whether each document was planted among the user's own."""
        return [source == PLANTED for source, _ in self.origins]
