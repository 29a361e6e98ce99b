"""Prompts for the members: split at their gaps, and encoded in the format that each member was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.prompt import Prompt, fit
from ssdcli.errors import UsageError, require
from ssdcli.generation.types import Request
from ssdcli.machine.units import large
from ssdcli.text.chat_template import with_context
from ssdcli.text.codec import Codec, document
from ssdcli.text.messages import Message
from ssdcli.text.passages import most_relevant

if TYPE_CHECKING:
    from ssdcli.generation.loaded_model import Loaded
    from ssdcli.text.openings import TextFormat

_GAP = re.compile("_{4,}")
_LONGEST_CONTEXT = 8_000_000  # characters, which take some seconds
_IN_VIEW = 2048  # tokens of a private context that a model reads


@dataclass(frozen=True)
class PromptParts:
    """A prompt, and the literal text around its gaps.

    Spaces before a gap belong to the text that fills it, since a token begins with the space before its word.

    prompt: the whole prompt, but for the spaces.
    parts: one more than there are gaps; None for a prompt that is continued, whose single gap is its end.
    spaces: what the text after a prompt begins with, since the prompt ended with it.
    """

    prompt: str
    parts: tuple[str, ...] | None = None
    spaces: str = ""

    @classmethod
    def continued(cls, prompt: str) -> PromptParts:
        """A prompt whose last spaces become part of what follows."""
        before = prompt.rstrip(" ")
        return cls(before, spaces=prompt[len(before) :])

    @classmethod
    def with_gaps(cls, prompt: str) -> PromptParts:
        """Split a prompt at its gaps, which are four or more underscores."""
        return cls(prompt, tuple(_GAP.split(prompt)))

    @property
    def gaps(self) -> int:
        """How many gaps are to be filled."""
        return 1 if self.parts is None else len(self.parts) - 1

    def before(self, filled: Sequence[str]) -> str:
        """The text before the next gap, given the texts of the gaps before it."""
        if self.parts is None:
            return self.prompt
        return self.text(filled) + self.parts[len(filled)].rstrip(" ")

    def after(self, gap: int) -> tuple[str, ...]:
        """The literal parts after a gap, with an open gap between every two; none for a continuation."""
        if self.parts is None:
            return ()
        *inner, last = self.parts[gap + 1 :]
        return (*(part.rstrip(" ") for part in inner), last)

    def certain(self, filled: Sequence[str], partial: str) -> str:
        """The text that will not change while the next gap is filled, of which `partial` is certain."""
        return self._led(partial) if self.parts is None else self.before(filled)

    def text(self, filled: Sequence[str]) -> str:
        """The whole text once all gaps are filled; before that, the text up to the last filled gap."""
        if self.parts is None:
            return self._led("".join(filled))
        joined = "".join(_join(part, text) for part, text in zip(self.parts, filled, strict=False))
        return joined + self.parts[-1] if len(filled) == self.gaps else joined

    def _led(self, text: str) -> str:
        """A text after the prompt, with the prompt's spaces before it."""
        return self.spaces + text.lstrip(" ") if self.spaces and text else text


def _join(part: str, text: str) -> str:
    """A literal part and the text of the gap after it; the part's own spaces separate them."""
    text = text.strip(" ")
    return part + text if text else part.rstrip(" ")


@dataclass(frozen=True)
class PromptEncoder:
    """Turns requests into prompts, one for each member.

    members: all with the same tokenizer.
    gap: the most tokens that fill a gap; 0 when prompts are continued.
    """

    members: tuple[Member[Loaded], ...]
    gap: int

    @property
    def codec(self) -> Codec:
        """The tokenizer that all members share."""
        return self.members[0].model.codec

    def is_plain(self, request: Request) -> bool:
        """Whether all members continue a request as text; otherwise each reads it as it was trained to.

        Text around a gap is a document. Otherwise the request decides, else whether it is a conversation, else what the
        first small model or memory was made of, or the core where there is none.
        """
        if self.gap or request.plain is not None:
            return bool(self.gap or request.plain)
        small = (member for member in self.members if member.sees_context)
        return not request.messages and next(small, self.members[0]).model.format.is_plain

    def whole(self, request: Request) -> PromptParts:
        """A prompt without gaps; where its last turn is continued as text, its last spaces go on to what follows."""
        last = request.turns[-1]
        continues = last.role == "assistant" or self.is_plain(request)
        return PromptParts.continued(last.content) if continues else PromptParts(last.content)

    def prompts(self, request: Request, parts: PromptParts, filled: Sequence[str]) -> tuple[Prompt, ...]:
        """Each member's prompt for the next gap: the conversation and the text so far, and what follows the gap.

        UsageError for a private context that takes too long to index.
        """
        require(
            len(request.context) <= _LONGEST_CONTEXT,
            f"a private context of {large(len(request.context))} characters is too much to index before each answer.",
            "Make a memory of it once, with 'ssd train-small FILE --memory-only --name NAME', and pass --with NAME.",
        )
        turns, after = self._around(request, parts, filled)
        forms = [self._format(member, request) for member in self.members]
        return tuple(
            Prompt(
                before=request.ids or self._before(form, turns, self._in_view(member, request)),
                after=after[: member.model.denoiser.sight],
                gap=self._positions(member),
                private=self._looked_up(request.context) if member.role == "memory" else (),
            )
            for member, form in zip(self.members, forms, strict=True)
        )

    def _in_view(self, member: Member[Loaded], request: Request) -> str:
        """The private context as a member reads it: of a long one, the passages that are most like the prompt."""
        if member.role != "small":
            return ""
        if self._length(request.context) <= _IN_VIEW:
            return request.context
        most = min(_IN_VIEW, member.model.denoiser.room // 2)
        return most_relevant(request.context, request.turns[-1].content, self._length, most)

    def _length(self, text: str) -> int:
        """The tokens of a text."""
        return len(self.codec.encode(text))

    def _looked_up(self, context: str) -> tuple[int, ...]:
        """The ids of a private context that is indexed."""
        return tuple(self.codec.encode(context)) if context else ()

    def shared(self, request: Request, parts: PromptParts, filled: Sequence[str]) -> Prompt:
        """The prompt for the next gap as all members may see it: the first member's, without a private context."""
        turns, after = self._around(request, parts, filled)
        first = self.members[0]
        before = request.ids or self._before(self._format(first, request), turns, "")
        return Prompt(before, after, self._positions(first))

    def behind(self, parts: PromptParts, filled: Sequence[str]) -> tuple[int, ...]:
        """The known ids right after the next gap; none where a prompt is continued."""
        after = self._after(parts, len(filled)) if self.gap else ()
        return tuple(id for id in takewhile(lambda id: id is not None, after) if id is not None)

    def _around(
        self, request: Request, parts: PromptParts, filled: Sequence[str]
    ) -> tuple[tuple[Message, ...], tuple[int | None, ...]]:
        """The conversation up to the next gap, with the text so far, and the ids after the gap."""
        *earlier, last = request.turns
        turns = (*earlier, replace(last, content=parts.before(filled)))
        return turns, self._after(parts, len(filled)) if self.gap else ()

    def _format(self, member: Member[Loaded], request: Request) -> TextFormat:
        """The format in which a member reads a request."""
        own = member.model.format
        return own.as_plain() if self.is_plain(request) else own

    def _before(self, form: TextFormat, turns: Sequence[Message], context: str) -> list[int]:
        """The ids that a member continues."""
        if form.chat is not None:
            ids = self.codec.encode_chat(with_context(turns, context), form.chat.render)
            return [form.opening, *ids] if form.answers else ids  # a core's template writes the opening itself
        ids = self._paragraphs(form, turns, context)
        return ids if ids and form.cuts_documents else [form.opening, *ids]

    def _paragraphs(self, form: TextFormat, turns: Sequence[Message], context: str) -> list[int]:
        """The ids of a conversation in a format without a template, except for the opening."""
        return self.codec.encode_turns(turns, context) if form.answers else self.codec.encode(document(turns, context))

    def _positions(self, member: Member[Loaded]) -> int:
        """The positions that a member reserves for a gap: whole blocks."""
        block = member.model.denoiser.block_size
        return -(-self.gap // block) * block

    def _after(self, parts: PromptParts, gap: int) -> tuple[int | None, ...]:
        """The ids of the text after a gap; None for each position of a later gap, which is still open."""
        ids: list[int | None] = []
        for place, part in enumerate(parts.after(gap)):
            ids += [None] * (self._positions(self.members[0]) if place else 0)
            ids += self.codec.encode(part)
        return tuple(ids)

    def check_gap(self) -> None:
        """Raise UsageError when a gap leaves a member too little to read."""
        for member in self.members:
            most = member.model.denoiser.context // 2
            if self._positions(member) > most:
                raise UsageError(
                    f"a gap of {self.gap} tokens is more than half of what {member.name!r} sees at once.",
                    f"Give a --gap of at most {most}.",
                )

    def cuts(self, request: Request, parts: PromptParts, prompts: Sequence[Prompt]) -> tuple[str, ...]:
        """A sentence for each thing that a member has no room for in its prompt for the first gap."""
        sentences = []
        for member, prompt in zip(self.members, prompts, strict=True):
            denoiser = member.model.denoiser
            kept = fit(prompt, denoiser.context, denoiser.block_size)
            seen, whole = (self._length(text) for text in (self._in_view(member, request), request.context))
            if seen < whole and member.role == "small":
                share = f"{seen} of the context's {whole} tokens"
                sentences.append(f"{member.name!r} reads {share}: the passages most like the prompt.")
            room, lost = len(kept.before), len(prompt.before) - len(kept.before)
            if lost and (what := self._left_out(member, lost, request, parts)):
                sentences.append(f"{member.name!r} has room for {room} tokens before its answer and leaves out {what}.")
            lost = sum(token is not None for token in prompt.after[len(kept.after) :])
            if lost:
                sentences.append(f"{member.name!r} has no room for the last {lost} tokens after the gap.")
        return tuple(sentences)

    def _left_out(self, member: Member[Loaded], lost: int, request: Request, parts: PromptParts) -> str:
        """What a member has no room for when the first `lost` tokens are cut; the opening of a document is no loss."""
        form = self._format(member, request)
        if request.ids:
            return f"the first {lost} of the prompt"
        if form.chat is not None:
            return f"the first {lost} of the conversation"
        *earlier, last = request.turns
        turns = (*earlier, replace(last, content=parts.before(())))
        own = self._in_view(member, request)
        text = len(self._paragraphs(form, turns, own))
        opening = len(self._before(form, turns, own)) - text
        return _cut(lost - opening, text - len(self._paragraphs(form, turns, "")))


def _cut(lost: int, context: int) -> str:
    """What is cut of a document that begins with so many tokens of context."""
    if lost <= 0:
        return ""
    if lost <= context:
        return f"the first {lost} of the context"
    if context == 0:
        return f"the first {lost} of the prompt"
    return f"the context and the first {lost - context} of the prompt"
