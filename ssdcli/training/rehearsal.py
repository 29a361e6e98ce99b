"""A teacher that is asked once about each of a cycle of samples: its likeliest tokens are kept on disk."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssdcli.data.windows import Texts, Windows, WindowShape
from ssdcli.training.distilled import Lesson
from ssdcli.training.teacher import Noised, Teacher

KEPT = 32  # tokens of a prediction; what they leave of it is spread evenly over the others

_AT_ONCE = 512  # places whose whole predictions are held together
_CHECK = 4  # bytes before a sample's predictions that tell whether they are whole


class Rehearsal(Windows):
    """The first `period` samples of a training, over and over; their names repeat, and with these their noise."""

    def __init__(self, texts: Texts, shape: WindowShape, seed: int, samples: int, period: int) -> None:
        """`samples` bounds the index."""
        super().__init__(texts, shape, seed, samples)
        self._period = period

    def __getitem__(self, index: int) -> dict[str, Tensor | dict[str, Tensor]]:
        return super().__getitem__(index % self._period)


class Recollection:
    """A file of likeliest tokens: for each sample (T, k) ids and log p. A sample that was half written is not there."""

    def __init__(self, path: Path, columns: int, kept: int) -> None:
        """Open the file for samples of T columns and k tokens at each, or begin one that nobody else may read."""
        os.close(os.open(path, os.O_CREAT, 0o600))
        self._path = path
        self.kept = kept
        self._shape = (columns, kept)
        self._ids = 4 * columns * kept  # bytes
        self._size = _CHECK + self._ids + self._ids // 2

    def write(self, sample: int, ids: Tensor, log_p: Tensor) -> None:
        """Keep the ids and log p (T, k) of a sample."""
        content = ids.to("cpu", torch.int32).numpy().tobytes() + log_p.to("cpu", torch.float16).numpy().tobytes()
        with self._path.open("r+b") as file:
            file.seek(sample * self._size)
            file.write(zlib.crc32(content).to_bytes(_CHECK, "little") + content)

    def read(self, sample: int) -> tuple[Tensor, Tensor] | None:
        """The ids int64 and log p float32 (T, k) of a sample, if they are there."""
        with self._path.open("rb") as file:
            file.seek(sample * self._size)
            found = file.read(self._size)
        check, content = found[:_CHECK], found[_CHECK:]
        if len(found) < self._size or zlib.crc32(content) != int.from_bytes(check, "little"):
            return None
        ids = np.frombuffer(content[: self._ids], np.int32).reshape(self._shape)
        log_p = np.frombuffer(content[self._ids :], np.float16).reshape(self._shape)
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(log_p.astype(np.float32))


@dataclass(frozen=True)
class CachedTeacher:
    """A teacher whose answers are taken from a recollection as soon as they are there.

    rows: of the learner's vocabulary.
    """

    teacher: Teacher
    recollection: Recollection
    rows: int

    @torch.no_grad()
    def lesson(self, noised: Noised, due: Tensor) -> Lesson:
        """What the teacher expects at the columns `due`, (N,) int64 places in (B, T), whether new or known."""
        samples, device = noised.index.tolist(), due.device
        new = [row for row, sample in enumerate(samples) if self.recollection.read(sample) is None]
        if new:
            self._ask(noised, due, torch.tensor(new, device=device))
        known = [self.recollection.read(sample) for sample in samples]
        ids, log_p = (torch.stack(part).flatten(0, 1).to(device)[due] for part in zip(*known, strict=True))
        tokens = self.teacher.vocabulary.rows(noised.packed.tokens.reshape(-1)[due])
        return Lesson(tokens, lambda rows: self._spread(ids[rows], log_p[rows].exp()), self.teacher.share)

    def _ask(self, noised: Noised, due: Tensor, rows: Tensor) -> None:
        """Write down what the teacher expects at the due columns of some rows."""
        asked = Noised(noised.packed.rows(rows), noised.canvas[rows], noised.t[rows], noised.index[rows])
        hidden, shape = self.teacher.hidden(asked), noised.t.shape
        wanted = torch.zeros(noised.t.numel(), dtype=torch.bool, device=due.device).index_fill(0, due, True)
        places = wanted.view(shape)[rows].reshape(-1).nonzero().squeeze(1)
        kept = self.recollection.kept
        ids = torch.zeros(len(hidden), kept, dtype=torch.int64, device=due.device)
        log_p = torch.zeros(len(hidden), kept, device=due.device)
        for part in places.split(_AT_ONCE):
            top = self.teacher.probabilities(hidden[part]).topk(kept)
            ids[part], log_p[part] = top.indices, top.values.log()
        for sample, *answers in zip(
            asked.index.tolist(), *(x.view(len(rows), -1, kept) for x in (ids, log_p)), strict=True
        ):
            self.recollection.write(sample, *answers)

    def _spread(self, ids: Tensor, p: Tensor) -> Tensor:
        """Probabilities of all rows of the vocabulary: ids, p (n, k) to (n, rows)."""
        muted = self.teacher.vocabulary.muted
        rest = (1 - p.sum(-1, keepdim=True)).clamp(min=0) / max(1, self.rows - len(muted) - ids.shape[-1])
        spread = rest.expand(-1, self.rows).index_fill(-1, muted, 0).scatter(-1, ids, p)
        return spread.div_(spread.sum(-1, keepdim=True))
