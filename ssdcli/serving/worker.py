"""The one thread that owns the models: it takes calls from a queue and writes them in batches, block by block.

Texts that wait together and are written alike by the same ensemble become one batch, whose rows share passes. Batches
take turns: each writes a block, and what has come meanwhile begins after it. While one reads a long prompt, the others
have a turn after each chunk of it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdcli.engine.pauses import in_pauses
from ssdcli.errors import on_out_of_memory
from ssdcli.machine.placement import FREE, Placement
from ssdcli.registry.store import Registry
from ssdcli.serving.asking import Ask, Refused
from ssdcli.serving.ensembles import Ensembles
from ssdcli.serving.scoring import Spelling, TokenScore, echoed, of_shares

if TYPE_CHECKING:
    from ssdcli.generation.row import Row
    from ssdcli.generation.types import Options, Piece, Result
    from ssdcli.generation.writer import Writer

COUNTS = ("batches", "texts", "prompt_tokens", "completion_tokens", "drafted_tokens", "accepted_tokens")


@dataclass(frozen=True)
class Part:
    """What has become certain of a text.

    index: the text's place: of the second prompt's first text, with n = 3, it is 3.
    text, tokens: what is new, and its log-probabilities where they were asked for.
    result: with the last part. read: the tokens of the prompt.
    """

    index: int
    text: str
    tokens: tuple[TokenScore, ...] = ()
    result: Result | None = None
    read: int = 0


@dataclass(eq=False)
class Job:
    """A call and who waits for it: `tell` may be called from another thread; `left` once nobody waits any more."""

    ask: Ask
    tell: Callable[[Part | Refused], None]
    left: bool = False


@dataclass(eq=False)
class _Text:
    """A text of a call while it is written."""

    job: Job
    index: int
    row: Row
    writer: Writer
    alone: bool = False  # written by itself, after its batch failed
    begun: bool = False
    done: bool = False

    @property
    def like(self) -> Options:
        """The options that all texts of a batch have in common."""
        return replace(self.job.ask.options, max_tokens=0, stop=(), seed=None, n=1)

    def goes_with(self, other: _Text) -> bool:
        """Whether both may be written in one batch."""
        return self is other or (
            self.writer is other.writer and not (self.alone or other.alone) and self.like == other.like
        )


@dataclass(eq=False)
class _Batch:
    """Texts that are written together; overtaken: how many other batches began while their prompts were read."""

    texts: Sequence[_Text]
    pieces: Iterator[tuple[int, Piece]]
    overtaken: int = 0

    @property
    def open(self) -> list[_Text]:
        """The texts that are not finished."""
        return [text for text in self.texts if not text.done]


class _Abandoned(Exception):
    """What is being read need not be read to its end."""


class Worker(threading.Thread):
    """The thread; `counts` are its figures, by the names in COUNTS."""

    def __init__(self, registry: Registry, placement: Placement = FREE, parallel: int = 8, waiting: int = 64) -> None:
        """parallel: texts that are written at once. waiting: texts that may wait, beyond which calls are refused."""
        super().__init__(name="ssd-worker", daemon=True)
        self.registry = registry
        self.parallel = parallel
        self.waiting = waiting
        self.counts: Counter[str] = Counter()
        self._ensembles = Ensembles(placement)
        self._jobs: deque[Job] = deque()
        self._texts: deque[_Text] = deque()
        self._batches: list[_Batch] = []
        self._running: list[_Batch] = []  # each in a pause of the one before
        self._changed = threading.Condition()
        self._closing = False

    def submit(self, job: Job) -> None:
        """Queue a call; Refused if the queue is full."""
        if job.ask.texts > self.waiting:
            raise Refused(400, f"at most {self.waiting} texts can be asked for at once.", param="n")
        with self._changed:
            if self._closing:
                raise Refused(503, "the server is closing.")
            if self.queued + job.ask.texts > self.waiting:
                raise Refused(429, "the queue is full. Try again later.", "rate_limit_exceeded")
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """End after the block that is being written; calls that are not answered are refused."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self.join()

    @property
    def queued(self) -> int:
        """Texts that wait."""
        return sum(job.ask.texts for job in list(self._jobs) if not job.left) + len(self._texts)

    @property
    def writing(self) -> int:
        """Texts that are being written."""
        return sum(len(batch.open) for batch in list(self._batches))

    def run(self) -> None:
        """Work until `close`."""
        in_pauses.set(self._pause)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._jobs or self._texts or self._batches)
                if self._closing:
                    break
            self._prepare()
            self._begin()
            self._take_turns()
        texts = [text.job for batch in self._batches for text in batch.open]
        for job in [*self._jobs, *(text.job for text in self._texts), *texts]:
            job.tell(Refused(503, "the server is closing."))

    def _prepare(self) -> None:
        """Load what the first calls need and turn these into texts, as many as can begin."""
        while self._jobs and len(self._texts) < self.parallel - self.writing:
            job = self._jobs.popleft()
            if job.left:
                continue
            try:
                self._texts.extend(self._texts_of(job))
            except Exception as error:
                job.tell(Refused.because(error))

    def _texts_of(self, job: Job) -> list[_Text]:
        ask = job.ask
        writer = self._ensembles.open(ask.spec(self.registry))
        rows = list(writer.rows(ask.requests(writer), ask.options))
        if ask.echo:
            for place, prompt in enumerate(ask.prompts):
                text, tokens, read = echoed(Spelling(writer, ask.as_ids), prompt, ask.context, ask.logprobs)
                for k in range(ask.options.n):
                    job.tell(Part(place * ask.options.n + k, text, tokens, read=read))
        return [_Text(job, index, row, writer) for index, row in enumerate(rows)]

    def _begin(self) -> None:
        """Start batches of the texts that wait, in order, as long as there is room."""
        self._texts = deque(text for text in self._texts if not text.job.left)
        while self._texts and (room := self.parallel - self.writing) > 0:
            first = self._texts[0]
            alike = [text for text in self._texts if text.goes_with(first)][: min(room, first.writer.together)]
            self._texts = deque(text for text in self._texts if text not in alike)
            longest = max(text.job.ask.options.max_tokens for text in alike)
            options = replace(first.like, max_tokens=longest)
            self._batches.append(_Batch(alike, first.writer.write([text.row for text in alike], options)))
            self.counts["batches"] += 1

    def _take_turns(self) -> None:
        """Let each batch write a block, but for those in a pause."""
        for batch in list(self._batches):
            if batch not in self._running:
                self._advance(batch)
        self._batches = [batch for batch in self._batches if batch.open]

    def _pause(self) -> None:
        """While a batch reads: raise _Abandoned if nobody waits for it any more, and let others have their turn.

        Only so many overtake a prompt, so that each is read in the end.
        """
        if not self._running:  # a batch is not what reads
            return
        if self._closing or all(text.job.left for text in self._running[-1].open):
            raise _Abandoned
        if all(batch.overtaken < self.parallel for batch in self._running):
            before = len(self._batches)
            self._prepare()
            self._begin()
            for batch in self._running:
                batch.overtaken += len(self._batches) - before
        self._take_turns()

    def _advance(self, batch: _Batch) -> None:
        """Write the next block of a batch; the texts that nobody waits for are cut."""
        for text in batch.open:
            if text.job.left:
                text.row.cut()
                text.done = True
        self._running.append(batch)
        try:
            with on_out_of_memory("Ask for fewer or shorter texts at once."):
                for _ in batch.open:  # each of them gets a piece of every block
                    place, piece = next(batch.pieces)
                    self._tell(batch.texts[place], piece)
        except _Abandoned:
            for text in batch.open:
                text.job.tell(Refused(503, "the server is closing."))  # if anybody still hears of it
                text.done = True
        except Exception as error:
            self._fail(batch, error)
        finally:
            self._running.pop()

    def _tell(self, text: _Text, piece: Piece) -> None:
        row, ask, told = text.row, text.job.ask, text.begun
        text.begun, text.done = True, piece.result is not None
        tokens = () if ask.logprobs is None else of_shares(row.explained, Spelling(text.writer, ask.as_ids))
        row.explained.clear()
        if not told:
            self.counts["prompt_tokens"] += row.read
        if piece.result is not None:
            self.counts["texts"] += 1
            self.counts["completion_tokens"] += piece.result.tokens
            self.counts["drafted_tokens"] += piece.result.drafted or 0
            self.counts["accepted_tokens"] += piece.result.accepted or 0
        text.job.tell(Part(text.index, piece.text, tokens, piece.result, row.read))

    def _fail(self, batch: _Batch, error: Exception) -> None:
        """Let each text of a batch that failed before it began be written by itself, else refuse it."""
        again = len(batch.texts) > 1 and not any(text.begun for text in batch.texts)
        for text in batch.open:
            if again:
                self._texts.append(replace(text, alone=True))
            else:
                text.job.tell(Refused.because(error))
                text.job.left = True
            text.done = True
