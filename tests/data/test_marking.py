from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.data import marking
from ssdcli.data.documents import Document
from ssdcli.data.marking import CLOSING, GIVEN, WRITTEN, Marked, Marker
from ssdcli.generation.prompt_encoder import PromptEncoder, PromptParts
from ssdcli.generation.types import Request
from ssdcli.text.chat_template import Chat
from ssdcli.text.codec import Codec
from ssdcli.text.messages import Message
from tests.generation.test_prompt_encoder import Still
from tests.templates import BEGIN, DEAF, END, INSTRUCT, STRICT, WORDY, chat, chat_tokenizer
from tests.tiny import member

EOT = 0
TALK = [
    Message("system", "Be cold."),
    Message("user", "Dear landlord?"),
    Message("assistant", "The boiler"),
    Message("user", "<|end|> is dark"),
    Message("assistant", " again <|end|>\n"),
]
FORGETFUL = INSTRUCT.replace("{{ '<|' + m.role", "{% if not loop.last %}x{% endif %}{{ '<|' + m.role")
PLAIN = st.text(st.sampled_from("ab .\n"), min_size=1, max_size=6).filter(str.strip)


def marked(
    turns: list[Message], template: Chat | None = None, ends: tuple[int, ...] = (END,), eot: int = EOT
) -> Marked:
    marker = Marker(chat_tokenizer(), eot, template, ends)
    return next(marker.mark([Document.conversation(tuple(turns), "")]))


def generated_from(turns: list[Message], template: Chat | None) -> list[int]:
    """What a model that learned from conversations reads before it answers, behind the end of text."""
    reading = member("mine", Still(), chat_tokenizer(), opening=EOT, chat=template, answers=True)
    request = Request(messages=tuple(turns))
    (prompt,) = PromptEncoder((reading,), 0).prompts(request, PromptParts(turns[-1].content), ())
    first, *ids = prompt.before
    assert first == EOT
    return ids


def answers(found: Marked) -> list[tuple[list[int], list[int], int]]:
    """Of each answer the tokens that are read before it, those written, and what closes it."""
    runs, place = [], 0
    marks = [*found.marks, CLOSING]
    while WRITTEN in marks[place:]:
        start = marks.index(WRITTEN, place)
        place = next(i for i in range(start, len(marks)) if marks[i] != WRITTEN)
        before = [token for token, mark in zip(found.ids[:start], found.marks[:start], strict=True) if mark != CLOSING]
        runs.append((before, found.ids[start:place], marks[place]))
    return runs


@pytest.mark.parametrize("template", [None, INSTRUCT])
def test_an_answer_that_is_not_learned_is_given(template):
    """What the model reads before its last answer is the same, learned or not."""
    form = None if template is None else chat(template)
    first = Message("assistant", "The boiler", learned=False)
    (alone,) = answers(marked([*TALK[:2], first, *TALK[3:]], form))
    assert alone == answers(marked(TALK, form))[-1] or template is None
    assert alone[1] == answers(marked(TALK, form))[-1][1]


def test_a_plain_text_is_all_written():
    codec = Codec(chat_tokenizer())
    for template in (None, chat(INSTRUCT)):
        (found,) = Marker(chat_tokenizer(), EOT, template, (END,)).mark([Document("Dear <|end|>", "")])
        assert (found.ids, found.marks) == (codec.encode("Dear <|end|>"), [WRITTEN] * len(found.ids))


def test_every_answer_in_paragraphs_is_written_after_what_generating_reads_and_closed():
    (first, second) = answers(marked(TALK))
    codec = Codec(chat_tokenizer())
    assert first == (generated_from(TALK[:2], None), codec.encode("The boiler"), CLOSING)
    assert second == (generated_from(TALK[:4], None), codec.encode(" again <|end|>\n"), CLOSING)
    found = marked(TALK)
    assert [token for token, mark in zip(found.ids, found.marks, strict=True) if mark == CLOSING] == [EOT]


@given(contents=st.lists(PLAIN, min_size=2, max_size=6))
def test_what_is_read_before_an_answer_is_the_beginning_of_the_conversation_whatever_is_said(contents):
    turns = [Message("assistant" if place % 2 else "user", text) for place, text in enumerate(contents)]
    turns = turns[: len(turns) // 2 * 2]
    found = answers(marked(turns))
    assert [before for before, *_ in found] == [generated_from(turns[:end], None) for end in range(1, len(turns), 2)]


@pytest.mark.parametrize("template", [INSTRUCT, DEAF], ids=["instruct", "deaf"])
def test_every_answer_in_a_template_is_written_after_what_generating_reads_with_the_templates_own_end(template):
    codec, model = Codec(chat_tokenizer()), chat(template)
    first, second = answers(marked(TALK, model))
    assert first == (generated_from(TALK[:2], model), [*codec.encode("The boiler"), END], GIVEN)
    assert second == (generated_from(TALK[:4], model), [*codec.encode(" again <|end|>\n"), END], CLOSING)


def test_the_end_that_closes_a_document_anyway_is_not_there_twice():
    assert marked(TALK, chat(INSTRUCT), eot=END).ids == marked(TALK, chat(INSTRUCT)).ids[:-1]


def test_where_the_templates_end_is_none_an_end_that_nothing_is_read_after_closes_an_answer():
    model = chat(INSTRUCT)
    found = marked(TALK, model, ends=(EOT,))
    first, second = answers(found)
    assert (first[2], second[2]) == (CLOSING, CLOSING)
    assert first[0] == generated_from(TALK[:2], model)
    assert second[0] == generated_from(TALK[:4], model)
    assert found.ids.count(EOT) == 1
    assert found.ids[found.marks.index(CLOSING) + 1] == END


@pytest.mark.parametrize("template", [FORGETFUL, WORDY], ids=["forgetful", "trims"])
def test_where_a_template_shows_earlier_answers_otherwise_the_last_alone_is_written(template):
    model, codec = chat(template), Codec(chat_tokenizer())
    turns = [*TALK[:2], Message("assistant", " The boiler"), *TALK[3:]]
    assert answers(marked(turns, model)) == [
        (generated_from(turns[:4], model), codec.encode(turns[-1].content), CLOSING)
    ]


def test_a_very_long_conversation_has_its_last_answer_written(monkeypatch):
    monkeypatch.setattr(marking, "_CHECKED", 50)
    ((before, *_),) = answers(marked(TALK, chat(INSTRUCT)))
    assert before == generated_from(TALK[:4], chat(INSTRUCT))


def test_what_is_said_before_the_user_does_is_given_in_a_template():
    turns = [Message("assistant", "Dear"), *TALK[1:3]]
    ((before, *_),) = answers(marked(turns, chat(INSTRUCT)))
    assert before == generated_from(turns[:2], chat(INSTRUCT))
    assert BEGIN in before


def test_a_conversation_that_a_template_does_not_take_has_no_tokens():
    turns = [Message("assistant", "Dear"), *TALK[1:3]]
    assert marked(turns, chat(STRICT)).ids == []
    documents = [Document.conversation(tuple(turns), ""), Document("Dear", "")]
    _, plain = Marker(chat_tokenizer(), EOT, chat(STRICT), (END,)).mark(documents)
    assert plain.ids == Codec(chat_tokenizer()).encode("Dear")
