"""Conversations, their ends, and who reads them how, from the registry to the text."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ssdcli.api import Message, Request, Writer, load
from ssdcli.engine.denoiser import Denoiser
from ssdcli.errors import SsdError, UsageError
from ssdcli.generation import selection
from ssdcli.registry.store import Registry
from ssdcli.text.chat_template import Chat
from ssdcli.text.codec import Codec
from tests.generation.test_writer import FAST, Script
from tests.templates import BEGIN, END, INSTRUCT, STRICT, TOKENS, chat_tokenizer
from tests.tiny import VOCABULARY, add_family, add_tiny, member, tiny_backbone, tiny_tokenizer


def add_chat(name: str, template: str, **changes: Any) -> None:
    """Register a model that has a chat template."""
    add_tiny(
        name, backbone=tiny_backbone(9, vocabulary=VOCABULARY + 8), tokenizer=chat_tokenizer(), format="chat", **changes
    )
    (Registry().find(name).folder / "chat_template.jinja").write_text(template)
    (Registry().find(name).folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))


def test_a_core_reads_its_template_and_a_small_model_plain_text(monkeypatch):
    seen = []
    start = Denoiser.start
    monkeypatch.setattr(Denoiser, "start", lambda self, prompts: seen.append(prompts[0].before) or start(self, prompts))
    add_chat("talker", INSTRUCT, begin=BEGIN, ends=(END, 0))
    fields = {"kind": "small", "core": "talker", "ends": (END, 0), "weight": 0.3}
    add_tiny("mine", 3, backbone=tiny_backbone(3, vocabulary=VOCABULARY + 8), tokenizer=chat_tokenizer(), **fields)
    writer = load("talker", ["mine"])
    result = writer.generate("Dear <|end|>", FAST, system="cold", context="boiler", plain=False)
    codec = Codec(chat_tokenizer())
    said = (Message("system", "cold"), Message("user", "Dear <|end|>"))
    core, small = seen
    assert core == codec.encode_chat(said, Chat("talker", INSTRUCT, TOKENS).render)
    assert (core[0], core.count(END)) == (BEGIN, 2)
    assert small == codec.encode("boiler\n\ncold\n\nDear <|end|>")
    assert (result.prompt, result.plain) == ("Dear <|end|>", False)
    conversation = Request(messages=said, context="boiler", seed=FAST.seed)
    assert writer.generate_batch([conversation], FAST)[0].text == result.text
    for options in (replace(FAST, infill=True), FAST, replace(FAST, plain=True)):
        assert writer.generate("Dear____" if options.infill else "Dear", options).plain
        assert seen[-2] == [BEGIN, *codec.encode("Dear")]
    batch = [Request("Dear", plain=plain) for plain in (True, False, None)]
    assert [result.plain for result in writer.generate_batch(batch, FAST)] == [True, False, True]
    assert [result.plain for result in writer.generate_batch(batch, replace(FAST, plain=False))] == [True, False, False]


def test_gaps_are_filled_in_a_document_and_not_in_an_answer():
    add_family()
    for options, request in ((replace(FAST, plain=False), Request("a ____")), (FAST, Request("a ____", plain=False))):
        with pytest.raises(UsageError, match="without a chat template"):
            load("big", ["notes"]).generate_batch([request], replace(options, infill=True))


def test_a_text_ends_at_any_end_of_any_member():
    tokenizer = tiny_tokenizer()
    script = Script({tokenizer.encode("a").ids[0]: [tokenizer.encode("b").ids[0], 2, *tokenizer.encode("the").ids]})
    writer = Writer([member("script", script, tokenizer, ends=(0, 2))], None)
    result = writer.generate("a", steps=1)
    assert (result.text, result.tokens, result.finish_reason, script.blocks) == ("b", 1, "end", 1)
    add_tiny("big", ends=(2, 0))
    add_tiny("notes", 2, kind="small", core="big", weight=0.3)
    assert load("big", ["notes"]).ends == (2, 0)
    assert [one.model.format.opening for one in load("big", ["notes"]).members] == [2, 0]


def test_a_template_that_is_missing_or_refuses_is_told_of_by_name():
    add_chat("talker", STRICT, ends=(END,))
    talk = (Message("user", "a"), Message("user", "b"))
    with pytest.raises(UsageError, match=r"the chat template of 'talker' .*roles must alternate"):
        load("talker").generate_batch([Request(messages=talk)], FAST)
    (Registry().find("talker").folder / "chat_template.jinja").unlink()
    with pytest.raises(SsdError, match="the chat template of 'talker' cannot be read"):
        load("talker")


def test_ends_come_late_where_a_core_floods_texts_with_them(monkeypatch):
    add_family()
    assert not load("big", ["notes"]).late_ends
    monkeypatch.setattr(selection, "_core_table", lambda entry: {"late_ends": entry.name == "big"})
    assert load("big", ["notes"]).late_ends
    assert load("big", ["notes"]).ends == (0,)
    assert not load("none", ["notes"]).late_ends
