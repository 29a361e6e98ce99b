"""What a model's texts begin with and what ends them, from its manifest and tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tokenizers import Tokenizer

from ssdcli.registry.manifest import MEMBERS
from ssdcli.registry.store import Entry
from ssdcli.text.chat_template import Chat, read_chat
from ssdcli.text.tokenizer import END_OF_TEXT, special_id


@dataclass(frozen=True)
class TextFormat:
    """How a model's texts begin, end, and are laid out.

    opening: the id before every document.
    ends: the ids that end a text, one at least; in training the first of them separates documents.
    chat: the chat template that conversations are rendered by, if any.
    answers: whether `train-small` trained it on answers. Its conversations follow the opening, as documents do; without
        a template their turns are paragraphs.
    cuts_documents: whether it was trained on windows that begin anywhere in a document, so that it needs no opening.
    """

    opening: int
    ends: tuple[int, ...]
    chat: Chat | None = None
    answers: bool = False
    cuts_documents: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the model knows no conversations, so that a prompt is text to continue."""
        return self.chat is None and not self.answers

    def as_plain(self) -> TextFormat:
        """The same format for text to continue: without the template, and without a break after a question."""
        return replace(self, chat=None, answers=False)


def end_of_text(tokenizer: Tokenizer, whose: str = "the tokenizer") -> int:
    """The id of the tokenizer's own end of text (SsdError if it has none)."""
    return special_id(tokenizer, END_OF_TEXT, whose)


def ends_of(entry: Entry, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a model's texts: those in its manifest, else the tokenizer's own end of text."""
    return entry.manifest.ends or (end_of_text(tokenizer, f"the tokenizer of {entry.name!r}"),)


def ends_of_all(formats: Iterable[TextFormat]) -> tuple[int, ...]:
    """The ids that end a text of several models together: those of each, in their order."""
    return tuple(dict.fromkeys(end for form in formats for end in form.ends))


def chat_of(entry: Entry) -> Chat | None:
    """A model's chat template, if its manifest says that it has one (SsdError if that cannot be read)."""
    return read_chat(entry.folder, entry.name) if entry.manifest.format == "chat" else None


def format_made_here(ends: tuple[int, ...], chat: Chat | None = None, *, answers: bool) -> TextFormat:
    """The format of a model that `train-small` makes, of conversations if it `answers`, else of documents."""
    # Training windows cut documents anywhere, but keep a question and its answer together.
    return TextFormat(ends[0], ends, chat, answers, cuts_documents=not answers)


def format_of(entry: Entry, tokenizer: Tokenizer, *, trained_here: bool) -> TextFormat:
    """How a registered model reads and ends texts; `trained_here`: whether its class is the one of `train-small`."""
    manifest, ends, chat = entry.manifest, ends_of(entry, tokenizer), chat_of(entry)
    answers = manifest.format == "turns" or (chat is not None and manifest.kind in MEMBERS)
    if trained_here and manifest.begin is None:
        return format_made_here(ends, chat, answers=answers)
    return TextFormat(ends[0] if manifest.begin is None else manifest.begin, ends, chat, answers)
