"""Copies are found exactly, wherever they stand."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.evaluation.audit.verbatim import SPAN, Search, find, share, spans_of

DRAW = random.Random(0)


def fresh(length):
    return "".join(DRAW.choices(string.ascii_letters + " \n\u00e9\U0001f426", k=length))


def found(spans, texts):
    search = Search(spans)
    for text in texts:
        search.read(text)
    return search.found()


def test_text_that_was_copied_from_training_is_all_copied():
    documents = [fresh(500) for _ in range(30)]
    copy = documents[7][100:300]
    assert share([copy], find([copy], [(text, False) for text in documents]).in_training) == 1.0


def test_fresh_text_is_not_copied():
    text = fresh(300)
    assert share([text], find([text], [(fresh(3000), False)]).in_training) == 0.0


def test_half_of_a_text_is_copied_where_half_of_its_spans_are():
    document = fresh(149)
    text = document + fresh(100)
    assert share([text], find([text], [(document, False)]).in_training) == 0.5


def test_boilerplate_that_is_held_out_too_is_told_apart():
    licence, secret = fresh(200), fresh(200)
    found = find([licence, secret], [(licence + fresh(50) + secret, False), (fresh(30) + licence, True)])
    copied = found.in_training - found.in_heldout
    assert (share([licence], copied), share([secret], copied)) == (0.0, 1.0)
    assert share([licence], found.in_training) == 1.0


def test_a_span_that_two_documents_make_together_stands_in_neither():
    document = fresh(SPAN)
    assert found([document], [document[:20], document[20:]]) == set()


@pytest.mark.parametrize("length", [SPAN, 1 << 18, (1 << 18) + 7, 600_000])
def test_the_first_and_the_last_span_of_a_text_are_found_whatever_its_length(length):
    text = ("".join(DRAW.choices("ab", k=1000)) * (length // 1000 + 1))[:length]
    ends = {text[:SPAN], text[-SPAN:]}
    assert found(ends, [fresh(10), text, fresh(10)]) == ends


@given(st.lists(st.text("ab", max_size=70), max_size=6), st.text("ab", min_size=SPAN, max_size=130))
def test_the_search_agrees_with_looking_everywhere(texts, text):
    spans = set(spans_of(text))
    assert found(spans, [*texts, text[3:60]]) == {
        span for span in spans if any(span in t for t in [*texts, text[3:60]])
    }


def test_texts_with_lone_surrogates_can_be_looked_through():
    text = fresh(60)
    assert found(spans_of(text), ["\ud800" + text + "\udfff"]) == set(spans_of(text))


def test_short_texts_have_no_span_and_no_share():
    assert spans_of("a" * (SPAN - 1)) == []
    assert len(spans_of("a" * SPAN)) == 1
    assert share(["short"], set()) is None
    assert found([], ["text"]) == set()
