"""How a request is read: the ids that each voice sees before, and for a gap after, what it is to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdcli.engine.ensemble.schedules import Schedule
from ssdcli.engine.prompt import Prompt, fit
from ssdcli.errors import UsageError
from ssdcli.generation.gaps import Frame
from ssdcli.generation.types import Request
from ssdcli.text.chat import Chat, document, told
from ssdcli.text.codec import Language
from ssdcli.text.messages import Message

if TYPE_CHECKING:
    from ssdcli.engine.denoiser import Denoiser


@dataclass(frozen=True)
class Voice:
    """A loaded member: its share, whether it sees the private context, when it runs, and how text is put to it.

    opening: the id that stands before every document. chat: the template of conversations, if it has one.
    taught: whether it learned from conversations that stand behind the opening as documents do, and without a template
    are paragraphs. anywhere: whether it learned to go on from anywhere in a document, without the opening.
    """

    name: str
    weight: float
    private: bool
    denoiser: Denoiser
    schedule: Schedule
    opening: int
    chat: Chat | None = None
    taught: bool = False
    anywhere: bool = False


@dataclass(frozen=True)
class Reader:
    """Turns requests into prompts for some voices.

    gap: the tokens that each gap of a prompt may be filled with; 0 when prompts are gone on from.
    """

    voices: tuple[Voice, ...]
    language: Language
    gap: int

    def prompts(self, request: Request, frame: Frame, fills: Sequence[str]) -> tuple[Prompt, ...]:
        """Each voice's prompt for the next stretch: the conversation, the text so far, what follows a gap."""
        turns = _so_far(request, frame, fills)
        after = self._after(frame, len(fills))
        return tuple(
            Prompt(
                before=self._before(voice, turns, request.context if voice.private else ""),
                after=after[: voice.denoiser.sight],
                gap=self._positions(voice),
            )
            for voice in self.voices
        )

    def _before(self, voice: Voice, turns: Sequence[Message], context: str) -> list[int]:
        """The ids that a voice is to go on from, in the format that it was trained on."""
        chat = self._chat(voice)
        if chat is not None:
            ids = self.language.encode_chat(told(turns, context), chat.render)
            return [voice.opening, *ids] if voice.taught else ids  # a core's template opens it
        ids = self._text(voice, turns, context)
        return ids if ids and voice.anywhere else [voice.opening, *ids]

    def _text(self, voice: Voice, turns: Sequence[Message], context: str) -> list[int]:
        """What a voice without a template reads, but for the opening."""
        if voice.taught and not self.gap:
            return self.language.encode_turns(turns, context)
        return self.language.encode(document(turns, context))

    def _chat(self, voice: Voice) -> Chat | None:
        """The template by which a voice reads; what surrounds a gap is a document for all."""
        return None if self.gap else voice.chat

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
        turns = _so_far(request, frame, ())
        for voice, prompt in zip(self.voices, self.prompts(request, frame, ()), strict=True):
            kept = fit(prompt, voice.denoiser.backbone.context, voice.denoiser.backbone.block_size)
            room = len(kept.before)
            if what := self._left_out(voice, len(prompt.before) - room, turns, request.context):
                said.append(f"{voice.name!r} has room for {room} tokens before its answer and leaves out {what}.")
            lost = sum(token is not None for token in prompt.after[len(kept.after) :])
            if lost:
                said.append(f"{voice.name!r} has no room for the last {lost} tokens after the gap.")
        return tuple(said)

    def _left_out(self, voice: Voice, lost: int, turns: Sequence[Message], context: str) -> str:
        """What a voice has no room for before the canvas; the opening of a document is nobody's loss."""
        if self._chat(voice) is not None:
            return f"the first {lost} of the conversation" if lost > 0 else ""
        own = context if voice.private else ""
        text = len(self._text(voice, turns, own))
        opening = len(self._before(voice, turns, own)) - text
        return _cut(lost - opening, text - len(self._text(voice, turns, "")))


def _so_far(request: Request, frame: Frame, fills: Sequence[str]) -> tuple[Message, ...]:
    """The conversation up to the next stretch that is to be written."""
    *earlier, last = request.turns
    return (*earlier, replace(last, content=frame.before(fills)))


def _cut(lost: int, context: int) -> str:
    """What has no room of a document that begins with so many tokens of context."""
    if lost <= 0:
        return ""
    if lost <= context:
        return f"the first {lost} of the context"
    if context == 0:
        return f"the first {lost} of the prompt"
    return f"the context and the first {lost - context} of the prompt"
