"""The tokens of a corpus on disk, memory-mapped: for each side of the split tokens, loss mask and boundaries."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ssdcli.data.canaries import scatter
from ssdcli.data.cloze import Branches
from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.marking import CLOSING, Marked, Marker
from ssdcli.data.split import SplitSettings, fingerprint, split_documents, whole_documents
from ssdcli.data.trained_documents import TrainedDocuments
from ssdcli.errors import SsdError
from ssdcli.machine.units import counted
from ssdcli.text.chat_template import Chat

MIN_TRAINING_TOKENS = 64

_VERSION = 2
_INFO = "store.json"
_BATCH_CHARACTERS = 1_000_000
_BATCH_DOCUMENTS = 512

Tokens = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class StoreSettings:
    """How documents become a store.

    eot_id: the id of end of text, which separates documents.
    split: which of them are held out; None for a store of text that is not trained on, of any size.
    chat: the template of conversations; without one their turns are paragraphs.
    ends: ids with which a template may close an answer.
    planted: texts to train on beside the documents.
    """

    eot_id: int
    split: SplitSettings | None = field(default_factory=SplitSettings)
    chat: Chat | None = None
    ends: tuple[int, ...] = ()
    planted: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideInfo:
    """The size of one side of the split.

    tokens: separators included.
    documents: conversations included.
    conversations: how many of the documents are conversations.
    bytes: of the text as UTF-8.
    characters: of the text.
    """

    tokens: int
    documents: int
    conversations: int
    bytes: int
    characters: int


@dataclass(frozen=True)
class StoreInfo:
    """What a finished store holds.

    version: of the format.
    dtype: of the tokens.
    eot_id: the id of end of text, which separates documents.
    vocabulary: how many ids the tokenizer has.
    seed: decided which documents were held out.
    heldout_fraction: how many were, between 0 and 1.
    fingerprint: names the set of documents that it was made from.
    train: the size of the training side.
    heldout: the size of the held-out side.
    read: the counts of the report of reading.
    report: the sentences of that report.
    """

    version: int
    dtype: str
    eot_id: int
    vocabulary: int
    seed: int
    heldout_fraction: float
    fingerprint: str
    train: SideInfo
    heldout: SideInfo
    read: dict[str, Any]
    report: list[str]


@dataclass(frozen=True)
class TokenStore:
    """A finished store: `train` and `heldout` are `EOT document EOT document ... EOT`, (tokens,) integers.

    The marks of their tokens are the loss mask: GIVEN, WRITTEN or CLOSING. Separators are CLOSING; a plain document is
    WRITTEN throughout.

    folder: holds its files.
    info: what they hold.
    """

    folder: Path
    info: StoreInfo

    @classmethod
    def is_finished(cls, folder: Path) -> bool:
        """Whether a folder holds a whole store of this version."""
        try:
            cls.open(folder)
        except SsdError:
            return False
        return True

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Open a finished store; SsdError if it is missing, unfinished or damaged."""
        try:
            info = _read_info(folder)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _not_a_store(folder, f"its '{_INFO}' is missing or unreadable") from error
        for name, side in (("train", info.train), ("heldout", info.heldout)):
            _check_size(folder / f"{name}.bin", side.tokens * np.dtype(info.dtype).itemsize)
            _check_size(folder / f"{name}_marks.bin", side.tokens)
        return cls(folder, info)

    @cached_property
    def train(self) -> Tokens:
        """The training tokens, mapped from disk."""
        return self._map("train", self.info.dtype)

    @cached_property
    def heldout(self) -> Tokens:
        """The held-out tokens, mapped from disk."""
        return self._map("heldout", self.info.dtype)

    @cached_property
    def train_marks(self) -> Tokens:
        """The marks of the training tokens, uint8, mapped from disk."""
        return self._map("train_marks", "uint8")

    @cached_property
    def heldout_marks(self) -> Tokens:
        """The marks of the held-out tokens, uint8, mapped from disk."""
        return self._map("heldout_marks", "uint8")

    @cached_property
    def train_documents(self) -> list[tuple[int, int, int]]:
        """Start, stop (separators left out) and UTF-8 bytes of each training document."""
        return self._documents("train", self.info.train)

    @cached_property
    def heldout_documents(self) -> list[tuple[int, int, int]]:
        """Start, stop (separators left out) and UTF-8 bytes of each held-out document."""
        return self._documents("heldout", self.info.heldout)

    def origins(self, side: Literal["train", "heldout"]) -> list[tuple[str, int]]:
        """The source and the first line of each document of a side; none in a store of an earlier version."""
        path = self.folder / f"{side}_origins.json"
        if not path.exists():
            return []
        return [(source, line) for source, line in json.loads(path.read_text(encoding="utf-8"))]

    def _map(self, name: str, dtype: str) -> Tokens:
        return np.memmap(self.folder / f"{name}.bin", dtype=np.dtype(dtype), mode="r")

    def _documents(self, name: str, side: SideInfo) -> list[tuple[int, int, int]]:
        starts = np.load(self.folder / f"{name}_starts.npy", allow_pickle=False).tolist()
        sizes = np.load(self.folder / f"{name}_bytes.npy", allow_pickle=False).tolist()
        stops = [start - 1 for start in [*starts[1:], side.tokens][: len(starts)]]
        return list(zip(starts, stops, sizes, strict=True))


def build_store(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    settings: StoreSettings,
    report: ReadReport,
) -> TokenStore:
    """Split and tokenise documents into `folder`, replacing what an earlier build left there.

    `report` is the one that the reader of `documents` fills. Memory grows by a few digests and two numbers a document,
    not by its text. Raises SsdError if there is no text, or too little to train on.
    """
    encoder = _plain_encoder(tokenizer, settings.eot_id)
    marker = Marker(encoder, settings.eot_id, settings.chat, settings.ends)
    vocabulary = max(encoder.get_vocab().values()) + 1
    dtype = np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / _INFO).unlink(missing_ok=True)
        with (
            _SideWriter(folder, "train", dtype, settings.eot_id) as train,
            _SideWriter(folder, "heldout", dtype, settings.eot_id) as heldout,
        ):
            split = scatter(_split(documents, settings.split, report), settings.planted)
            trained, branches = TrainedDocuments(), Branches(encoder)
            for document, is_heldout, marked in _marked(split, marker, report):
                (heldout if is_heldout else train).append(document, marked)
                if not is_heldout:
                    trained.add(document.text)
                    branches.add(train.info.documents - 1, document.text, marked.ids, document.cloze)
            _require_enough(train.info, heldout.info, report, trains=settings.split is not None)
            train.finish()
            heldout.finish()
            trained.write(folder)
            branches.write(folder)
        info = StoreInfo(
            version=_VERSION,
            dtype=dtype.name,
            eot_id=settings.eot_id,
            vocabulary=vocabulary,
            seed=0 if settings.split is None else settings.split.seed,
            heldout_fraction=0.0 if settings.split is None else settings.split.heldout_fraction,
            fingerprint=fingerprint(report.digests),
            train=train.info,
            heldout=heldout.info,
            read=report.counts(),
            report=report.lines(),
        )
        _save_info(folder, info)
    except OSError as error:
        problem = f"the tokens of the training text cannot be written to '{folder}': {error.strerror}."
        raise SsdError(problem, "Make room there, or check who may write to it.") from error
    return TokenStore.open(folder)


def _plain_encoder(tokenizer: Tokenizer, eot_id: int) -> Tokenizer:
    """A copy of the tokenizer, since encoding changes its settings."""
    if tokenizer.id_to_token(eot_id) is None:
        problem = f"the tokenizer has no token of id {eot_id} to separate documents."
        raise SsdError(problem, "Use the end-of-text id of the tokenizer's own model.")
    return Tokenizer.from_str(tokenizer.to_str())


def _batches(split: Iterable[tuple[Document, bool]]) -> Iterator[list[tuple[Document, bool]]]:
    """Yield batches of bounded size, since an encoding takes many times the memory of its text."""
    batch: list[tuple[Document, bool]] = []
    characters = 0
    for document, is_heldout in split:
        batch.append((document, is_heldout))
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _marked(
    split: Iterable[tuple[Document, bool]], marker: Marker, report: ReadReport
) -> Iterator[tuple[Document, bool, Marked]]:
    """Yield the documents, each with whether it is held out and its marked tokens."""
    for batch in _batches(split):
        tokens = marker.mark([document for document, _ in batch])
        for (document, is_heldout), marked in zip(batch, tokens, strict=True):
            if document.turns and not marked.ids:
                report.skip("not a conversation for the core's chat template", document.source, "conversation")
            yield document, is_heldout, marked


def _split(
    documents: Iterable[Document], settings: SplitSettings | None, report: ReadReport
) -> Iterator[tuple[Document, bool]]:
    return whole_documents(documents, report) if settings is None else split_documents(documents, settings, report)


def _require_enough(train: SideInfo, heldout: SideInfo, report: ReadReport, *, trains: bool) -> None:
    if train.documents + heldout.documents == 0:
        problem = f"there is no text{' to train on' * trains}: {'; '.join(report.lines())}."
        raise SsdError(problem, "Name files or folders that hold text.")
    tokens = train.tokens - train.documents - 1
    if trains and (tokens < MIN_TRAINING_TOKENS or heldout.documents == 0):
        problem = (
            f"there is too little text: found {counted(report.words, 'word')}; training needs at least "
            f"{MIN_TRAINING_TOKENS} tokens (found {tokens}) besides a part to hold out."
        )
        raise SsdError(problem, "Add more text; a few pages are a good start.")


class _SideWriter:
    """Writes one side of a store under temporary names; they are removed unless it is finished."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], eot_id: int) -> None:
        self._folder = folder
        self._name = name
        self._dtype = dtype
        self._eot_id = eot_id
        self._starts = array("q")
        self._bytes = array("q")
        self._origins: list[tuple[str, int]] = []
        self._tokens = 0
        self._conversations = 0
        self._characters = 0
        self._paths = (folder / f"{name}.bin", folder / f"{name}_marks.bin")

    def __enter__(self) -> Self:
        self._files = [_open_private(_partial(path)) for path in self._paths]
        self._put([self._eot_id], [CLOSING])
        return self

    def __exit__(self, *error: object) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            _partial(path).unlink(missing_ok=True)

    @property
    def info(self) -> SideInfo:
        """The size of what has been written so far."""
        return SideInfo(self._tokens, len(self._starts), self._conversations, sum(self._bytes), self._characters)

    def append(self, document: Document, marked: Marked) -> None:
        """Add one document and the separator after it; a document without tokens is left out."""
        if not marked.ids:
            return
        self._starts.append(self._tokens)
        self._origins.append((document.source, document.line))
        self._bytes.append(len(document.text.encode("utf-8")))
        self._characters += len(document.text)
        self._conversations += bool(document.turns)
        self._put([*marked.ids, self._eot_id], [*marked.marks, CLOSING])

    def finish(self) -> None:
        """Give the files their names."""
        for name, numbers in (("starts", self._starts), ("bytes", self._bytes)):
            path = self._folder / f"{self._name}_{name}.npy"
            with _open_private(_partial(path)) as file:
                np.save(file, np.frombuffer(numbers, dtype=np.int64), allow_pickle=False)
                _commit(file, path)
        path = self._folder / f"{self._name}_origins.json"
        with _open_private(_partial(path)) as file:
            file.write(json.dumps(self._origins, ensure_ascii=False).encode("utf-8", "replace"))
            _commit(file, path)
        for file, path in zip(self._files, self._paths, strict=True):
            _commit(file, path)

    def _put(self, ids: list[int], marks: list[int]) -> None:
        columns = np.asarray(ids, dtype=self._dtype), np.asarray(marks, dtype=np.uint8)
        for file, column in zip(self._files, columns, strict=True):
            file.write(column.tobytes())
        self._tokens += len(ids)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _open_private(path: Path) -> BinaryIO:
    """Open a new file that only its owner can read."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _commit(file: BinaryIO, path: Path) -> None:
    """Force a partial file to the disk, then give it its name."""
    file.flush()
    os.fsync(file.fileno())
    _partial(path).replace(path)


def _save_info(folder: Path, info: StoreInfo) -> None:
    path = folder / _INFO
    with _open_private(_partial(path)) as file:
        file.write(json.dumps(asdict(info), indent=2).encode("utf-8"))
        _commit(file, path)


def _read_info(folder: Path) -> StoreInfo:
    values = json.loads((folder / _INFO).read_text(encoding="utf-8"))
    if values["version"] != _VERSION:
        raise ValueError(f"version {values['version']} instead of {_VERSION}")
    train, heldout = SideInfo(**values.pop("train")), SideInfo(**values.pop("heldout"))
    return StoreInfo(train=train, heldout=heldout, **values)


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else 0
    if found != expected:
        raise _not_a_store(path.parent, f"'{path.name}' has {found} bytes instead of {expected}")


def _not_a_store(folder: Path, reason: str) -> SsdError:
    problem = f"the folder '{folder}' holds no finished token store: {reason}."
    return SsdError(problem, "Start the training again from its text.")
