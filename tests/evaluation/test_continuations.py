from __future__ import annotations

from ssdcli.data.documents import Document
from ssdcli.evaluation.continuations import continuations
from ssdcli.text.messages import Message


def test_documents_are_continued_as_text_and_conversations_answered():
    """Also beside a core whose chat template would turn the beginning of a document into a question."""
    text = "the boiler is cold again " * 10
    turns = (Message("user", "Why?"), Message("assistant", "It is cold."))
    document, talk = continuations([Document(text, "a"), Document("", "b", turns)], most=2)
    assert (document.request.prompt, document.request.plain) == (document.before, True)
    assert document.before + document.after == text
    assert (talk.request.messages, talk.request.plain, talk.after) == (turns[:1], None, "It is cold.")
