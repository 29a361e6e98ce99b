from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdcli import load
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling.characters import Characters, Draw
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.text.tokenizer import token_bytes
from tests.tiny import add_tiny, tiny_tokenizer

BYTES = [bytes([byte]) for byte in range(256)]
TOKENS = [*BYTES, "é".encode(), "日".encode()[:2], "日本".encode()[1:], b"ab", "x😀".encode()[:4], None]


@cache
def characters() -> Characters:
    found = Characters.of(TOKENS, len(TOKENS))
    assert found is not None
    return found


def written(ids: list[int]) -> bytes:
    return b"".join(TOKENS[place] or b"" for place in ids)


def mended(tokens: torch.Tensor, log_p: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    known = torch.ones_like(tokens, dtype=torch.bool)
    for turn in range(tokens.shape[1]):
        found = characters().wrong(tokens, known, state)
        draw = Draw(Picker(), CounterNoise(range(len(tokens))).derive(turn))
        tokens = characters().mended(tokens, found, log_p, draw)
    return tokens


def is_valid(data: bytes) -> bool:
    """Whether bytes are UTF-8, but for a last character that is not complete."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


@given(ids=st.lists(st.integers(0, len(TOKENS) - 1), min_size=1, max_size=8))
def test_the_automaton_accepts_what_python_decodes(ids):
    tokens = torch.tensor([ids])
    place, _ = characters().wrong(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros(1, dtype=torch.int64))
    ok = int(place)
    assert is_valid(written(ids[:ok]))
    assert (ok == len(ids)) == is_valid(written(ids))


@given(seed=st.integers(0, 200))
def test_what_is_mended_is_utf_8_and_the_rest_is_kept(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(len(TOKENS), (4, 8), generator=generator)
    log_p = torch.randn(4, 8, len(TOKENS), generator=generator).log_softmax(-1)
    found = mended(tokens, log_p, torch.zeros(4, dtype=torch.int64))
    for before, after in zip(tokens.tolist(), found.tolist(), strict=True):
        assert is_valid(written(after))
        assert before == after or not is_valid(written(before))


def test_a_character_goes_on_in_the_next_block():
    state = characters().after(torch.tensor([[97, 0xE6]]), torch.zeros(1, dtype=torch.int64))
    tokens = torch.tensor([[0x97, 0xA5, 97]])
    place, _ = characters().wrong(tokens, torch.ones_like(tokens, dtype=torch.bool), state)
    assert int(place) == 3
    place, _ = characters().wrong(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(state))
    assert int(place) == 0


def test_a_vocabulary_of_whole_characters_needs_nothing():
    assert Characters.of([b"a", "é".encode(), None], 3) is None


def test_the_bytes_of_a_byte_level_vocabulary_are_those_that_it_decodes():
    tokenizer = tiny_tokenizer()
    found = token_bytes(tokenizer, tokenizer.get_vocab_size())
    assert found is not None
    ids = tokenizer.encode("Dear é 日 😀, the boiler\n", add_special_tokens=False).ids
    assert b"".join(found[place] for place in ids).decode() == "Dear é 日 😀, the boiler\n"
    assert found[:3] == [b""] * 3


@pytest.mark.parametrize(
    ("process", "sampler"),
    [
        ("masked", "threshold"),
        ("masked", "ancestral"),
        ("masked", "left-to-right"),
        ("simplex", None),
        ("uniform", None),
    ],
)
def test_no_sampler_writes_bytes_that_are_no_utf_8(process, sampler):
    add_tiny("big", process=process)
    writer = load("big")
    texts = [writer.generate("Dear", seed=seed, max_tokens=48, steps=8, sampler=sampler).text for seed in range(3)]
    assert "\ufffd" not in "".join(texts)
    assert any(character > "\x7f" for character in "".join(texts))
