"""Tokenizers: read from a model's folder, or learned for a core made from scratch; and the bytes of their tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate, pairwise
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


def token_bytes(tokenizer: Tokenizer, vocabulary: int) -> list[bytes] | None:
    """The bytes of each id below `vocabulary`, none if it writes nothing; None if all tokens are whole characters."""
    decoder = tokenizer.decoder
    by_level = decoder is not None and _has_byte_level(json.loads(decoder.__getstate__()))
    if not by_level and tokenizer.token_to_id("<0x80>") is None:
        return None
    added, token_of = tokenizer.get_added_tokens_decoder(), tokenizer.id_to_token  # get_vocab takes twice as long
    tokens = ["" if place in added else token_of(place) or "" for place in range(vocabulary)]
    found = _by_level(tokens) if by_level else [*map(_by_fallback, tokens)]
    for place, token in added.items():
        if place < vocabulary and not token.special:
            found[place] = token.content.encode("utf-8", "replace")
    return found


def _has_byte_level(decoder: object) -> bool:
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteLevel" or any(map(_has_byte_level, decoder.get("decoders", [])))


def _by_level(tokens: Sequence[str]) -> list[bytes]:
    """The bytes of tokens; of all at once, a byte a character, unless some are not spelled in the alphabet."""
    alphabet, spelled = _alphabet()
    written = "".join(tokens)
    if not spelled(written):
        return [_by_level([token])[0] if spelled(token) else token.encode("utf-8", "replace") for token in tokens]
    ends = accumulate(map(len, tokens), initial=0)
    together = written.translate(alphabet).encode("latin-1")
    return [together[start:end] for start, end in pairwise(ends)]


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
