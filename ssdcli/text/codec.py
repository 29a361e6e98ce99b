"""From text to ids and back, for a text, a conversation in paragraphs, and one in a chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ssdcli.text.chat import stretches
from ssdcli.text.messages import Message

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PRIVATE_USE = range(0x100000, 0x10FFFE)  # characters that mean nothing to anybody


class Codec:
    """A tokenizer that reads text as nothing but text; special tokens come from chat templates alone."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take over the tokenizer, whose settings are changed."""
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # a prompt that spells a special token does not become it
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        tokens = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        self._special = "|".join(map(re.escape, longest_first)) or "(?!)"

    def encode_turns(self, turns: Sequence[Message], context: str = "") -> list[int]:
        """The ids of a conversation in paragraphs, each stretch of it read by itself."""
        return [token for stretch in stretches(turns, context) for token in self.encode(stretch.text)]

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
        self.tokenizer.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self.tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with nothing added."""
        # Half of a surrogate pair, as a JSON escape can make one, is no character.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self.tokenizer.encode(clean, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens skipped."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
