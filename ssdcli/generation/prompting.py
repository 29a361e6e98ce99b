"""How a request is read: the ids that each member sees before, and for a gap after, what it is to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.prompt import Prompt, fit
from ssdcli.errors import UsageError
from ssdcli.generation.gaps import Frame
from ssdcli.generation.types import Request
from ssdcli.text.chat import Chat, document, told
from ssdcli.text.messages import Message

if TYPE_CHECKING:
    from ssdcli.generation.loaded_model import LoadedModel
    from ssdcli.text.codec import Codec


@dataclass(frozen=True)
class PromptEncoder:
    """Turns requests into prompts, one for each member.

    members: those that read them.
    gap: the most tokens that fill a gap of a prompt; 0 when a prompt is continued.
    """

    members: tuple[Member[LoadedModel], ...]
    gap: int

    @property
    def codec(self) -> Codec:
        """The tokenizer that all members share."""
        return self.members[0].model.codec

    def prompts(self, request: Request, frame: Frame, fills: Sequence[str]) -> tuple[Prompt, ...]:
        """Each member's prompt for the next stretch: the conversation, the text so far, what follows a gap."""
        turns = _so_far(request, frame, fills)
        after = self._after(frame, len(fills))
        return tuple(
            Prompt(
                before=self._before(member, turns, request.context if member.sees_context else ""),
                after=after[: member.model.denoiser.sight],
                gap=self._positions(member),
            )
            for member in self.members
        )

    def _before(self, member: Member[LoadedModel], turns: Sequence[Message], context: str) -> list[int]:
        """The ids that a member is to go on from, in the format that it was trained on."""
        chat, form = self._chat(member), member.model.format
        if chat is not None:
            ids = self.codec.encode_chat(told(turns, context), chat.render)
            return [form.opening, *ids] if form.answers else ids  # a core's template writes the opening itself
        ids = self._text(member, turns, context)
        return ids if ids and form.cuts_documents else [form.opening, *ids]

    def _text(self, member: Member[LoadedModel], turns: Sequence[Message], context: str) -> list[int]:
        """What a member without a template reads, but for the opening."""
        if member.model.format.answers and not self.gap:
            return self.codec.encode_turns(turns, context)
        return self.codec.encode(document(turns, context))

    def _chat(self, member: Member[LoadedModel]) -> Chat | None:
        """The template by which a member reads; what surrounds a gap is a document for all."""
        return None if self.gap else member.model.format.chat

    def _positions(self, member: Member[LoadedModel]) -> int:
        """The positions that a member leaves free for a gap: whole blocks."""
        block = member.model.denoiser.backbone.block_size
        return -(-self.gap // block) * block

    def _after(self, frame: Frame, passage: int) -> tuple[int | None, ...]:
        """The ids of what follows a gap, with unknown ones where later gaps are still open."""
        ids: list[int | None] = []
        for place, part in enumerate(frame.after(passage)):
            ids += [None] * (self._positions(self.members[0]) if place else 0)
            ids += self.codec.encode(part)
        return tuple(ids)

    def check_gap(self) -> None:
        """Raise UsageError when the gap leaves a member too little to read."""
        for member in self.members:
            most = member.model.denoiser.backbone.context // 2
            if self._positions(member) > most:
                raise UsageError(
                    f"a gap of {self.gap} tokens is more than half of what {member.name!r} sees at once.",
                    f"Give a --gap of at most {most}.",
                )

    def cuts(self, request: Request, frame: Frame) -> tuple[str, ...]:
        """Say of each member what it has no room for, when it reads what comes before the first stretch."""
        said = []
        turns = _so_far(request, frame, ())
        for member, prompt in zip(self.members, self.prompts(request, frame, ()), strict=True):
            kept = fit(prompt, member.model.denoiser.backbone.context, member.model.denoiser.backbone.block_size)
            room = len(kept.before)
            if what := self._left_out(member, len(prompt.before) - room, turns, request.context):
                said.append(f"{member.name!r} has room for {room} tokens before its answer and leaves out {what}.")
            lost = sum(token is not None for token in prompt.after[len(kept.after) :])
            if lost:
                said.append(f"{member.name!r} has no room for the last {lost} tokens after the gap.")
        return tuple(said)

    def _left_out(self, member: Member[LoadedModel], lost: int, turns: Sequence[Message], context: str) -> str:
        """What a member has no room for before the canvas; the opening of a document is nobody's loss."""
        if self._chat(member) is not None:
            return f"the first {lost} of the conversation" if lost > 0 else ""
        own = context if member.sees_context else ""
        text = len(self._text(member, turns, own))
        opening = len(self._before(member, turns, own)) - text
        return _cut(lost - opening, text - len(self._text(member, turns, "")))


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
