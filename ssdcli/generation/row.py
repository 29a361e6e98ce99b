"""One text while it is written: a row of a batch, gap by gap and block by block, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from ssdcli.engine.prompt import Prompt, shown_to
from ssdcli.generation.private_context import Picked
from ssdcli.generation.prompt_encoder import PromptParts
from ssdcli.generation.types import FinishReason, Request, TokenShares
from ssdcli.text.codec import whole_characters

if TYPE_CHECKING:
    from ssdcli.generation.memories import SourceFinder
    from ssdcli.generation.trace import Watch, WrittenBlock

_WORST_FIRST: tuple[FinishReason, ...] = ("length", "stop", "end")


class Row:
    """The text written so far for a request; if gaps of a prompt are filled, it includes the prompt."""

    def __init__(
        self,
        request: Request,
        seed: int,
        parts: PromptParts,
        new_transcript: Callable[[], Transcript],
        usage: Usage,
        picked: Picked | None = None,
    ) -> None:
        """Begin with the first gap; `new_transcript` makes a transcript for each.

        picked: what was kept of the private context, where the request has less than was given.
        """
        self.request = request
        self.seed = seed
        self.parts = parts
        self.usage = usage
        self.picked = picked
        self.filled: list[str] = []
        self.warnings: tuple[str, ...] = ()
        self.sources: SourceFinder | None = None
        self.read = 0  # tokens of the prompt as the first member reads it
        self.tokens = 0
        self.explained: list[TokenShares] = []
        self._chances: list[dict[str, float]] = []  # of several ensembles at each token, see `Switching`
        self.watch: Watch | None = None  # is shown the canvas after each step
        self._reasons: list[FinishReason] = []
        self._new_transcript = new_transcript
        self._transcript = new_transcript()
        self._shown = 0
        self._close()

    @property
    def key(self) -> int:
        """The key of the noise of the next gap."""
        from ssdcli.engine.noise import fold

        return fold(self.seed, len(self.filled)) if self.filled else self.seed

    @property
    def finished(self) -> bool:
        """Whether all gaps are filled."""
        return len(self.filled) == self.parts.gaps

    @property
    def text(self) -> str:
        """The text that will not change any more."""
        return self.parts.text(self.filled) if self.finished else self.parts.certain(self.filled, self._transcript.text)

    @property
    def weights(self) -> dict[str, float] | None:
        """The mean chances of several ensembles over all tokens, by name; None for one ensemble."""
        count = len(self._chances)
        return {name: sum(one[name] for one in self._chances) / count for name in self._chances[0]} if count else None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended; of several gaps' reasons "length" comes before "stop", and that before "end"."""
        return min(self._reasons, key=_WORST_FIRST.index) if self.finished else None

    def add(self, block: WrittenBlock, names: Sequence[str]) -> str:
        """Add a block, and return the text that has become certain; `names` are the members'."""
        known = self._transcript.tokens
        self._transcript.add(block.tokens)
        self.tokens += self._transcript.tokens - known
        self._chances += block.chances[: self._transcript.tokens - known]
        self.usage.block(block.weights, block.canvases)
        self.usage.draft(block.drafted, block.accepted)
        if block.shares:
            self._explain(block, known, names)
        self._close()
        new = self.text[self._shown :]
        self._shown += len(new)
        return new

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether the gap is filled by these ids, the first of which is its first."""
        transcript = self._new_transcript()
        transcript.add(ids)
        return transcript.finish_reason is not None

    def cut(self) -> None:
        """End the text where it is: nobody waits for the rest."""
        while not self.finished:
            self._fill("length")

    def _close(self) -> None:
        """Go on to the next gap if this one is filled."""
        if self._transcript.finish_reason is not None:
            self._fill(self._transcript.finish_reason)

    def _fill(self, reason: FinishReason) -> None:
        self.filled.append(self._transcript.text)
        self._reasons.append(reason)
        self._transcript = self._new_transcript()

    def _explain(self, block: WrittenBlock, known: int, names: Sequence[str]) -> None:
        """Attribute those tokens of a block that the text keeps to the members."""
        written = self._transcript.ids[:known]
        for place, (token, text) in enumerate(self._transcript.pieces(known)):
            by = dict(zip(names, block.shares[place], strict=True))
            source = None if self.sources is None else self.sources.source(written, token)
            weights = block.chances[place] if block.chances else None
            self.explained.append(
                TokenShares(token, text, block.p[place], by, source, tuple(block.top[place]), weights)
            )
            written.append(token)


@dataclass(frozen=True)
class Limits:
    """Where a text ends.

    ends: ids; the first of them that is written ends the text.
    max_tokens: the longest text.
    stop: strings; the text ends before the first of them.
    """

    ends: frozenset[int]
    max_tokens: int
    stop: tuple[str, ...] = ()


class Transcript:
    """The text of a gap: its tokens, block by block, up to its end, a stop string or its last token.

    Text that a later block could still remove or complete is not shown yet.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], limits: Limits) -> None:
        """`decode` turns the ids of a whole text into characters, special tokens skipped."""
        self._decode = decode
        self._limits = limits
        self._ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None if limits.max_tokens > 0 else "length"

    @property
    def ids(self) -> list[int]:
        """The ids that were written."""
        return list(self._ids)

    @property
    def tokens(self) -> int:
        """How many tokens were written, up to and including the one that completed a stop string."""
        return len(self._ids)

    def pieces(self, start: int) -> list[tuple[int, str]]:
        """The ids written from `start` on, each with the text that it completed."""
        text = self._written(self._ids) if self.finish_reason is None else self.text
        ends = [len(self._written(self._ids[:n])) for n in range(start, len(self._ids) + 1)]
        return [(id, text[a:b]) for id, (a, b) in zip(self._ids[start:], pairwise(ends), strict=True)]

    def add(self, block: Sequence[int]) -> str:
        """Add the ids of a committed block, and return the text that has become certain."""
        known = len(self._ids)
        self._take(block)
        written = self._written(self._ids)
        cut = self._first_stop(written)
        if cut is not None:
            self.finish_reason = "stop"
            self._ids = self._ids[: self._tokens_to_stop(known)]
            written = written[:cut]
        elif self.finish_reason is None:
            written = written[: len(written) - self._undecided(written)]
        new = written[len(self.text) :]
        self.text += new
        return new

    def _take(self, block: Sequence[int]) -> None:
        """Append the ids up to the first end of text or the last allowed token."""
        fresh = list(block[: self._limits.max_tokens - len(self._ids)])
        end = next((place for place, id in enumerate(fresh) if id in self._limits.ends), None)
        if end is not None:
            self.finish_reason = "end"
            fresh = fresh[:end]
        elif len(self._ids) + len(fresh) == self._limits.max_tokens:
            self.finish_reason = "length"
        self._ids += fresh

    def _written(self, ids: Sequence[int]) -> str:
        return whole_characters(self._decode(ids))

    def _first_stop(self, text: str) -> int | None:
        """The position of the earliest stop string, if there is one."""
        return min((place for stop in self._limits.stop if (place := text.find(stop)) >= 0), default=None)

    def _tokens_to_stop(self, known: int) -> int:
        """The smallest number of tokens above `known` whose text contains a stop string."""
        counts = range(known + 1, len(self._ids) + 1)
        return next(n for n in counts if self._first_stop(self._written(self._ids[:n])) is not None)

    def _undecided(self, text: str) -> int:
        """The length of the longest tail of the text that may be the start of a stop string."""
        longest = max(map(len, self._limits.stop), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(s.startswith(text[-n:]) for s in self._limits.stop)), 0)


class Metered(Protocol):
    """A model that knows the cost of its passes; `Denoiser` is one."""

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        """FLOPs after a prompt, block by block: of reading the new text before the block, and of a denoising step."""


class Usage:
    """Counts the cost of one row, as if it were alone.

    A member that was skipped reads the text that it missed when it next runs.
    """

    def __init__(self, members: Sequence[Metered]) -> None:
        """Start counting for a new row."""
        self.steps = 0
        self.drafted = 0
        self.accepted = 0
        self._members = members
        self._passes = [0] * len(members)
        self._flops = [0] * len(members)
        self._whole = 0  # FLOPs if every member ran at every step

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Begin another gap, which member i fills after prompts[i]."""
        self._costs = [self._metered(i, prompts).costs(prompt) for i, prompt in enumerate(prompts)]
        self._unread = [0] * len(self._members)

    def _metered(self, i: int, prompts: Sequence[Prompt]) -> Metered:
        """A member, or what it takes beside another that reads the same prompt for both."""
        member, others = self._members[i], zip(self._members[:i], prompts, strict=False)
        reader = getattr(member, "reader", None)
        shown = shown_to(member, prompts[i])
        shares = any(getattr(one, "reader", one) is reader and shown_to(one, prompt) == shown for one, prompt in others)
        beside: Callable[[], Metered] | None = getattr(member, "beside_reader", None)
        return beside() if shares and beside is not None else member

    def block(self, weights: Sequence[Sequence[float]], canvases: Sequence[int] = ()) -> None:
        """Count the gap's next block: weights[j][i] is member i's at the row's step j, zero if it did not run.

        canvases: how many were predicted at each step; none for one a step.
        """
        self.steps += len(weights)
        counts = canvases or [1] * len(weights)
        for i, costs in enumerate(self._costs):
            reading, denoising = next(costs)
            self._whole += reading + sum(counts) * denoising
            self._unread[i] += reading
            ran = [count for step, count in zip(weights, counts, strict=True) if step[i] != 0]
            if ran:
                self._passes[i] += len(ran)
                self._flops[i] += self._unread[i] + sum(ran) * denoising
                self._unread[i] = 0

    def draft(self, drafted: int, accepted: int) -> None:
        """Count drafted tokens, and those of them that the text took over."""
        self.drafted += drafted
        self.accepted += accepted

    def of(self, member: int) -> tuple[int, int]:
        """A member's denoising forward passes, and the FLOPs of these and of its reading."""
        return self._passes[member], self._flops[member]

    @property
    def saved(self) -> float:
        """The share of FLOPs that the schedule saved: 1 - spent / spent if all members ran at every step."""
        return 1 - sum(self._flops) / self._whole if self._whole else 0.0
