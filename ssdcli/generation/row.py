"""One text being written, stretch by stretch and block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ssdcli.generation.gaps import Frame
from ssdcli.generation.transcript import FinishReason, Transcript
from ssdcli.generation.types import Request, TokenShares
from ssdcli.generation.usage import Usage

if TYPE_CHECKING:
    from ssdcli.generation.trace import WrittenBlock

_WORST_FIRST: tuple[FinishReason, ...] = ("length", "stop", "end")


class Row:
    """The text of one request; for the gaps of a prompt it is the prompt, as far as it is certain."""

    def __init__(
        self,
        request: Request,
        seed: int,
        frame: Frame,
        new_transcript: Callable[[], Transcript],
        usage: Usage,
    ) -> None:
        """`new_transcript` makes one for each stretch that the frame has."""
        self.request = request
        self.seed = seed
        self.frame = frame
        self.usage = usage
        self.fills: list[str] = []
        self.tokens = 0
        self.explained: list[TokenShares] = []
        self._reasons: list[FinishReason] = []
        self._new_transcript = new_transcript
        self._transcript = new_transcript()
        self._shown = 0
        self._close()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be written."""
        return len(self.fills) == self.frame.passages

    @property
    def text(self) -> str:
        """What is certain of the text."""
        return self.frame.text(self.fills) if self.finished else self.frame.certain(self.fills, self._transcript.text)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the writing ended; of several gaps, "length" if one was full, else "stop" if one was stopped."""
        return min(self._reasons, key=_WORST_FIRST.index) if self.finished else None

    def add(self, block: WrittenBlock, names: Sequence[str]) -> str:
        """Take a block, and return the text that is certain now and was not before; `names` are the members'."""
        known = self._transcript.tokens
        self._transcript.add(block.tokens)
        self.tokens += self._transcript.tokens - known
        self.usage.block(block.weights)
        if block.shares:
            self._explain(block, known, names)
        self._close()
        new = self.text[self._shown :]
        self._shown += len(new)
        return new

    def _close(self) -> None:
        """Go on to the next stretch if this one is written."""
        if self._transcript.finish_reason is not None:
            self.fills.append(self._transcript.text)
            self._reasons.append(self._transcript.finish_reason)
            self._transcript = self._new_transcript()

    def _explain(self, block: WrittenBlock, known: int, names: Sequence[str]) -> None:
        """Note whom the tokens of a block are owed to that the text has kept."""
        for place, (token, text) in enumerate(self._transcript.pieces(known)):
            by = dict(zip(names, block.shares[place], strict=True))
            self.explained.append(TokenShares(token, text, block.p[place], by))
