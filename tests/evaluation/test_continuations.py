from __future__ import annotations

import numpy as np

from ssdcli.data.documents import Document
from ssdcli.evaluation.continuations import PEOPLE, continuations, measure_texts
from ssdcli.models.judge import Judgement
from ssdcli.text.messages import Message


def test_documents_are_continued_as_text_and_conversations_answered():
    """Also beside a core whose chat template would turn the beginning of a document into a question."""
    text = "the boiler is cold again " * 10
    turns = (Message("user", "Why?"), Message("assistant", "It is cold."))
    document, talk = continuations([Document(text, "a"), Document("", "b", turns)], most=2)
    assert (document.request.prompt, document.request.plain) == (document.before, True)
    assert document.before + document.after == text
    assert (talk.request.messages, talk.request.plain, talk.after) == (turns[:1], None, "It is cold.")


class Judge:
    """Keeps what it is asked to read."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def read(self, prompt: str, text: str) -> Judgement:
        self.asked.append((prompt, text))
        return Judgement(float(len(text)), len(text), np.zeros(2))


def test_a_judge_reads_each_text_after_the_beginning_that_it_continues():
    found = continuations([Document(f"{word} boiler is cold again " * 10, word) for word in ("the", "a")], most=2)
    judge, texts = Judge(), {PEOPLE: ["one", "two"], "small": ["three", "four"]}
    measure_texts(texts, found, judge, seed=0)
    befores = [one.before for one in found]
    assert befores[0] != befores[1]
    assert judge.asked == [*zip(befores, texts[PEOPLE], strict=True), *zip(befores, texts["small"], strict=True)]
