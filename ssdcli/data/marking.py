"""Documents as tokens and their loss mask: what a model is given, what it learns to write, and what closes that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from tokenizers import Tokenizer

from ssdcli.data.documents import Document
from ssdcli.errors import UsageError
from ssdcli.text.chat_template import Chat
from ssdcli.text.codec import Codec, Section, sections
from ssdcli.text.messages import Message

GIVEN: Final = 0  # of a prompt: neither noised nor in the loss
WRITTEN: Final = 1  # noised and in the loss
CLOSING: Final = 2  # an end after an answer: in the loss, but later text is not conditioned on it

_CHECKED = 10_000_000  # characters to render, at most, to see whether a template keeps earlier answers as they were
_PROBE = Message("user", "?")  # shows how a template closes the answer before it


@dataclass
class Marked:
    """Tokens, and a mark for each: GIVEN, WRITTEN or CLOSING."""

    ids: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], mark: int) -> None:
        """Append tokens of one mark."""
        self.ids += ids
        self.marks += [mark] * len(ids)

    def drop_last(self) -> None:
        """Remove the last token."""
        self.ids.pop()
        self.marks.pop()


class Marker:
    """Turns documents into marked tokens, exactly as they are encoded when a model generates their answers.

    Without a chat template, the turns of a conversation are paragraphs.
    """

    def __init__(self, tokenizer: Tokenizer, end: int, chat: Chat | None, ends: Sequence[int]) -> None:
        """Encode with this tokenizer; `end` closes an answer unless the template itself does so with one of `ends`."""
        self._tokenizer = tokenizer
        self._codec = Codec(tokenizer)
        self._ends = ends
        self._end = end
        self._chat = chat

    def mark(self, documents: Sequence[Document]) -> Iterator[Marked]:
        """Yield the tokens of each document; none of a conversation that the chat template refuses."""
        divided = [self._sections(document) for document in documents]
        texts = [section.text for section in chain.from_iterable(divided)]
        encodings = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        for document, parts in zip(documents, divided, strict=True):
            if self._chat is not None and document.turns:
                yield self._in_template(document.turns, self._chat)
            else:
                yield self._in_paragraphs([(next(encodings).ids, part.written) for part in parts])

    def _sections(self, document: Document) -> list[Section]:
        """The texts that are encoded separately; a template encodes its conversations whole."""
        if not document.turns:
            return [Section(document.text, True)]
        return sections(document.turns) if self._chat is None else []

    def _in_paragraphs(self, parts: Sequence[tuple[list[int], bool]]) -> Marked:
        """Join sections, with an end after each that was written but the last."""
        marked = Marked()
        for ids, written in parts:
            if marked.ids and not written:
                marked.add([self._end], CLOSING)
            marked.add(ids, WRITTEN if written else GIVEN)
        return marked

    def _in_template(self, turns: Sequence[Message], chat: Chat) -> Marked:
        """Encode a conversation by a template: all answers, or the last if the template changes earlier ones."""
        user = next(place for place, turn in enumerate(turns) if turn.role == "user")
        answers = [place for place, turn in enumerate(turns) if turn.written and place > user]
        marked = Marked()
        if len(answers) * sum(len(turn.content) for turn in turns) <= _CHECKED:
            with suppress(UsageError):
                marked = self._all_answers(turns, answers, chat)
        if not marked.ids:
            with suppress(UsageError):
                marked = self._one_answer(turns[: answers[-1] + 1], chat)
        return marked

    def _all_answers(self, turns: Sequence[Message], answers: Sequence[int], chat: Chat) -> Marked:
        """Mark all answers, each with its end; nothing if a prompt is not how the whole conversation begins."""
        whole = self._codec.encode_chat([*turns, _PROBE], chat.render)
        marked, place = Marked(), 0
        for answer in answers:
            one = self._one_answer(turns[: answer + 1], chat)
            start, stop = one.marks.count(GIVEN), len(one.ids)
            if one.ids != whole[:stop]:
                return Marked()
            marked.add(whole[place:start], GIVEN)
            marked.add(whole[start:stop], WRITTEN)
            closed = whole[stop] in self._ends
            marked.add([whole[stop] if closed else self._end], WRITTEN if closed else CLOSING)
            place = stop + closed
        if marked.ids[-1] == self._end:  # every document is closed with it anyway
            marked.drop_last()
        return marked

    def _one_answer(self, turns: Sequence[Message], chat: Chat) -> Marked:
        """Mark the last turn as the answer to those before it."""
        marked = Marked()
        marked.add(self._codec.encode_chat(turns[:-1], chat.render), GIVEN)
        marked.add(self._codec.encode(turns[-1].content), WRITTEN)
        return marked
