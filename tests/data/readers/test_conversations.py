from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssdcli.data import streams
from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.readers.rows import row_documents
from ssdcli.data.row_forms import NO_TEXT
from ssdcli.text.messages import Message

SYSTEM, ASK, ANSWER = Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So.")


def said(*turns: tuple[str, object]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in turns]


def rows(*rows: dict[str, object]) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(row_documents(enumerate(rows, 1), "mail.jsonl", report)), report


def turns_of(row: dict[str, object]) -> tuple[Message, ...]:
    (document,), _ = rows(row)
    return document.turns


def read(*paths: Path) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(read_documents([str(path) for path in paths], report)), report


def test_a_prompt_and_its_response_are_two_turns_after_a_system_text_if_there_is_one():
    assert turns_of({"prompt": "Why?", "response": "So."}) == (ASK, ANSWER)
    assert turns_of({"prompt": "Why?", "response": "So.", "system": "Be brief."}) == (SYSTEM, ASK, ANSWER)
    assert turns_of({"prompt": "Why?", "response": "So.", "system": None}) == (ASK, ANSWER)
    assert turns_of({"prompt": "Why?", "response": "So.", "system": ""}) == (ASK, ANSWER)


def test_messages_are_turns_whose_contents_are_texts_or_lists_of_texts():
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?", "image": None}]
    row = {"messages": said(("system", "Be brief."), ("user", parts), ("assistant", "So.")), "prompt": "other"}
    assert turns_of(row) == (SYSTEM, ASK, ANSWER)


PAIR = (Message("user", "Why?"), Message("assistant", "So."))
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
SHAREGPT_HISTORY = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": SHAREGPT},
        {"Conversations": json.dumps(SHAREGPT)},
        {"messages": said(("Human", "Why?"), ("Assistant", "So."))},
        {"messages": said(("user", ["Why?"]), ("assistant", {"text": "So."}))},
        {"messages": said(("user", [{"type": "text", "text": "Why?"}, {"type": "image_url"}]), ("assistant", "So."))},
        {"messages": [*said(("user", "Why?")), CALL, *said(("assistant", "So."))]},
        {"prompt": "Why?", "completion": " So."},
        {"prompt": said(("user", "Why?")), "completion": said(("assistant", "So."))},
        {"prompt": "Why?", "chosen": said(("user", "Why?"), ("assistant", "So.")), "rejected": "No."},
        {"instruction": "Why?", "input": "", "output": "So."},
        {"question": "Why?", "answer": "So."},
        {"text": "", "prompt": "Why?", "response": "So."},
        {"text": None, "messages": said(("user", b"Why?"), ("assistant", "So."))},
    ],
)
def test_a_conversation_may_have_many_forms(row):
    assert turns_of(row) == PAIR


def test_more_of_the_question_tools_and_later_system_texts_are_given_not_learned():
    assert turns_of({"instruction": "Name it.", "input": "The blue one", "output": "So."})[0].content == (
        "Name it.\n\nThe blue one"
    )
    row = {"messages": said(("developer", "d"), ("user", "a"), ("tool", "b"), ("assistant", "c"), ("system", "s"))}
    row["messages"] += said(("user", "u"), ("assistant", "v"))
    assert [(turn.role, turn.content) for turn in turns_of(row)] == [
        ("system", "d"),
        ("user", "a\n\nb"),
        ("assistant", "c"),
        ("user", "s\n\nu"),
        ("assistant", "v"),
    ]


def test_an_answer_of_weight_0_is_given_not_learned():
    first = {"role": "assistant", "content": "b", "weight": 0}
    row = {"messages": [*said(("user", "a")), first, *said(("user", "c"), ("assistant", "d"))]}
    assert [turn.written for turn in turns_of(row)] == [False, False, False, True]


def test_turns_are_read_as_python_and_google_write_them():
    assert turns_of({"messages": str(said(("user", "Why?"), ("assistant", "So.")))}) == (ASK, ANSWER)
    turns = [{"role": "user", "parts": [{"text": "Why?"}]}, {"role": "model", "parts": [{"text": "So."}]}]
    row = {"systemInstruction": {"parts": [{"text": "Be brief."}]}, "contents": turns}
    assert turns_of(row) == (SYSTEM, ASK, ANSWER)


@pytest.mark.parametrize(
    "history",
    [[["Who?", "I."]], '[["Who?", "I."]]', said(("user", "Who?"), ("assistant", "I.")), SHAREGPT_HISTORY],
)
def test_a_history_is_the_turns_before_the_question(history):
    earlier = (Message("user", "Who?"), Message("assistant", "I."))
    row = {"instruction": "Why?", "input": "", "output": "So.", "history": history, "system": "Be brief."}
    assert turns_of(row) == (SYSTEM, *earlier, ASK, ANSWER)
    assert turns_of(row | {"history": []}) == turns_of(row | {"history": None}) == (SYSTEM, ASK, ANSWER)
    assert rows(row | {"history": ["Who?"]})[1].skipped == {"a 'history' that is no list of questions and answers": 1}


def test_parts_that_are_no_text_are_counted():
    seen = [{"type": "text", "text": "Why?"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_audio"}]
    row = {"messages": said(("user", seen), ("assistant", "So.")), "prompt": "unused"}
    (document,), report = rows(row)
    assert document.turns == (ASK, ANSWER)
    assert report.skipped == {NO_TEXT: 2}
    called = {"messages": [*said(("user", "Why?")), CALL, *said(("tool", "It is."), ("assistant", "So."))]}
    assert rows(called)[1].skipped == {NO_TEXT: 1}


def test_a_text_may_be_a_list_or_bytes():
    parts = ["See ", {"type": "bold", "text": "page four"}, " please"]
    documents, report = rows(
        {"text": parts}, {"text": "né “x”".encode("cp1252")}, {"Text": ["One.", "Two."]}, {"text": 3}
    )
    assert [document.text for document in documents] == ["See page four please", "né “x”", "One.\nTwo."]
    assert sum(report.skipped.values()) == 1


def test_a_text_wins_over_a_conversation():
    ((document,), _) = rows({"text": "plain", "messages": said(("user", "a"), ("assistant", "b"))})
    assert (document.text, document.turns) == ("plain", ())


def test_the_text_of_a_conversation_has_its_turns_as_paragraphs():
    ((document,), report) = rows({"prompt": "Why?\r\n", "response": "S\ud800.", "system": "Be brief."})
    assert (document.text, document.source) == ("Be brief.\n\nWhy?\n\n\nS\ufffd.", "mail.jsonl:1")
    assert (report.documents, report.conversations, report.replaced_characters) == (1, 1, 1)


def test_what_one_says_several_times_in_a_row_is_one_turn_and_nothing_follows_the_last_answer():
    row = {"messages": said(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e"))}
    assert turns_of(row) == (Message("user", "a\n\nb"), Message("assistant", "c\n\nd"))


def test_the_assistant_may_speak_first():
    turns = said(("assistant", "Hi"), ("user", "Why?"), ("assistant", "So."))
    assert [turn.content for turn in turns_of({"messages": turns})] == ["Hi", "Why?", "So."]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "Why?"}, "not a list"),
        ({"messages": ["Why?"]}, "not a list"),
        ({"messages": said(("user", "a"))}, "without an assistant message"),
        ({"messages": said(("assistant", "a"), ("user", "b"))}, "without a user message"),
        ({"messages": said(("system", "s"), ("assistant", "a"))}, "without a user message"),
        ({"messages": said(("user", "a"), ("assistant", " \n"))}, "an empty response"),
        ({"messages": said(("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c"))}, "an empty response"),
        ({"prompt": "a", "response": ""}, "an empty response"),
        ({"prompt": "a", "response": "b", "system": 3}, "'system' that is not text"),
        ({"messages": said(("user", "a"), ("cat", "b"), ("assistant", "c"))}, "role is not one of"),
        ({"messages": said(("user", "a"), (["assistant"], "c"))}, "role is not one of"),  # type: ignore[arg-type]
        ({"messages": [{"content": "a"}, {"role": "assistant", "content": "c"}]}, "role is not one of"),
        ({"messages": [*said(("user", "a")), {"role": "assistant", "content": "c", "weight": 0}]}, "weight 0"),
        ({"messages": said(("user", 3), ("assistant", "c"))}, "content is not text"),
        ({"messages": said(("user", {"words": "a"}), ("assistant", "c"))}, "content is not text"),
        ({"messages": said(("user", [{"type": "text", "text": 3}]), ("assistant", "c"))}, "content is not text"),
    ],
)
def test_what_is_no_conversation_is_counted_with_its_reason_and_place(row, reason):
    documents, report = rows({"text": "good"}, row)
    assert [document.text for document in documents] == ["good"]
    ((found, skips),) = report.skips.items()
    assert reason in found
    assert (skips.count, skips.unit, skips.first) == (1, "row", "mail.jsonl:2")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4) | st.sampled_from(["user", "assistant", "system"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | ANYTHING, "content": ANYTHING}
)
ROW = st.dictionaries(
    st.sampled_from(["messages", "prompt", "response", "system", "text"]), ANYTHING | st.lists(TURN, max_size=5)
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(row=ROW)
def test_no_row_whatever_it_holds_stops_the_reader(row):
    documents, report = rows(row, {"prompt": "Why?", "response": "So."})
    assert documents[-1].turns == (ASK, ANSWER)
    assert len(documents) + sum(report.skipped.values()) >= 2


def test_csv_and_parquet_hold_conversations_too(tmp_path: Path):
    (tmp_path / "a.csv").write_text("prompt,response,system\nWhy?,So.,Be brief.\nWhy?,,\n")
    messages = said(("user", "Why?"), ("assistant", "So."))
    pq.write_table(pa.table({"messages": [messages, None, messages[:1]], "n": [1, 2, 3]}), tmp_path / "b.parquet")
    listed = [
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "So."}]},
    ]
    pq.write_table(pa.table({"messages": [listed]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"prompt": ["Why?"], "response": ["So."]}), tmp_path / "d.parquet")
    documents, report = read(tmp_path)
    assert [document.turns for document in documents] == [(SYSTEM, ASK, ANSWER), *[(ASK, ANSWER)] * 3]
    assert sorted(report.skipped.values()) == [1, 1, 1]
    assert report.lines()[0].startswith("read 4 conversations (")


def test_a_parquet_column_that_cannot_become_messages_does_not_raise(tmp_path: Path):
    when = pa.array([2**62], pa.timestamp("us"))
    struct = pa.StructArray.from_arrays([pa.array(["user"]), when], ["role", "content"])
    pq.write_table(pa.table({"messages": pa.ListArray.from_arrays([0, 1], struct)}), tmp_path / "a.parquet")
    documents, report = read(tmp_path)
    assert (documents, report.skipped) == ([], {"unreadable": 1})


def test_the_report_tells_conversations_from_texts(tmp_path: Path):
    lines: Sequence[dict[str, str]] = [
        {"text": "a"},
        {"prompt": "b", "response": "c"},
        {"prompt": "d", "response": "e"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = read(tmp_path)[1]
    assert report.lines() == ["read 1 document and 2 conversations (9 characters) from 1 file"]
    assert (report.counts()["documents"], report.counts()["conversations"]) == (3, 2)


def test_a_conversation_is_never_cut_and_one_that_is_too_long_is_counted(monkeypatch):
    monkeypatch.setattr(streams, "MAX_DOCUMENT_CHARACTERS", 100)
    monkeypatch.setattr("ssdcli.data.readers.rows.MAX_DOCUMENT_CHARACTERS", 100)
    documents, report = rows({"prompt": "a" * 90, "response": "b" * 8}, {"prompt": "a" * 90, "response": "b" * 9})
    assert [len(document.text) for document in documents] == [100]
    assert report.skipped == {"a conversation of more than 100 characters": 1}
