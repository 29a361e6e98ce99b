"""Tokenizers: read from a model's folder, or learned for a core that is made from scratch."""

from __future__ import annotations

from collections.abc import Iterable
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
