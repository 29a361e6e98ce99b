"""Documents, and the report of what was read and what was skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self, TypeAlias

from ssdcli.data.cloze import Cloze
from ssdcli.machine.encodings import Decoded
from ssdcli.machine.units import counted, large
from ssdcli.text import codec
from ssdcli.text.messages import Message

MAX_PEOPLE = 12  # that a report names

MAX_PLACES = 1_000  # with replaced characters that a report names

_PLACES_SHOWN = 5  # of them in a sentence

Digest: TypeAlias = bytes


@dataclass(frozen=True)
class Document:
    """One text and where it came from.

    text: what it says.
    source: such as `notes.md` or `mail.jsonl:17`.
    turns: of a conversation, whose text is made of them; a plain text has none.
    included: whether its file was asked for explicitly, so that it is kept though it resembles another.
    line: the line of the source at which it begins, from 1, as far as is known.
    cloze: words that may come next at places of its text.
    """

    text: str
    source: str
    turns: tuple[Message, ...] = ()
    included: bool = False
    line: int = 1
    cloze: tuple[Cloze, ...] = ()

    @classmethod
    def conversation(cls, turns: tuple[Message, ...], source: str) -> Self:
        """Make a document of a conversation; in its text, the turns are paragraphs."""
        return cls(codec.document(turns), source, turns)


@dataclass
class Skips:
    """How often something was skipped for one reason.

    unit: what was skipped, such as `file` or `row`.
    first: where it first was.
    count: how often.
    """

    unit: str
    first: str
    count: int = 0


@dataclass
class ReadReport:
    """What was read and what was skipped, counted while the documents are being consumed.

    files: how many held documents.
    documents: how many were read, conversations included.
    conversations: how many of the documents are conversations.
    characters: of the documents.
    bytes: of the documents as UTF-8.
    words: of the distinct documents, counted when they are split.
    skips: what was skipped, by reason.
    replaced: how many characters were invalid, and replaced by U+FFFD or left out, by file or row; at most
        MAX_PLACES of these are named.
    replaced_characters: how many they are in all.
    replaced_files: in how many files and rows.
    encodings: what was not in UTF-8, by encoding.
    chats: how many chats between people were read as plain text, since it is not known who in them the person is.
    people: some of those who write in them.
    digests: 16-byte digests of the distinct documents.
    """

    files: int = 0
    documents: int = 0
    conversations: int = 0
    characters: int = 0
    bytes: int = 0
    words: int = 0
    skips: dict[str, Skips] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)
    replaced_characters: int = 0
    replaced_files: int = 0
    encodings: dict[str, Skips] = field(default_factory=dict)
    chats: int = 0
    people: dict[str, None] = field(default_factory=dict)
    digests: set[Digest] = field(default_factory=set, repr=False)

    @property
    def skipped(self) -> dict[str, int]:
        """How often something was skipped, by reason."""
        return {reason: skips.count for reason, skips in self.skips.items()}

    def skip(self, reason: str, place: str, unit: str = "file") -> None:
        """Count one skipped unit, and remember where each reason first occurred."""
        self.skips.setdefault(reason, Skips(unit, place)).count += 1

    def add(self, document: Document) -> None:
        """Count one document that was read."""
        self.documents += 1
        self.conversations += bool(document.turns)
        self.characters += len(document.text)
        self.bytes += len(document.text.encode("utf-8"))

    def amend(self, document: Document, instead: Document | None) -> None:
        """Count another document, or none, in place of one that was added."""
        self.documents -= 1
        self.conversations -= bool(document.turns)
        self.characters -= len(document.text)
        self.bytes -= len(document.text.encode("utf-8"))
        if instead is not None:
            self.add(instead)

    def replace(self, characters: int, place: str) -> None:
        """Count invalid characters that were replaced in one file or row."""
        if characters == 0:
            return
        self.replaced_characters += characters
        self.replaced_files += place not in self.replaced
        if place in self.replaced or len(self.replaced) < MAX_PLACES:
            self.replaced[place] = self.replaced.get(place, 0) + characters

    def ask(self, people: Iterable[str]) -> None:
        """Count a chat of which it is not known who in it the person is."""
        self.chats += 1
        for name in people:
            if len(self.people) < MAX_PEOPLE:
                self.people.setdefault(printable(name))

    def decoded(self, found: Decoded, place: str, unit: str = "file") -> None:
        """Count how one file, mail or row was decoded."""
        if found.encoding not in ("UTF-8", "ASCII"):
            self.encodings.setdefault(found.encoding, Skips(unit, place)).count += 1
        self.replace(found.replaced, place)

    def lines(self) -> list[str]:
        """Sentences for people, the first about what was read."""
        kinds = [(self.documents - self.conversations, "document"), (self.conversations, "conversation")]
        found = " and ".join(counted(count, noun) for count, noun in kinds if count)
        size = f"({large(self.characters)} characters)"
        sentences = [f"read {found if found else '0 documents'} {size} from {counted(self.files, 'file')}"]
        for reason, skips in self.skips.items():
            sentences.append(f"skipped {counted(skips.count, skips.unit)}: {reason} (first: {skips.first})")
        if self.chats:
            people = ", ".join(self.people)
            chats = counted(self.chats, "chat")
            sentences.append(
                f"read {chats} as plain text; who in them are you? Say it with --me NAME (first: {people})"
            )
        for encoding, read in self.encodings.items():
            sentences.append(f"read {counted(read.count, read.unit)} as {encoding} (first: {read.first})")
        if self.replaced_characters:
            invalid = counted(self.replaced_characters, "invalid character")
            places = [f"{place} ({count:,})" for place, count in islice(self.replaced.items(), _PLACES_SHOWN)]
            more = self.replaced_files - len(places)
            named = ", ".join(places) + (f" and {more:,} more" if more else "")
            sentences.append(f"replaced {invalid} in {counted(self.replaced_files, 'place')} (first: {named})")
        return sentences

    def counts(self) -> dict[str, Any]:
        """The numbers of this report as plain JSON values."""
        return {
            "files": self.files,
            "documents": self.documents,
            "conversations": self.conversations,
            "characters": self.characters,
            "bytes": self.bytes,
            "words": self.words,
            "skipped": self.skipped,
            "replaced_characters": self.replaced_characters,
            "replaced": dict(self.replaced),
            "encodings": {encoding: read.count for encoding, read in self.encodings.items()},
        }


def printable(text: str) -> str:
    """A name that is safe to show: no control characters, nothing that cannot be encoded."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
