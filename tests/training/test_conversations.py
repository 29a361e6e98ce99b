"""Small models that learn to answer: from rows on the disk to what is generated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssdcli.api import Message, load
from ssdcli.data.marking import CLOSING
from ssdcli.engine.denoiser import Denoiser
from ssdcli.evaluation.scored_text import heldout_texts
from ssdcli.registry.store import Registry
from ssdcli.text.codec import Codec
from ssdcli.training.job import train_small
from ssdcli.training.prepare import prepare
from ssdcli.training.settings import TrainSettings
from tests.generation.test_conversations import add_chat
from tests.generation.test_writer import FAST
from tests.templates import BEGIN, END, INSTRUCT, chat, chat_tokenizer
from tests.tiny import add_tiny, tiny_tokenizer
from tests.trainings import SHAPE


def rows(path: Path, talks: int, texts: int) -> str:
    """A file of so many conversations and texts."""
    lines = [{"prompt": f"Dear landlord {i}?", "response": f"The boiler is {i}."} for i in range(talks)]
    lines += [{"text": f"the stairs are dark {i}"} for i in range(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def settings(data: str, **changes: object) -> TrainSettings:
    return TrainSettings(**{"data": (data,), "core": "big", "name": "mine", "steps": 2, **SHAPE, **changes})


@pytest.mark.parametrize(
    ("talks", "texts", "core_format", "expected"),
    [(60, 0, "plain", "turns"), (60, 200, "plain", "plain"), (0, 60, "chat", "plain"), (60, 20, "chat", "chat")],
)
def test_a_model_takes_the_format_of_most_of_its_text(tmp_path, talks, texts, core_format, expected):
    if core_format == "chat":
        add_chat("big", INSTRUCT, begin=BEGIN, ends=(END,))
    else:
        add_tiny("big")
    prepared = prepare(settings(rows(tmp_path / "a.jsonl", talks, texts)), Registry())
    assert prepared.format == expected
    assert prepared.store.info.read["conversations"] == talks


def test_held_out_conversations_are_measured_by_their_answers(tmp_path):
    add_tiny("big")
    prepared = prepare(settings(rows(tmp_path / "a.jsonl", 60, 0)), Registry())
    found = heldout_texts(prepared.store, prepared.tokenizer, 10_000)
    assert len(found) == prepared.store.info.heldout.documents
    for one_text in found:
        assert one_text.scored is not None
        answer = [token for token, counts in zip(one_text.tokens, one_text.scored, strict=True) if counts]
        text = tiny_tokenizer().decode(answer)
        assert text.startswith("The boiler is ")
        assert one_text.bytes == len(text.encode())


def test_ends_between_answers_are_no_part_of_what_is_measured(tmp_path):
    add_tiny("big")
    turns = [("user", "Dear landlord?"), ("assistant", "The boiler"), ("user", "is it cold?"), ("assistant", "It is.")]
    lines = [{"messages": [{"role": who, "content": f"{what} {i}"} for who, what in turns]} for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepared = prepare(settings(str(tmp_path / "a.jsonl")), Registry())
    assert (prepared.store.heldout_marks == CLOSING).sum() > prepared.store.info.heldout.documents + 1
    for one_text in heldout_texts(prepared.store, prepared.tokenizer, 10_000):
        assert list(one_text.tokens).count(prepared.end) == 1


def test_the_answer_of_a_long_prompt_is_measured(tmp_path):
    add_tiny("big")
    lines = [{"prompt": f"the boiler {i} " * 2000, "response": f"It is cold {i}."} for i in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepared = prepare(settings(str(tmp_path / "a.jsonl")), Registry())
    found = heldout_texts(prepared.store, prepared.tokenizer, 10_000)
    assert found
    assert all(any(one_text.counted) for one_text in found)


@pytest.mark.parametrize("format", ["turns", "chat"])
def test_a_trained_model_is_asked_as_it_was_taught(tmp_path, monkeypatch, format):
    if format == "chat":
        add_chat("big", INSTRUCT, begin=BEGIN, ends=(END,))
    else:
        add_tiny("big")
    train_small(settings(rows(tmp_path / "a.jsonl", 60, 0)))
    assert Registry().find("mine").manifest.format == format
    seen = []
    start = Denoiser.start
    monkeypatch.setattr(Denoiser, "start", lambda self, prompts: seen.append(prompts[0].before) or start(self, prompts))
    load("none", ["mine"]).generate("Dear", FAST)
    if format == "chat":
        codec = Codec(chat_tokenizer())
        assert seen[0] == [END, *codec.encode_chat([Message("user", "Dear")], chat(INSTRUCT).render)]
    else:
        assert seen[0] == [0, *Codec(tiny_tokenizer()).encode("Dear\n\n")]
