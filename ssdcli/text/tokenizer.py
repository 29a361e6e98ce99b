"""Tokenizers: read from a model's folder, or learned for a core made from scratch; and the bytes of their tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ssdcli.errors import SsdError
from ssdcli.registry.manifest import TOKENIZER

END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"
PAD = "<|pad|>"


def load_tokenizer(folder: Path, name: str) -> Tokenizer:
    """Read the tokenizer in the folder of the model of this name; SsdError if it cannot be read."""
    try:
        return Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises nothing more precise
        problem = f"the model {name!r} cannot be used: its {TOKENIZER} cannot be read ({error})."
        raise SsdError(problem, "Check it with 'ssd models verify'.") from error


def special_id(tokenizer: Tokenizer, token: str, whose: str = "the tokenizer") -> int:
    """The id of a special token; SsdError, which calls the tokenizer `whose`, if it has none of that name."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise SsdError(f"{whose} has no token {token}.", "Get the core again, or name another one.")
    return found


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn a byte-level BPE of `vocabulary` tokens, including special ones; each digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, MASK, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


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
