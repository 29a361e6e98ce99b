"""How a request is read: the ids that each voice sees before, and for a gap after, what it is to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdcli.engine.prompt import Prompt, fit
from ssdcli.engine.schedules import Schedule
from ssdcli.errors import UsageError
from ssdcli.exchange import Request
from ssdcli.frame import Frame

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ssdcli.engine.denoiser import Denoiser

BETWEEN = "\n\n"  # what parts a private context from the prompt


@dataclass(frozen=True)
class Voice:
    """A loaded member: its share, whether it sees the private context, and when it runs."""

    name: str
    weight: float
    private: bool
    denoiser: Denoiser
    schedule: Schedule


class Language:
    """The tokenizer that all voices share, and its id of end of text."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        """Take over the tokenizer: its settings are changed so that text is read as nothing but text."""
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True  # a prompt that spells a special token does not become it
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.end = end

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with nothing added."""
        # Half of a surrogate pair, as a JSON escape can make one, is no character.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self._tokenizer.encode(clean, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens skipped."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


@dataclass(frozen=True)
class Reader:
    """Turns requests into prompts for some voices.

    gap: the tokens that each gap of a prompt may be filled with; 0 when prompts are gone on from.
    """

    voices: tuple[Voice, ...]
    language: Language
    gap: int

    def prompts(self, request: Request, frame: Frame, fills: Sequence[str]) -> tuple[Prompt, ...]:
        """Each voice's prompt for the next stretch: end of text, context, the text so far, what follows a gap."""
        shared = self.language.encode(frame.before(fills))
        own = shared
        if request.context:
            own = self.language.encode(request.context + BETWEEN + frame.before(fills))
        after = self._after(frame, len(fills))
        return tuple(
            Prompt(
                before=[self.language.end, *(own if voice.private else shared)],
                after=after[: voice.denoiser.sight],
                gap=self._positions(voice),
            )
            for voice in self.voices
        )

    def _positions(self, voice: Voice) -> int:
        """The positions that a voice leaves free for a gap: whole blocks."""
        block = voice.denoiser.backbone.block_size
        return -(-self.gap // block) * block

    def _after(self, frame: Frame, passage: int) -> tuple[int | None, ...]:
        """The ids of what follows a gap, with unknown ones where later gaps are still open."""
        ids: list[int | None] = []
        for place, part in enumerate(frame.after(passage)):
            ids += [None] * (self._positions(self.voices[0]) if place else 0)
            ids += self.language.encode(part)
        return tuple(ids)

    def check_gap(self) -> None:
        """Raise UsageError when the gap leaves a voice too little to read."""
        for voice in self.voices:
            most = voice.denoiser.backbone.context // 2
            if self._positions(voice) > most:
                raise UsageError(
                    f"a gap of {self.gap} tokens is more than half of what {voice.name!r} sees at once.",
                    f"Give a --gap of at most {most}.",
                )

    def cuts(self, request: Request, frame: Frame) -> tuple[str, ...]:
        """Say of each voice what it has no room for, when it reads what comes before the first stretch."""
        said = []
        shared = len(self.language.encode(frame.before(())))
        for voice, prompt in zip(self.voices, self.prompts(request, frame, ()), strict=True):
            kept = fit(prompt, voice.denoiser.backbone.context, voice.denoiser.backbone.block_size)
            length = len(prompt.before) - 1  # the end of text at its beginning is nobody's loss
            if length > len(kept.before):
                said.append(_cut(voice.name, len(kept.before), length, shared))
            lost = sum(token is not None for token in prompt.after[len(kept.after) :])
            if lost:
                said.append(f"{voice.name!r} has no room for the last {lost} tokens after the gap.")
        return tuple(said)


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
