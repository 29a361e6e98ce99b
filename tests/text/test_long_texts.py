from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ssdcli.text import codec
from ssdcli.text.codec import Codec
from tests.tiny import tiny_tokenizer

WORDS = st.sampled_from(
    ["Dear", " landlord", "  ", "\n\n", " é", "the boiler", ",", " 日本", "a ", ".\n", "!?", "\t", " x1 y"]
)


@given(parts=st.lists(WORDS, max_size=60))
def test_a_long_text_has_the_ids_that_it_has_in_one_piece(parts):
    text = "".join(parts)
    whole = Codec(Tokenizer.from_str(tiny_tokenizer().to_str()))
    expected = whole.encode(text)
    short, codec._PIECE = codec._PIECE, 7
    long, codec._LONG = codec._LONG, 3
    try:
        assert whole.encode(text) == whole.encode(text) == expected
    finally:
        codec._PIECE, codec._LONG = short, long


def test_a_long_prompt_is_encoded_once(monkeypatch):
    monkeypatch.setattr(codec, "_LONG", 10)
    made = Codec(Tokenizer.from_str(tiny_tokenizer().to_str()))
    first = made.encode("the boiler is cold")
    monkeypatch.setattr(made, "_encode_long", lambda text: [])
    assert made.encode("the boiler is cold") == first
    made.encode("the boiler is cold").clear()
    assert made.encode("the boiler is cold") == first
