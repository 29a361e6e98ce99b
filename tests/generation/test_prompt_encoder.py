from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from ssdcli.engine.ensemble.members import Member
from ssdcli.errors import UsageError
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.generation.prompt_encoder import PromptEncoder, PromptParts
from ssdcli.generation.types import Request
from ssdcli.text.chat_template import Chat
from ssdcli.text.codec import Codec
from ssdcli.text.messages import Message
from tests.templates import BEGIN, END, INSTRUCT, SPECIALS, STRICT, TOKENS, USER, WORDY, chat, chat_tokenizer
from tests.tiny import BLOCK, CONTEXT, member, tiny_backbone

TEMPLATES = pytest.mark.parametrize("template", [INSTRUCT, STRICT, WORDY], ids=["instruct", "strict", "wordy"])
CODEC = Codec(chat_tokenizer())
WRITTEN = {*range(BEGIN, BEGIN + len(SPECIALS))}
SPELLED = st.sampled_from([*SPECIALS, "<|mask|>", "<|end", "|>", "<", "<|", " ", "a", "dark", "\n", "é", "\U00100000"])


class Still:
    """A model that is only asked how much it sees."""

    sight = block_size = BLOCK
    context = CONTEXT
    backbone = tiny_backbone()


def still(name: str, chat: Chat | None, **changes: Any) -> Member[LoadedModel]:
    return member(name, Still(), chat_tokenizer(), chat=chat, **changes)


def encoder(*members: Member[LoadedModel], gap: int = 0) -> PromptEncoder:
    return PromptEncoder(members, gap)


def read(request: Request, *members: Member[LoadedModel]) -> list[list[int]]:
    """What each member reads before the text."""
    frame = PromptParts(request.turns[-1].content)
    return [list(prompt.before) for prompt in encoder(*members).prompts(request, frame, ())]


def cuts(reader: PromptEncoder, request: Request) -> tuple[str, ...]:
    """What the members have no room for."""
    parts = PromptParts(request.prompt)
    return reader.cuts(request, parts, reader.prompts(request, parts, ()))


def turns(*contents: str) -> list[Message]:
    return [Message("assistant" if place % 2 else "user", content) for place, content in enumerate(contents)]


def as_transformers(template: str, messages: list[Message]) -> list[int]:
    """The ids by transformers' own way from messages to ids."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=chat_tokenizer(), **TOKENS)
    goes_on = messages[-1].role == "assistant"
    ids = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        chat_template=template,
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
    )
    return list(ids["input_ids"])


@TEMPLATES
@pytest.mark.parametrize(
    "messages",
    [turns("Dear"), turns("Dear landlord", "the boiler", " is dark "), turns("é 🙂", "Well, the "), turns("")],
    ids=len,
)
def test_a_conversation_becomes_the_ids_that_transformers_makes_of_it(template, messages):
    assert CODEC.encode_chat(messages, chat(template).render) == as_transformers(template, messages)


@TEMPLATES
@given(parts=st.lists(SPELLED, max_size=6), before=st.lists(SPELLED, max_size=3))
def test_what_a_turn_spells_is_text_and_the_templates_own_tokens_are_as_ever(template, parts, before):
    said, earlier = "".join(parts), "".join(before)
    ids = CODEC.encode_chat(turns(earlier, "Hi", said), chat(template).render)
    plain = CODEC.encode_chat(turns("x", "Hi", "y"), chat(template).render)
    assert [id for id in ids if id in WRITTEN] == [id for id in plain if id in WRITTEN]
    assert not {0, 1, 2} & set(ids)
    spoken = CODEC.decode(ids)
    trimmed = said.strip() if template == WORDY else said
    assert trimmed in spoken


def test_the_text_around_a_spelled_token_is_read_as_in_a_document():
    ids = CODEC.encode_chat(turns("the <|end|> is dark"), chat(INSTRUCT).render)
    start = ids.index(USER) + 1
    assert ids[start : ids.index(END)] == CODEC.encode("the <|end|> is dark")


def test_a_template_may_cut_a_spelled_token_apart():
    halved = "{% for m in messages %}<|user|>{{ m.content[3:] }}{{ m.content[:5] }}{% endfor %}"
    for spelled in ("<|end|>", "x<|end|>y", "<|begin|><|end|>"):
        assert [id for id in CODEC.encode_chat(turns(spelled), chat(halved).render) if id in WRITTEN] == [USER]


def test_half_a_surrogate_pair_is_no_harm_to_a_conversation():
    render = chat(INSTRUCT).render
    assert CODEC.encode_chat(turns("a\ud800"), render) == CODEC.encode_chat(turns("a?"), render)


def test_after_a_conversation_a_document_is_still_nothing_but_text():
    CODEC.encode_chat(turns("Hello"), chat(INSTRUCT).render)
    assert not WRITTEN & set(CODEC.encode("".join(SPECIALS)))


def test_each_member_reads_in_the_format_that_it_was_trained_on():
    request = Request("Dear", context="cold", system="Be brief.", plain=False)
    core, small, base = (
        still("core", chat(INSTRUCT)),
        still("small", None, role="small"),
        still("base", None, opening=7),
    )
    said = [Message("system", "Be brief."), Message("user", "Dear")]
    assert read(request, core, small, base) == [
        as_transformers(INSTRUCT, said),
        [0, *CODEC.encode("cold\n\nBe brief.\n\nDear")],
        [7, *CODEC.encode("Be brief.\n\nDear")],
    ]


@pytest.mark.parametrize("request_", [Request("Dear", "cold"), Request(messages=tuple(turns("Dear", "Hi", "Why?")))])
def test_a_plain_prompt_is_text_to_continue_for_every_member(request_: Request):
    """Models with a template, or that learned answers, read what they would read without either."""
    plain = replace(request_, plain=True)
    core, taught = still("core", chat(INSTRUCT), opening=7), still("mine", None, role="small", opening=7, answers=True)
    document = "\n\n".join(turn.content for turn in request_.turns)
    assert read(plain, core) == read(plain, still("core", None, opening=7)) == [[7, *CODEC.encode(document)]]
    assert read(plain, taught) == read(plain, still("mine", None, role="small", opening=7))
    assert read(plain, still("mine", chat(INSTRUCT), role="small", opening=7, answers=True)) == read(plain, taught)


def test_an_ensemble_reads_a_prompt_as_its_first_small_model_was_trained_to():
    core, request = still("core", chat(INSTRUCT)), Request("Dear")
    notes, answers = still("notes", None, role="small"), still("answers", None, role="small", answers=True)
    as_text, as_question = [0, *CODEC.encode("Dear")], as_transformers(INSTRUCT, turns("Dear"))
    assert [encoder(*one).is_plain(request) for one in ((core,), (core, answers), (core, answers, notes))] == [
        False
    ] * 3
    assert [encoder(*one).is_plain(request) for one in ((core, notes), (core, notes, answers))] == [True] * 2
    assert read(request, core, notes)[0] == as_text
    assert read(request, core, answers)[0] == read(request, core)[0] == as_question
    assert read(replace(request, plain=False), core, notes)[0] == as_question
    assert read(replace(request, plain=True), core, answers)[0] == as_text


def test_a_conversation_goes_through_the_template_unless_it_is_to_be_text():
    core, notes = still("core", chat(INSTRUCT)), still("notes", None, role="small")
    talk = Request(messages=tuple(turns("Dear", "Hi", "Why?")))
    assert read(talk, core, notes)[0] == as_transformers(INSTRUCT, turns("Dear", "Hi", "Why?"))
    assert read(replace(talk, plain=True), core, notes)[0] == [0, *CODEC.encode("Dear\n\nHi\n\nWhy?")]


def test_a_template_writes_the_beginning_of_a_text_itself():
    ((first, *rest),) = read(Request("Dear"), still("core", chat(INSTRUCT), opening=BEGIN))
    assert first == BEGIN
    assert BEGIN not in rest
    ((first, *_),) = read(Request("Dear"), still("core", chat(WORDY), opening=BEGIN))
    assert first != BEGIN


def test_a_chat_member_that_may_see_it_reads_the_context_before_what_the_user_said_last():
    request = Request(messages=tuple(turns("Dear", "Hi", "Why?")), context="cold")
    open_one, closed = read(request, still("a", chat(INSTRUCT), role="small"), still("b", chat(INSTRUCT)))
    assert open_one == as_transformers(INSTRUCT, turns("Dear", "Hi", "cold\n\nWhy?"))
    assert closed == as_transformers(INSTRUCT, turns("Dear", "Hi", "Why?"))


def test_a_member_that_learned_to_answer_reads_a_break_after_the_question_and_none_after_an_answer():
    taught = still("mine", None, role="small", opening=7, answers=True)
    asked, answered = turns("Dear", "Hi", "Why?"), turns("Dear", "Hi", "Why?", "Sin")
    stretched = [7, *CODEC.encode("cold\n\nDear\n\n"), *CODEC.encode("Hi"), *CODEC.encode("\n\nWhy?\n\n")]
    assert read(Request(messages=tuple(asked), context="cold"), taught) == [stretched]
    assert read(Request(messages=tuple(answered), context="cold"), taught) == [[*stretched, *CODEC.encode("Sin")]]


def test_a_member_that_learned_a_template_here_reads_it_behind_the_opening_as_in_training():
    core, small = still("core", chat(INSTRUCT), opening=7), still("mine", chat(INSTRUCT), opening=7, answers=True)
    given, learned = read(Request("Dear"), core, small)
    assert learned == [7, *given]


def test_a_prompt_in_tokens_is_read_as_it_is_by_every_member():
    """With no opening before it; text beside it is refused."""
    request = Request(ids=(7, 8, 9))
    assert read(request, still("core", chat(INSTRUCT)), still("plain", None)) == [[7, 8, 9]] * 2
    assert list(encoder(still("core", None)).shared(request, PromptParts.continued(""), ()).before) == [7, 8, 9]
    with pytest.raises(UsageError, match="excludes"):
        Request("Dear", ids=(7,))


def test_around_a_gap_every_member_reads_a_document():
    frame = PromptParts.with_gaps("Dear ____.")
    request = Request("Dear ____.", system="Be brief.")
    members = still("core", chat(INSTRUCT), opening=BEGIN), still("mine", None, opening=BEGIN, answers=True)
    for prompt in encoder(*members, gap=4).prompts(request, frame, ()):
        assert list(prompt.before) == [BEGIN, *CODEC.encode("Be brief.\n\nDear")]
        assert list(prompt.after) == CODEC.encode(".")


def test_a_conversation_that_was_cut_is_told_of():
    request = Request("dark " * 100)
    (told,) = cuts(encoder(still("core", chat(INSTRUCT))), request)
    lost = len(as_transformers(INSTRUCT, turns(request.prompt))) - (CONTEXT - BLOCK)
    assert told.endswith(f"leaves out the first {lost} of the conversation.")
    assert cuts(encoder(still("core", chat(INSTRUCT))), Request("Dear")) == ()
