"""The `Writer`: an ensemble that turns prompts into texts, one by one or in batches."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

from ssdcli.exchange import DEFAULTS, MemberUse, OptionChanges, Options, Piece, Request, Result, require
from ssdcli.transcript import Limits, Transcript

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ssdcli.engine.denoiser import Denoiser
    from ssdcli.engine.sampler import SamplerConfig

BETWEEN = "\n\n"  # what parts a private context from the prompt
_TOGETHER = 8  # rows denoised at once
_SEEDS = 2**31


@dataclass(frozen=True)
class Voice:
    """A loaded member: `weight` is its share, and only a private one sees the private context."""

    name: str
    weight: float
    private: bool
    denoiser: Denoiser


@dataclass(frozen=True)
class _Read:
    """A request as the voices read it: prompts[i] are the ids for voice i."""

    request: Request
    prompts: tuple[list[int], ...]
    kept: tuple[int, ...]  # how many of each the voice has room for
    warnings: tuple[str, ...]


class _Row:
    """A text being written."""

    def __init__(self, read: _Read, id: str | int, seed: int, transcript: Transcript) -> None:
        self.read = read
        self.id = id
        self.seed = seed
        self.transcript = transcript
        self.passes = [0] * len(read.prompts)
        self.steps = 0

    @property
    def finished(self) -> bool:
        return self.transcript.finish_reason is not None

    def count(self, weights: Sequence[float]) -> None:
        """Take note of a denoising step with these weights."""
        self.steps += 1
        self.passes = [n + (weight > 0) for n, weight in zip(self.passes, weights, strict=True)]


class Writer:
    """An ensemble that writes, as made by `ssdcli.load`.

    A seed gives the same bytes alone, in a batch, or as one of n.
    """

    def __init__(self, voices: Sequence[Voice], tokenizer: Tokenizer, end: int, core: str | None) -> None:
        """`end` is the id of end of text; a `core` that is no voice is reported with a weight of zero."""
        from ssdcli.engine.ensemble import Constant, Ensemble, Member

        self.voices = tuple(voices)
        self.core = core
        self._ensemble = Ensemble(tuple(Member(v.name, v.denoiser, Constant(v.weight)) for v in voices))
        self._process = voices[0].denoiser.process
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True  # a prompt that spells a special token does not become it
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._end = end

    def generate(
        self,
        prompt: str,
        options: Options = DEFAULTS,
        *,
        context: str = "",
        on_text: Callable[[str], None] | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Result:
        """Write one text after the prompt; `on_text` is called with each stretch as it is committed.

        Keyword arguments replace fields of the options: generate("Dear", seed=1, max_tokens=20).
        """
        result = None
        for piece in self.stream(prompt, options, context=context, **changes):
            if piece.text and on_text is not None:
                on_text(piece.text)
            result = piece.result
        assert result is not None  # the last piece carries it
        return result

    def stream(
        self,
        prompt: str,
        options: Options = DEFAULTS,
        *,
        context: str = "",
        **changes: Unpack[OptionChanges],
    ) -> Iterator[Piece]:
        """Write one text, block by block, the last piece with the result; keywords replace options."""
        options = replace(options, **changes)
        require(options.n == 1, f"one text is written here, not {options.n}.", "Use generate_batch.")
        for _, piece in self._write(self._rows([Request(prompt, context)], options), options):
            yield piece

    def generate_batch(self, requests: Sequence[Request], options: Options = DEFAULTS) -> list[Result]:
        """Write n texts for each request, in order; a missing id becomes the request's place, from 0."""
        return list(self.results(requests, options))

    def results(self, requests: Sequence[Request], options: Options = DEFAULTS) -> Iterator[Result]:
        """Like `generate_batch`, each result as soon as it and those before it are finished."""
        rows = self._rows(requests, options)
        done: dict[int, Result] = {}
        for place in range(len(rows)):
            if place not in done:
                together = _alike(rows, place, done)
                for number, piece in self._write([rows[i] for i in together], options):
                    if piece.result is not None:
                        done[together[number]] = piece.result
            yield done.pop(place)

    def score(self, prompt: str, endings: Sequence[str], draws: int = 4) -> list[float]:
        """How likely each ending is right after the prompt: log-probability in nats per token.

        Taken from the first denoising step, where the canvas is pure noise, and averaged over `draws` noises. Of an
        ending that is longer than a block, the first block counts.
        """
        from ssdcli.engine.noise import CounterNoise

        config = self._config(DEFAULTS)
        prompts = [[list(ids)] * draws for ids in self._read(Request(prompt)).prompts]
        canvas = self._process.prior(config.block_size, CounterNoise(range(draws), config.device))
        log_p = self._ensemble.denoise(canvas, 1.0, None, self._ensemble.start(prompts)).mean(0)
        tokens = [self._encode(ending)[: config.block_size] for ending in endings]
        return [float(log_p[range(len(ids)), ids].mean()) for ids in tokens]

    def _rows(self, requests: Sequence[Request], options: Options) -> list[_Row]:
        """Read every request, and give each of its n texts a seed."""
        first = secrets.randbelow(_SEEDS) if options.seed is None else options.seed
        limits = Limits(self._end, options.max_tokens, options.stop)
        rows = []
        for place, request in enumerate(requests):
            read = self._read(request)
            seed = first + place * options.n if request.seed is None else request.seed
            id = place if request.id is None else request.id
            rows += [_Row(read, id, seed + k, Transcript(self._decode, limits)) for k in range(options.n)]
        return rows

    def _read(self, request: Request) -> _Read:
        """Turn a request into each voice's ids: end of text, the context where it may be seen, the prompt."""
        private = any(voice.private for voice in self.voices)
        require(
            private or not request.context,
            "only small models see a private context, and there is none here.",
            "Add one, or put the text into the prompt.",
        )
        shared = self._encode(request.prompt)
        own = self._encode(request.context + BETWEEN + request.prompt) if request.context else shared
        prompts = tuple([self._end, *(own if voice.private else shared)] for voice in self.voices)
        kept = tuple(min(len(p), v.denoiser.room) for p, v in zip(prompts, self.voices, strict=True))
        warnings = tuple(
            _cut(voice.name, room, len(ids) - 1, len(shared))
            for voice, ids, room in zip(self.voices, prompts, kept, strict=True)
            if len(ids) - 1 > room
        )
        return _Read(request, prompts, kept, warnings)

    def _encode(self, text: str) -> list[int]:
        # Half of a surrogate pair, as a JSON escape can make one, is no character.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self._tokenizer.encode(clean, add_special_tokens=False).ids
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _write(self, rows: Sequence[_Row], options: Options) -> Iterator[tuple[int, Piece]]:
        """Denoise these rows together; yields a row's place among them and the text that it committed."""
        from ssdcli.engine.sampler import sample

        started = time.perf_counter()
        for place, row in enumerate(rows):
            if row.finished:  # there is nothing to write
                yield place, Piece("", self._result(row, started))
        config = self._config(options)
        prompts = [[row.read.prompts[i] for row in rows] for i in range(len(self.voices))]
        for step in sample(self._ensemble, self._process, prompts, [row.seed for row in rows], config):
            writing = {place: row for place, row in enumerate(rows) if not row.finished}
            for row in writing.values():
                row.count(step.weights)
            if step.index + 1 == config.steps:
                yield from self._commit(writing, self._process.tokens(step.canvas).tolist(), started)
                if all(row.finished for row in rows):
                    return

    def _commit(
        self, writing: Mapping[int, _Row], tokens: list[list[int]], started: float
    ) -> Iterator[tuple[int, Piece]]:
        """Give the rows that are still writing their new block."""
        for place, row in writing.items():
            text = row.transcript.add(tokens[place])
            yield place, Piece(text, self._result(row, started) if row.finished else None)

    def _config(self, options: Options) -> SamplerConfig:
        from ssdcli.engine.nucleus import Picker
        from ssdcli.engine.sampler import SamplerConfig

        steps = self._process.default_steps if options.steps is None else options.steps
        backbone = self.voices[0].denoiser.backbone
        picker = Picker(options.temperature, options.top_p)
        device = str(backbone.device)
        return SamplerConfig(backbone.block_size, options.max_tokens, steps, self._end, picker, device)

    def _result(self, row: _Row, started: float) -> Result:
        uses = [MemberUse(v.name, v.weight, n) for v, n in zip(self.voices, row.passes, strict=True)]
        if self.core is not None and self.core not in [voice.name for voice in self.voices]:
            uses.insert(0, MemberUse(self.core, 0.0, 0))
        assert row.transcript.finish_reason is not None
        return Result(
            id=row.id,
            prompt=row.read.request.prompt,
            text=row.transcript.text,
            finish_reason=row.transcript.finish_reason,
            seed=row.seed,
            core=self.core,
            members=tuple(uses),
            tokens=row.transcript.tokens,
            steps=row.steps,
            seconds=time.perf_counter() - started,
            warnings=row.read.warnings,
        )


def _alike(rows: Sequence[_Row], first: int, done: Mapping[int, Result]) -> list[int]:
    """The places of the rows to write with the first one: later ones, not done, of the same prompt lengths.

    Rows of other lengths would be padded, which changes the last bits of sums, and a window that is full for
    one row would be read again for all: either could change a text.
    """
    kept = rows[first].read.kept
    alike = [i for i in range(first, len(rows)) if i not in done and rows[i].read.kept == kept]
    return alike[:_TOGETHER]


def _cut(name: str, room: int, length: int, prompt: int) -> str:
    """Say what a member has no room for, of a text of `length` tokens that ends with the prompt's."""
    lost, context = length - room, length - prompt
    if lost <= context:
        what = f"the first {lost} of the context"
    elif context == 0:
        what = f"the first {lost} of the prompt"
    else:
        what = f"the context and the first {lost - context} of the prompt"
    return f"{name!r} has room for {room} tokens before its answer and leaves out {what}."
