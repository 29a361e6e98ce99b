"""From text to ids and back: of a document, a conversation in paragraphs, and one in a chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from ssdcli.text.messages import BETWEEN, Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PRIVATE_USE = range(0x100000, 0x10FFFE)  # characters without a meaning
_LONG = 100_000  # characters, from which on a text is encoded in pieces and kept for the next time
_LONG_KEPT = 2
_PIECE = 4_096
_WORD_END = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")
_CUT_CHARACTER = "\ufffd"  # what a decoder shows for a character whose last bytes are missing


def whole_characters(text: str) -> str:
    """A decoded text without a last character whose bytes are not complete."""
    return text.rstrip(_CUT_CHARACTER)


def document(turns: Sequence[Message], context: str = "") -> str:
    """A conversation for models that were trained on plain text: a paragraph for each turn, after the context."""
    *earlier, last = [turn.content for turn in turns]
    return BETWEEN.join([*(part for part in (context, *earlier) if part), last])


@dataclass(frozen=True)
class Section:
    """Successive paragraphs of a conversation.

    text: including the breaks around it.
    written: whether the assistant wrote it, and it is learned; otherwise it was given.
    """

    text: str
    written: bool


def sections(turns: Sequence[Message], context: str = "") -> list[Section]:
    """A conversation for models that were trained on conversations in paragraphs.

    Joined, the texts are its document; what a model is to answer ends with a break. Since sections are encoded one by
    one, the ids of a conversation begin with those of each of its beginnings.
    """
    said = [(context, False), *((turn.content, turn.written) for turn in turns)]
    found: list[Section] = []
    for written, paragraphs in groupby((part for part in said if part[0]), key=itemgetter(1)):
        text = BETWEEN.join(text for text, _ in paragraphs)
        found.append(Section(text if written else BETWEEN * bool(found) + text + BETWEEN, written))
    return found


def _splits_words(pre_tokenizer: object) -> bool:
    """Whether a tokenizer never joins a letter and the space after it, as byte-level ones do not."""
    if not isinstance(pre_tokenizer, dict):
        return False
    inner = pre_tokenizer.get("pretokenizers", [])
    return pre_tokenizer.get("type") == "ByteLevel" or any(map(_splits_words, inner))


def _pieces(text: str) -> list[str]:
    """A text cut between a letter and the space before the next word."""
    pieces, start = [], 0
    while len(text) - start > _PIECE and (found := _WORD_END.search(text, start + _PIECE)):
        pieces.append(text[start : found.start()])
        start = found.start()
    return [*pieces, text[start:]]


class Codec:
    """A tokenizer that never reads special tokens from text; they come from chat templates only."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take a tokenizer, and change its settings."""
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # a prompt that spells a special token does not become it
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        tokens = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        self._long: dict[str, list[int]] = {}
        self._words: dict[int, str] = {}
        before = tokenizer.pre_tokenizer
        self._splits_words = before is not None and _splits_words(json.loads(before.__getstate__()))
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        self._special = "|".join(map(re.escape, longest_first)) or "(?!)"

    def encode_turns(self, turns: Sequence[Message], context: str = "") -> list[int]:
        """The ids of a conversation in paragraphs, each section encoded by itself."""
        return [token for section in sections(turns, context) for token in self.encode(section.text)]

    def encode_chat(self, turns: Sequence[Message], render: Callable[[Sequence[Message]], str]) -> list[int]:
        """The ids of what `render` makes of a conversation.

        Special tokens that the template writes are encoded as such; those that a turn spells are plain text.
        """
        said = "".join(turn.content for turn in turns)
        mark = next(chr(code) for code in _PRIVATE_USE if chr(code) not in said)
        text = render([replace(turn, content=self._marked(turn.content, mark)) for turn in turns])
        if mark not in text:
            return self._encode_specials(text)
        # A marked character never matches, even if the template has trimmed the text around it.
        parts = re.split(f"(?<!{mark})({self._special})", text)
        ids: list[int] = []
        for place, part in enumerate(parts):
            ids += self._encode_specials(part) if place % 2 else self.encode(part.replace(mark, ""))
        return ids

    def _marked(self, text: str, mark: str) -> str:
        """The text with a mark before each character of the special tokens that it spells."""
        return re.sub(self._special, lambda spelled: "".join(mark + character for character in spelled[0]), text)

    def _encode_specials(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are encoded as such."""
        self.tokenizer.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self.tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with nothing added."""
        # A JSON escape can spell half of a surrogate pair, which is not a character.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        if len(clean) <= _LONG:
            ids: list[int] = self.tokenizer.encode(clean, add_special_tokens=False).ids
            return ids
        if clean not in self._long:  # the same long prompt is encoded for each member, and to say what is cut of it
            self._long = dict([*self._long.items(), (clean, self._encode_long(clean))][-_LONG_KEPT:])
        return list(self._long[clean])

    def _encode_long(self, text: str) -> list[int]:
        """The ids of a long text, in pieces where that changes nothing: the library takes more than linear time."""
        pieces = _pieces(text) if self._splits_words else [text]
        return [token for found in self.tokenizer.encode_batch(pieces, add_special_tokens=False) for token in found.ids]

    def word(self, token: int) -> str:
        """The word, or part of one, that an id writes, in lower case; empty for one without a letter or digit."""
        if token not in self._words:
            word = self.decode([token]).strip().casefold()
            self._words[token] = word if any(map(str.isalnum, word)) else ""
        return self._words[token]

    @cached_property
    def _by_characters(self) -> dict[str, int | None]:
        """The id that each token's characters name; None where several have them."""
        found: dict[str, int | None] = {}
        for token in range(self.tokenizer.get_vocab_size()):
            text = self.tokenizer.decode([token], skip_special_tokens=False)
            found[text] = None if text in found else token
        return found

    def named(self, characters: str) -> int | None:
        """The token of these characters, if there is one alone."""
        return self._by_characters.get(characters)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens skipped."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
