from __future__ import annotations

import json

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from ssdcli.errors import SsdError, UsageError
from ssdcli.text.chat_template import Chat, copy_chat, read_chat, with_context
from ssdcli.text.codec import document, sections
from ssdcli.text.messages import BETWEEN, Message
from tests.templates import DEAF, INSTRUCT, STRICT, TOKENS, WORDY, chat

SYSTEM = Message("system", "Be brief.")
HELLO, ANSWER, MORE = Message("user", "Hello"), Message("assistant", "Hi!"), Message("user", "Why?")


@pytest.mark.parametrize(
    ("turns", "context", "text"),
    [
        ([HELLO], "", "Hello"),
        ([HELLO], "cold", "cold\n\nHello"),
        ([Message("user", "")], "", ""),
        ([Message("user", "")], "cold", "cold\n\n"),
        ([SYSTEM, HELLO, ANSWER, MORE], "cold", "cold\n\nBe brief.\n\nHello\n\nHi!\n\nWhy?"),
        ([HELLO, Message("assistant", "Well,")], "", "Hello\n\nWell,"),
        ([HELLO, Message("assistant", ""), MORE], "", "Hello\n\nWhy?"),
    ],
)
def test_a_document_has_the_context_and_the_turns_as_paragraphs(turns, context, text):
    assert document(turns, context) == text


@pytest.mark.parametrize(
    ("turns", "context", "parts"),
    [
        ([HELLO], "", ["Hello\n\n"]),
        ([SYSTEM, HELLO], "cold", ["cold\n\nBe brief.\n\nHello\n\n"]),
        ([HELLO, ANSWER, MORE], "", ["Hello\n\n", "Hi!", "\n\nWhy?\n\n"]),
        ([HELLO, Message("assistant", "Well,")], "", ["Hello\n\n", "Well,"]),
        ([ANSWER, MORE], "", ["Hi!", "\n\nWhy?\n\n"]),
        ([Message("user", "")], "", []),
        ([HELLO, Message("assistant", "")], "", ["Hello\n\n"]),
    ],
)
def test_runs_are_the_answers_of_a_document_and_what_is_given_before_them(turns, context, parts):
    found = sections(turns, context)
    assert [run.text for run in found] == parts
    assert [run.text for run in found if run.written] == [
        turn.content for turn in turns if turn.role == "assistant" and turn.content
    ]
    assert "".join(parts).removesuffix(BETWEEN) == document(turns, context).removesuffix(BETWEEN)


def test_a_context_is_read_right_before_what_the_user_said_last():
    turns = [SYSTEM, HELLO, ANSWER, MORE, Message("assistant", "Since")]
    *_, last_but_one, last = with_context(turns, "cold")
    assert (last_but_one, last) == (Message("user", "cold\n\nWhy?"), turns[-1])
    assert with_context(turns, "cold")[:3] == tuple(turns[:3])
    assert with_context(turns, "") == tuple(turns)


def test_a_template_puts_every_turn_and_opens_the_answer():
    wanted = "<|user|>Hello<|end|><|assistant|>Hi!<|end|><|user|>Why?<|end|><|assistant|>"
    assert chat(INSTRUCT).render([HELLO, ANSWER, MORE]) == f"<|begin|>{wanted}"
    assert (
        chat(INSTRUCT).render([SYSTEM, HELLO]) == "<|begin|><|system|>Be brief.<|end|><|user|>Hello<|end|><|assistant|>"
    )


def test_the_assistants_last_turn_is_left_open():
    rendered = chat(INSTRUCT).render([HELLO, Message("assistant", "Hi, my")])
    assert rendered == "<|begin|><|user|>Hello<|end|><|assistant|>Hi, my"
    assert chat(INSTRUCT).render([HELLO, Message("assistant", "")]).endswith("<|end|><|assistant|>")


@pytest.mark.parametrize("template", [STRICT, DEAF], ids=["refuses", "ignores"])
def test_a_system_text_that_a_template_does_not_show_goes_into_the_users_first_turn(template):
    model = chat(template)
    merged = Message("user", "Be brief.\n\nHello")
    assert model.render([SYSTEM, HELLO]) == model.render([merged])
    assert model.render([SYSTEM, HELLO, ANSWER, MORE]) == model.render([merged, ANSWER, MORE])
    assert "Be brief." in model.render([SYSTEM, HELLO])


@pytest.mark.parametrize(
    ("template", "turns", "reason"),
    [
        (STRICT, [HELLO, MORE], "roles must alternate"),
        ("{% for", [HELLO], "unexpected|Unexpected|Expected|expected"),
        ("{{ 1 // 0 }}", [HELLO], "zero"),
        ("{{ messages[9].content.x }}", [HELLO], "no element 9"),
        ("{{ messages.__class__.__mro__ }}", [HELLO], "__class__"),
        ("{{ raise_exception('one\ntwo') }}", [HELLO], r"\(one\)"),
        ("{{ messages[0].content }}", [HELLO, ANSWER], "does not show the last message"),
        ("{% set box = namespace(__a=1) %}{{ messages[0].content }}", [HELLO], "__a"),
        ("{% set box = namespace() %}{% set box.__a = 1 %}{{ messages[0].content }}", [HELLO], "__a"),
        ("{{ dict.fromkeys }}{{ dict.mro() }}", [HELLO], "mro"),
    ],
)
def test_a_template_that_does_not_take_a_conversation_is_one_sentence_that_names_the_model(template, turns, reason):
    with pytest.raises(UsageError, match=reason) as raised:
        chat(template).render(turns)
    assert raised.value.problem.startswith("the chat template of 'big' refuses these messages (")
    assert "\n" not in str(raised.value)


EVERY = """
{% set box = namespace(last='', count=0) %}
  {% for m in messages %}
    {% if m.role == 'system' %}{% continue %}{% endif %}
    {% set box.count = box.count + 1 %}
    {%- if m.role == 'assistant' %}
{% generation %}{{ m.content }}{% endgeneration %}
    {% else %}
{{ m.content | trim }}
    {% endif %}
    {% if box.count > 8 %}{% break %}{% endif %}
  {% endfor %}
{{ dict(a=box.count, b='<é>') | tojson }} {{ messages[0] | tojson(indent=2) }} {{ strftime_now('%Y') }}
{% if add_generation_prompt %}{{ bos_token }}{% endif %}
"""


@pytest.mark.parametrize("template", [INSTRUCT, WORDY, DEAF, EVERY], ids=["instruct", "wordy", "deaf", "every"])
@pytest.mark.parametrize("last", [[MORE], [Message("assistant", "Hi,  ")], [Message("assistant", "")]])
def test_it_is_rendered_as_by_transformers(template, last):
    turns = [HELLO, ANSWER, *last]
    continues = turns[-1].role == "assistant"
    (expected,), _ = render_jinja_template(
        [[{"role": turn.role, "content": turn.content} for turn in turns]],
        chat_template=template,
        add_generation_prompt=not continues,
        continue_final_message=continues,
        **TOKENS,
    )
    assert chat(template).render(turns) == expected


def test_a_template_that_makes_nothing_is_refused():
    with pytest.raises(UsageError, match="the chat template of 'big' renders these messages as an empty string"):
        chat("{% if false %}x{% endif %}").render([HELLO])


def test_a_template_is_read_with_the_tokens_that_it_may_name(tmp_path):
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
        "pad_token": None,
        "add_bos_token": True,
        "chat_template": "{{ eos_token }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_chat(tmp_path, "big") == Chat("big", "{{ eos_token }}", {"bos_token": "<s>", "eos_token": "</s>"})
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}é")
    assert read_chat(tmp_path, "big").render([HELLO]) == "<s>é"
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_chat(tmp_path, "big") == Chat("big", "{{ bos_token }}é", {})


@pytest.mark.parametrize("settings", [None, "{}", "[", "[]", '"text"'])
def test_a_model_without_a_template_that_can_be_read_is_named(tmp_path, settings):
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(SsdError, match="the chat template of 'big' cannot be read"):
        read_chat(tmp_path, "big")


def test_a_copied_template_reads_the_same(tmp_path):
    source, target = tmp_path / "core", tmp_path / "small"
    source.mkdir()
    target.mkdir()
    (source / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": "{{ bos_token }}"}))
    copy_chat(source, target)
    assert read_chat(target, "big") == read_chat(source, "big")
    (source / "chat_template.jinja").write_text("{{ bos_token }}!")
    copy_chat(source, target)
    assert read_chat(target, "big") == read_chat(source, "big")
