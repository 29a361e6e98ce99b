"""What a core makes of the training text: its hidden states at every token that is to be predicted, kept on disk.

The core is frozen, so that its states are computed once, however often a small model learns from them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from ssdcli.data.marking import CLOSING, GIVEN, WRITTEN
from ssdcli.data.store_side import StoreSide
from ssdcli.errors import SsdError
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.models.memory.text_index import Ids
from ssdcli.options.checks import seed_word
from ssdcli.registry.disk import write_atomic
from ssdcli.training.cloze_states import ClozeStates

WINDOW = 1024  # tokens that the core reads at once, at most; longer documents are read in parts
SAMPLE = 64  # positions of a training sample
_TOGETHER = 2048  # tokens of a pass
_MOST_BYTES = 4 << 30  # of states on disk
_SPARED = 1 << 30  # bytes that they leave free, or half of what is free
_FEWEST = 10_000  # tokens of a longer text that the disk must have room for
_FILES = _STATES, _TARGETS, _PLACES = "core_states.bin", "core_targets.bin", "core_places.bin"
_INFO = "core_states.json"
_EVERY = 30.0  # seconds after which an unfinished reading is kept
_ALL = slice(None)

Stop = Callable[[int], bool]


@dataclass(frozen=True)
class Passage:
    """Tokens that a core reads, and which of them are to be predicted.

    tokens: (n,), an opening first.
    counted: (n - 1,) bool, of the tokens after the first.
    places: (n - 1,), where in its side of the token store each of these stands; a document's end, behind its last.
    """

    tokens: Sequence[int]
    counted: Sequence[bool]
    places: Sequence[int] = ()


Batches = Iterable[tuple[list[Passage], int]]  # passages that are read together, and documents read with them


@torch.no_grad()
def read_passages(core: CausalCore | SmallCausalLM, given: Sequence[Passage]) -> tuple[Tensor, Tensor]:
    """The core's states at the tokens before those that count, (N, (1 + k) H) bfloat16, and these tokens, (N,)."""
    longest = max(len(passage.tokens) for passage in given) - 1
    rows = torch.zeros(len(given), longest, dtype=torch.int64, device=core.device)
    wanted = torch.zeros(len(given), longest, dtype=torch.bool)
    targets: list[int] = []
    for row, passage in enumerate(given):
        rows[row, : len(passage.tokens) - 1] = torch.tensor(passage.tokens[:-1])
        wanted[row, : len(passage.counted)] = torch.tensor(passage.counted)
        targets += [token for token, counts in zip(passage.tokens[1:], passage.counted, strict=True) if counts]
    positions = torch.arange(longest, device=core.device).expand_as(rows)
    states = core.encode(core.embed(rows), positions, None, None)[wanted.to(core.device)]
    return states.to("cpu", torch.bfloat16), torch.tensor(targets, dtype=torch.int64)


def counted_places(given: Sequence[Passage]) -> Ids:
    """The places of the tokens that count, in the order of their states: (N,) int64."""
    return np.concatenate([np.array(passage.places, np.int64)[np.array(passage.counted, bool)] for passage in given])


def remark_on_room(folder: Path, core: CausalCore, tokens: int) -> list[str]:
    """What to say of a disk without room for what a core makes of so many tokens; SsdError where it has hardly any."""
    width = _width(core, core.middle_layers)
    begun, wanted = _Reading.open(folder), _Reading(width, core.width, positions=tokens).bytes
    room = _room(folder)
    if room >= min(wanted, _MOST_BYTES) or (begun is not None and begun.finished):
        return []
    fitting = tokens * room // wanted
    problem = f"the disk of {folder} has room for what the core makes of {fitting:,} of {tokens:,} tokens"
    remedy = "Free some space, or set SSD_HOME to a folder on another disk."
    if fitting < _FEWEST:
        raise SsdError(f"{problem}.", remedy)
    return [f"{problem}, and no more of them are read. {remedy}"]


def _room(folder: Path) -> int:
    """The bytes of states that may lie in a folder, with those that are there already."""
    kept = sum((folder / file).stat().st_size for file in _FILES if (folder / file).exists())
    free = shutil.disk_usage(folder).free + kept
    return min(_MOST_BYTES, max(free // 2, free - _SPARED))


@dataclass(frozen=True)
class CoreStates:
    """States on disk, and the tokens that follow them.

    states: (N, C) int16, memory-mapped, as `_packed` makes them.
    targets: (N,) int64.
    places: (N,) int64, where in the training side of the token store the targets stand.
    documents: how many of the training documents were read.
    wide: the columns that are bits of bfloat16.
    """

    states: NDArray[np.int16]
    targets: Ids
    places: Ids
    documents: int
    wide: int

    @classmethod
    def open(cls, folder: Path) -> CoreStates | None:
        """What `write` has finished in a folder; None for nothing, or what an earlier version wrote."""
        reading = _Reading.open(folder)
        if reading is None or not reading.finished:
            return None
        states = np.memmap(folder / _STATES, np.int16, "r", shape=(reading.positions, reading.columns))
        targets, places = (np.fromfile(folder / file, np.int64) for file in (_TARGETS, _PLACES))
        return cls(states, targets, places, reading.documents, reading.wide)

    def read(self, rows: Ids, columns: slice = _ALL) -> Tensor:
        """Some of the states, (n, (1 + k) H) bfloat16, or some columns of them; those of 8 bits are normalised."""
        wide = self.wide
        first, stop, _ = columns.indices(2 * self.states.shape[1] - wide)
        own = torch.from_numpy(self.states[rows, min(first, wide) : min(stop, wide)]).view(torch.bfloat16)
        if stop <= wide:
            return own
        packed = self.states[rows, (wide + max(first, wide)) // 2 : (wide + stop) // 2]
        rest = torch.from_numpy(np.ascontiguousarray(packed)).view(torch.float8_e4m3fn)
        return torch.cat([own, rest.bfloat16()], dim=-1)

    @classmethod
    def write(cls, folder: Path, core: CausalCore, batches: Batches, stops: Stop, tokens: int = 0) -> CoreStates:
        """Let a core read passages until all are read, the disk's share is full, or it is told.

        A reading of the same passages that was interrupted goes on where it was, or half a minute before. One for which
        the disk is too small leaves nothing on it (OSError).

        stops: asked after every pass with the number of documents that were read.
        tokens: how many there may be; where there is no room for their states, those below the last layer take 8 bits.
        """
        width, found = _width(core, core.taps), _Reading.open(folder)
        fits = _Reading(width, width, positions=tokens).bytes <= _room(folder)
        begun = _Reading(width, width if fits else core.width)
        if found is not None and found.width == width and not found.finished:
            begun = found
        try:
            read = _written(folder, core, batches, stops, begun)
        except OSError:
            for file in (_INFO, *_FILES):
                (folder / file).unlink(missing_ok=True)
            raise
        replace(read, finished=True).keep(folder)
        found_again = cls.open(folder)
        assert found_again is not None
        return found_again


def _packed(states: Tensor, wide: int) -> Tensor:
    """The bits of states (N, D) bfloat16 as int16: of the first `wide` numbers, then of the others in 8 bits each.

    These are of layers of this width, whose readers normalise them; they are kept so, which 8 bits suffice for.
    """
    own, rest = states[:, :wide].view(torch.int16), states[:, wide:]
    if not rest.shape[1]:
        return own
    normalised = functional.rms_norm(rest.unflatten(1, (-1, wide)).float(), (wide,)).flatten(1)
    return torch.cat([own, normalised.to(torch.float8_e4m3fn).view(torch.int16)], dim=1)


def _width(core: CausalCore, layers: Sequence[int]) -> int:
    """The numbers of a state that holds the last layer's and those of these layers."""
    return (1 + len(layers)) * core.width


@dataclass(frozen=True)
class _Reading:
    """How far a core has read.

    width: of a state, in numbers. wide: those that take 16 bits, the others take 8. passes: how many it took.
    positions: states that are on disk. documents: that were read whole. finished: whether it reads no more.
    """

    width: int
    wide: int
    passes: int = 0
    positions: int = 0
    documents: int = 0
    finished: bool = False

    @classmethod
    def open(cls, folder: Path) -> _Reading | None:
        """What `keep` has left in a folder; None for nothing, for what an earlier version left, and for lost files."""
        try:
            told = json.loads((folder / _INFO).read_text(encoding="utf-8"))
            kept = cls(**{"finished": True} | told)  # an earlier version kept no other
            whole = all((folder / file).stat().st_size >= size for file, size in kept.sizes())
        except (FileNotFoundError, TypeError):
            return None
        return kept if whole else None

    @property
    def columns(self) -> int:
        """The numbers of 16 bits that a state takes."""
        return (self.wide + self.width) // 2

    @property
    def bytes(self) -> int:
        """What the files take."""
        return sum(size for _, size in self.sizes())

    def sizes(self) -> Iterator[tuple[str, int]]:
        """The files and the bytes of each."""
        return zip(_FILES, (2 * self.columns * self.positions, 8 * self.positions, 8 * self.positions), strict=True)

    def keep(self, folder: Path) -> None:
        """Write it into a folder."""
        write_atomic(folder / _INFO, json.dumps(asdict(self)) + "\n")


def _written(folder: Path, core: CausalCore, batches: Batches, stops: Stop, read: _Reading) -> _Reading:
    """How far a core has read once it stops; a reading that is interrupted is kept as far as it has come."""
    room = _room(folder)
    with ExitStack() as stack:
        files = [stack.enter_context(_cut(folder / file, size)) for file, size in read.sizes()]

        def keep() -> None:
            for file in files:
                file.flush()
                os.fsync(file.fileno())
            read.keep(folder)

        due = monotonic() + _EVERY
        try:
            for number, (batch, documents) in enumerate(batches):
                if number < read.passes:
                    continue
                states, following = read_passages(core, batch)
                parts = _packed(states, read.wide).numpy(), following.numpy(), counted_places(batch)
                for file, part in zip(files, parts, strict=True):
                    file.write(part.tobytes())
                read = replace(read, passes=number + 1, positions=read.positions + len(following), documents=documents)
                if monotonic() > due:
                    keep()
                    due = monotonic() + _EVERY
                told = stops(documents)
                full = read.bytes >= room
                if read.positions and (told or full):  # of prompts alone nothing is learned
                    break
        except OSError:
            raise
        except BaseException:
            keep()
            raise
        return read


def _cut(path: Path, size: int) -> BinaryIO:
    """A file that is written on after its first bytes."""
    path.touch()
    stream = path.open("r+b")
    stream.truncate(size)
    stream.seek(size)
    return stream


@dataclass(frozen=True)
class CoreTexts:
    """The documents of one side of a token store as a core reads them.

    opening: the id before a document.
    end: the id that ends one.
    window: the tokens that the core reads at once.
    seed: of their order.
    """

    side: StoreSide
    opening: int
    end: int
    window: int
    seed: int

    def passages(self, document: int) -> Iterator[Passage]:
        """The passages of a document, which follows an opening and has the end of text behind it.

        An end after an answer that the template does not write is left out: nothing may be conditioned on it.
        """
        side = self.side
        start, stop, _ = side.documents[document]
        marks = side.marks[start:stop].tolist()
        every = zip(side.tokens[start:stop].tolist(), marks, range(start, stop), strict=True)
        kept = [(token, mark == WRITTEN, place) for token, mark, place in every if mark != CLOSING]
        ending = [] if GIVEN in marks else [(self.end, True, stop)]
        text = [(self.opening, False, start - 1), *kept, *ending]
        for first in range(0, len(text) - 1, self.window):
            tokens, counted, places = zip(*text[first : first + self.window + 1], strict=True)
            yield Passage(tokens, counted[1:], places[1:])

    def batches(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[list[Passage], int]]:
        """Passages that are read together, and how many documents have been read with them.

        wanted: the numbers of the documents to read; None for all.
        """
        numbers = range(len(self.side.documents)) if wanted is None else wanted
        order = np.random.default_rng(seed_word(self.seed)).permutation(numbers).tolist()
        batch: list[Passage] = []
        for done, number in enumerate(order):
            for passage in self.passages(number):
                longest = max(len(one.tokens) for one in [*batch, passage])
                if batch and longest * (len(batch) + 1) > _TOGETHER:
                    yield batch, done
                    batch = []
                batch.append(passage)
        if batch:
            yield batch, len(order)


class StateSamples(Dataset[dict[str, Tensor | dict[str, Tensor]]]):
    """Endless epochs over states, in a new order in each; sample i is always the same.

    Those of words are drawn beside them, in each epoch as many as they are likely to be.
    """

    length = SAMPLE

    def __init__(self, given: CoreStates, seed: int, samples: int, cloze: ClozeStates | None = None) -> None:
        """`samples` is the number of samples to claim."""
        self._given = given
        self._cloze = cloze
        self._shares = np.ones(0) if cloze is None else cloze.shares.numpy()
        self._seed = seed
        self._samples = samples
        self._epoch = -1
        self._order = np.zeros(0, np.int64)
        self._places = np.arange(len(given.targets))

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor | dict[str, Tensor]]:
        each = max(1, int(len(self._places) + self._shares.sum()) // SAMPLE)
        epoch, place = divmod(index, each)
        if epoch != self._epoch:
            random = np.random.default_rng((seed_word(self._seed), epoch))
            words = np.flatnonzero(random.random(len(self._shares)) < self._shares)
            rows = np.concatenate([self._places, len(self._given.targets) + words])
            self._epoch, self._order = epoch, random.permutation(rows)
        chosen = np.resize(self._order[place * SAMPLE : (place + 1) * SAMPLE], SAMPLE)
        scored = {"scored": torch.ones(SAMPLE, dtype=torch.bool)}
        return {"columns": self._columns(chosen) | scored, "index": torch.tensor(index)}

    def _columns(self, rows: Ids) -> dict[str, Tensor]:
        """The states of some rows and the tokens after them."""
        first = len(self._given.targets)
        own, words = rows[rows < first], torch.from_numpy(rows[rows >= first] - first)
        states, targets = self._given.read(own), torch.from_numpy(self._given.targets[own])
        if self._cloze is not None:
            states = torch.cat([states, self._cloze.states[words]])
            targets = torch.cat([targets, self._cloze.targets[words]])
        return {"states": states, "targets": targets}


class RunSamples(StateSamples):
    """The same over runs of 1 + `ahead` neighbours: states (n, 1 + ahead, D) and the tokens between them."""

    def __init__(self, given: CoreStates, seed: int, samples: int, ahead: int) -> None:
        super().__init__(given, seed, samples)
        self._ahead = ahead
        self._places = run_starts(given.places, ahead)

    def _columns(self, rows: Ids) -> dict[str, Tensor]:
        runs = rows[:, None] + np.arange(1 + self._ahead)
        return {"states": self._given.read(runs), "targets": torch.from_numpy(self._given.targets[runs[:, :-1]])}


def run_starts(places: Ids, ahead: int) -> Ids:
    """The rows whose `ahead` next ones stand behind them in the text, too: (M,) int64."""
    near = np.lib.stride_tricks.sliding_window_view(np.diff(places) == 1, ahead) if len(places) > ahead else None
    return np.zeros(0, np.int64) if near is None else np.flatnonzero(near.all(1))
