"""A memory on disk: arrays that are mapped, not read, and a table of where its texts come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from ssdcli.errors import SsdError
from ssdcli.models.memory.recall import Recall, load_recall, save_recall
from ssdcli.models.memory.text_index import BORDER, DEPTH, Index, parts_of, shifted, sorted_places
from ssdcli.registry.archive import MEMORY_FILES, RECALL
from ssdcli.registry.disk import write_atomic

_TOKENS, _ORDER, _TABLE = MEMORY_FILES
_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """Where a text of a memory comes from.

    source: the file, such as `notes.md` or `mail.jsonl:17`.
    line: its first line there, from 1, as far as is known.
    """

    source: str
    line: int = 1


@dataclass(frozen=True)
class Memory:
    """An index of texts that knows where each comes from.

    origins: one for each text of the index.
    recall: keys of its places by a core's states, where that core has read it.
    """

    index: Index
    origins: tuple[Origin, ...]
    recall: Recall | None = None

    def without(self, texts: Sequence[Sequence[int]]) -> Memory:
        """The memory that lacks some texts and their near-duplicates (see `Index.without`)."""
        kept = self.index.unlike(texts)
        index = Index.of([self.index.texts()[place] for place in kept], self.index.depth)
        recall = self.recall and self.recall.moved(self.index, kept)
        return Memory(index, tuple(self.origins[place] for place in kept), recall)

    def find(self, before: Sequence[int], token: int) -> tuple[int, int]:
        """The longest context of a token that the memory shares, in tokens, and the last place where it does."""
        found = 0, 0
        for length, (start, stop) in enumerate(self.index.slices(before)):
            places = self.index.order[start:stop]
            places = places[self.index.tokens[places] == token]
            if not len(places):
                break
            found = length, int(places.max())
        return found

    def where(self, place: int, decode: Callable[[Sequence[int]], str]) -> str:
        """FILE:LINE of a place, as far as the text's own lines tell."""
        text = self.index.text_of(place)
        start, origin = int(self.index.borders[text]) + 1, self.origins[text]
        return f"{origin.source}:{origin.line + decode(self.index.tokens[start:place].tolist()).count(chr(10))}"

    @property
    def size(self) -> dict[str, int]:
        """What a manifest says of it."""
        return {"texts": len(self.origins), "tokens": self.index.size}


NOTHING = Memory(Index.of([]), ())


def save_memory(folder: Path, memory: Memory, tokenizer: str) -> None:
    """Write a memory into a model's folder; tokenizer: the fingerprint of the one that made its tokens."""
    np.save(folder / _TOKENS, memory.index.tokens, allow_pickle=False)
    np.save(folder / _ORDER, memory.index.order, allow_pickle=False)
    _write_table(folder, memory.origins, memory.index.depth, tokenizer)
    if memory.recall is not None:
        save_recall(folder / RECALL, memory.recall)


def write_memory(folder: Path, texts: Sequence[NDArray[Any]], origins: Sequence[Origin], tokenizer: str) -> Memory:
    """Index texts into a model's folder, and map them: what `save_memory` of `remember` writes, in less memory."""
    kept = [place for place, text in enumerate(texts) if len(text)]
    tokens, known = shifted([texts[place] for place in kept]), [origins[place] for place in kept]
    _write_ids(folder / _TOKENS, len(tokens), (part.astype(np.int32) + BORDER for _, part in parts_of(tokens)))
    _write_ids(folder / _ORDER, len(tokens) - len(kept) - 1, sorted_places(tokens, DEPTH))
    _write_table(folder, known, DEPTH, tokenizer)
    return Memory(Index(_mapped(folder / _TOKENS), _mapped(folder / _ORDER), DEPTH), tuple(known))


def _write_ids(path: Path, count: int, parts: Iterator[NDArray[np.int32]]) -> None:
    """Write an array of so many ids that comes in parts."""
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).data)


def _write_table(folder: Path, origins: Sequence[Origin], depth: int, tokenizer: str) -> None:
    table = {"version": _VERSION, "depth": depth, "tokenizer": tokenizer, "texts": [asdict(one) for one in origins]}
    write_atomic(folder / _TABLE, json.dumps(table, ensure_ascii=False, indent=1) + "\n")


def load_memory(folder: Path, name: str, vocabulary: int, tokenizer: str) -> Memory:
    """Map the memory in a model's folder; SsdError for one that is damaged or holds ids of another tokenizer."""
    try:
        table = json.loads((folder / _TABLE).read_text(encoding="utf-8"))
        origins = tuple(Origin(**origin) for origin in table["texts"])
        tokens, order = (_mapped(folder / file) for file in (_TOKENS, _ORDER))
        if table["version"] != _VERSION or not 1 <= table["depth"] <= DEPTH:
            raise ValueError("another version of ssd wrote it")
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise _unusable(name, f"it cannot be read ({error})") from None
    if table.get("tokenizer") != tokenizer:
        raise _unusable(name, "its text is in the tokens of another tokenizer")
    index = Index(tokens, order, table["depth"])
    if problem := _misfit(index, len(origins), vocabulary):
        raise _unusable(name, problem)
    try:
        recall = load_recall(folder / RECALL, index) if (folder / RECALL).exists() else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise SsdError(
            f"the memory of {name!r} cannot be used: what its core made of it cannot be read ({error}).",
            f"Train the model again, or remove {RECALL} from its folder to have words looked up alone.",
        ) from None
    return Memory(index, origins, recall)


def _mapped(path: Path) -> NDArray[np.int32]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.int32 or array.ndim != 1:
        raise ValueError(f"{path.name} holds no list of ids")
    return np.asarray(array)  # indexing a plain array is faster


def _misfit(index: Index, texts: int, vocabulary: int) -> str | None:
    """What is wrong with an index, as a clause; None for a sound one."""
    tokens, order = index.tokens, index.order
    if len(tokens) != len(order) + texts + 1 or tokens[0] != BORDER or tokens[-1] != BORDER:
        return "its files do not fit each other"
    if len(order) and (order.min() < 1 or order.max() >= len(tokens) - 1):
        return "its index points outside its text"
    if tokens.min() < BORDER or tokens.max() >= vocabulary:
        return "its text is in the tokens of another tokenizer"
    if np.count_nonzero(tokens == BORDER) != texts + 1:
        return "its files do not fit each other"
    return None


def _unusable(name: str, problem: str) -> SsdError:
    return SsdError(
        f"the memory of {name!r} cannot be used: {problem}.",
        f"Build it again with 'ssd train-small DATA --update {name}', or leave it out.",
    )


def remember(texts: Sequence[Sequence[int] | NDArray[Any]], origins: Sequence[Origin]) -> Memory:
    """Index texts, token ids each; empty ones are left out."""
    kept = [place for place, text in enumerate(texts) if len(text)]
    return Memory(Index.of([texts[place] for place in kept]), tuple(origins[place] for place in kept))
