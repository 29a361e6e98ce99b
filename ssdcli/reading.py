"""How a request is read: the ids that each voice sees before, and for a gap after, what it is to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdcli.engine.prompt import Prompt, fit
from ssdcli.engine.schedules import Schedule
from ssdcli.errors import UsageError
from ssdcli.exchange import Message, Request
from ssdcli.frame import Frame
from ssdcli.phrasing import Chat, document, told

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ssdcli.engine.denoiser import Denoiser

_PRIVATE_USE = range(0x100000, 0x10FFFE)  # characters that mean nothing to anybody


@dataclass(frozen=True)
class Voice:
    """A loaded member: its share, whether it sees the private context, when it runs, and how text is put to it.

    opening: the id that stands before every document. chat: the template of conversations, if it has one.
    """

    name: str
    weight: float
    private: bool
    denoiser: Denoiser
    schedule: Schedule
    opening: int
    chat: Chat | None = None


class Language:
    """The tokenizer that all voices share, and the ids that end a text."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        """Take over the tokenizer: its settings are changed so that text is read as nothing but text."""
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True  # a prompt that spells a special token does not become it
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.ends = tuple(ends)
        tokens = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        self._special = "|".join(map(re.escape, longest_first)) or "(?!)"

    def encode_chat(self, turns: Sequence[Message], render: Callable[[Sequence[Message]], str]) -> list[int]:
        """The ids of what `render` makes of a conversation.

        The special tokens that it writes itself are such; those that a turn spells are text.
        """
        said = "".join(turn.content for turn in turns)
        mark = next(chr(code) for code in _PRIVATE_USE if chr(code) not in said)
        text = render([replace(turn, content=self._marked(turn.content, mark)) for turn in turns])
        if mark not in text:
            return self._encode_specials(text)
        # No match touches a marked character, whatever the template has cut away around it.
        parts = re.split(f"(?<!{mark})({self._special})", text)
        ids: list[int] = []
        for place, part in enumerate(parts):
            ids += self._encode_specials(part) if place % 2 else self.encode(part.replace(mark, ""))
        return ids

    def _marked(self, text: str, mark: str) -> str:
        """The text with a mark before each character of the special tokens that it spells."""
        return re.sub(self._special, lambda spelled: "".join(mark + character for character in spelled[0]), text)

    def _encode_specials(self, text: str) -> list[int]:
        """The ids of a text whose special tokens are such."""
        self._tokenizer.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self._tokenizer.encode_special_tokens = True

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
        if chat is None:
            return [voice.opening, *self.language.encode(document(turns, context))]
        return self.language.encode_chat(told(turns, context), chat.render)  # the template opens it

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
        shared = len(self.language.encode(document(_so_far(request, frame, ()))))
        for voice, prompt in zip(self.voices, self.prompts(request, frame, ()), strict=True):
            kept = fit(prompt, voice.denoiser.backbone.context, voice.denoiser.backbone.block_size)
            room = len(kept.before)
            if what := self._left_out(voice, prompt, room, shared):
                said.append(f"{voice.name!r} has room for {room} tokens before its answer and leaves out {what}.")
            lost = sum(token is not None for token in prompt.after[len(kept.after) :])
            if lost:
                said.append(f"{voice.name!r} has no room for the last {lost} tokens after the gap.")
        return tuple(said)

    def _left_out(self, voice: Voice, prompt: Prompt, room: int, shared: int) -> str:
        """What a voice has no room for before the canvas; the opening of a document is nobody's loss."""
        if self._chat(voice) is None:
            length = len(prompt.before) - 1
            return _cut(length - room, length - shared)
        lost = len(prompt.before) - room
        return f"the first {lost} of the conversation" if lost > 0 else ""


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
