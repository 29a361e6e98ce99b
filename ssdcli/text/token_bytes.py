"""The bytes that tokens write, for vocabularies whose tokens can be parts of characters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how SentencePiece spells a byte that no token has


def token_bytes(tokenizer: Tokenizer) -> list[bytes | None] | None:
    """The bytes of each id; None for one that writes nothing, and None at all if the tokens are whole characters."""
    decoder = tokenizer.decoder
    by_level = decoder is not None and _has_byte_level(json.loads(decoder.__getstate__()))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if not by_level and "<0x80>" not in vocabulary:
        return None
    found: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, place in vocabulary.items():
        found[place] = _by_level(token) if by_level else _by_fallback(token)
    for place, added in tokenizer.get_added_tokens_decoder().items():
        if place < len(found):
            found[place] = None if added.special else added.content.encode("utf-8", "replace")
    return found


def _has_byte_level(decoder: object) -> bool:
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteLevel" or any(map(_has_byte_level, decoder.get("decoders", [])))


def _by_level(token: str) -> bytes:
    alphabet, spelled = _alphabet()
    return token.translate(alphabet).encode("latin-1") if spelled(token) else token.encode("utf-8", "replace")


def _by_fallback(token: str) -> bytes:
    spelled = _BYTE.fullmatch(token)
    return bytes([int(spelled[1], 16)]) if spelled else token.encode("utf-8", "replace")


@cache
def _alphabet() -> tuple[dict[int, int], Callable[[str], object]]:
    """The byte for each character of GPT-2's vocabulary and those like it, and whether a text has no others.

    A byte is spelled as its own character if that can be seen.
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    alphabet = {byte: byte for byte in seen} | {256 + place: byte for place, byte in enumerate(others)}
    return alphabet, re.compile(f"[{re.escape(''.join(map(chr, alphabet)))}]*").fullmatch
