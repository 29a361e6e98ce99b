from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers.chats import export_documents, is_whatsapp
from ssdcli.data.readers.files import read_documents
from ssdcli.data.reading import Reading
from ssdcli.data.row_forms import NO_TEXT
from ssdcli.data.streams import Source


def read(path: Path, *me: str) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(read_documents([str(path)], report, Reading(me=me))), report


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def node(name: str, role: str, text: object, parent: str | None, **more: object) -> dict[str, object]:
    content = {"content_type": "text", "parts": [text]} | more
    return {"id": name, "parent": parent, "children": [], "message": {"author": {"role": role}, "content": content}}


def test_chatgpt_is_read_on_the_branch_that_was_shown_last(tmp_path):
    nodes = [
        node("system", "system", "", None),
        node("ask", "user", "How wide is the lane?", "system"),
        node("first", "assistant", "No idea.", "ask"),
        node("code", "assistant", "print(3)", "ask", content_type="code"),
        node("again", "assistant", "Three metres.", "code"),
    ]
    whole = {"title": "T", "current_node": "again", "mapping": {one["id"]: one for one in nodes}}
    ((document,), report) = read(put(tmp_path / "conversations.json", [whole]))
    assert [(turn.role, turn.content) for turn in document.turns] == [
        ("user", "How wide is the lane?"),
        ("assistant", "Three metres."),
    ]
    assert report.skipped == {}


def test_claude_and_keep_are_read(tmp_path):
    said = [
        {"sender": "human", "text": "old", "content": [{"type": "text", "text": "Why?"}]},
        {"sender": "assistant", "text": "So.", "content": []},
    ]
    put(tmp_path / "a.json", [{"uuid": "1", "chat_messages": said}])
    put(
        tmp_path / "b.json", {"title": "List", "listContent": [{"text": "milk"}, {"text": "bread"}], "isTrashed": False}
    )
    put(tmp_path / "c.json", {"title": "", "textContent": "gone", "isTrashed": True})
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == ["Why?\n\nSo.", "List\n\nmilk\nbread"]
    assert report.skipped == {"note in the bin": 1}


TELEGRAM = {
    "name": "Wren",
    "type": "personal_chat",
    "messages": [
        {"type": "service", "actor": "Wren", "text": ""},
        {"type": "message", "from": "Wren", "date_unixtime": "1000", "text": "Are you in?"},
        {
            "type": "message",
            "from": "Märta",
            "date_unixtime": "1060",
            "text": ["At ", {"type": "bold", "text": "noon"}],
        },
        {"type": "message", "from": "Märta", "date_unixtime": "1070", "text": "or later"},
        {"type": "message", "from": "Wren", "date_unixtime": "999000", "text": "Still there?"},
        {"type": "message", "from": "Märta", "date_unixtime": "999060", "text": "Yes."},
    ],
}
DISCORD = [("wren", "Are you in?"), ("märta", "At noon"), ("märta", "or later")]
EXPORTS = {
    "telegram.json": TELEGRAM,
    "all of telegram.json": {"chats": {"list": [TELEGRAM]}},
    "discord.json": {
        "guild": {},
        "messages": [{"content": text, "author": {"id": "1", "name": name}} for name, text in DISCORD],
    },
    "google.json": {"messages": [{"creator": {"name": name}, "text": text} for name, text in DISCORD]},
    "facebook.json": {
        "participants": [],
        "messages": [
            {"sender_name": name.encode().decode("latin-1"), "timestamp_ms": 1, "content": text}
            for name, text in DISCORD
        ],
    },
    "slack/general/2026-01-01.json": [
        {"type": "message", "user": "U1", "text": "Are you in?", "ts": "1000.1"},
        {"type": "message", "subtype": "channel_join", "user": "U1", "text": "joined", "ts": "1000.2"},
        {"type": "message", "user": "U2", "text": "At noon", "ts": "1001.0", "user_profile": {"real_name": "Märta"}},
        {"type": "message", "user": "U2", "text": "or later", "ts": "1002.0"},
    ],
    "slack/users.json": [{"id": "U1", "name": "wren"}, {"id": "U2", "name": "märta"}],
    "WhatsApp Chat.txt": """01.02.26, 10:00 - Messages are end-to-end encrypted.
01.02.26, 10:01 - Wren: Are you in?
01.02.26, 10:02 - Märta: At noon
01.02.26, 10:02 - Märta: <Media omitted>
01.02.26, 10:03 - Märta: or later
""",
    "_chat.txt": """[1/2/26, 10:01:05 AM] Wren: Are you in?
[1/2/26, 10:02:00 AM] Märta: At noon
\u200e[1/2/26, 10:03:00 AM] Märta: or later
""",
}


@pytest.mark.parametrize("name", [name for name in EXPORTS if name != "slack/users.json"])
def test_what_me_writes_is_learned_as_answers(tmp_path, name):
    put(tmp_path / "slack" / "users.json", EXPORTS["slack/users.json"])
    documents, report = read(put(tmp_path / name, EXPORTS[name]), "MÄRTA")
    turns = [(turn.role, turn.content) for turn in documents[0].turns]
    assert turns == [("user", "Are you in?"), ("assistant", "At noon\n\nor later")]
    assert len(documents) == (2 if "telegram" in name else 1)
    assert report.chats == 0


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_the_names_of_a_slack_export_are_found_in_an_archive_too(tmp_path, kind):
    for name in ("slack/users.json", "slack/general/2026-01-01.json"):
        put(tmp_path / name, EXPORTS[name])
    shutil.make_archive(str(tmp_path / "slack"), kind, tmp_path / "slack")
    documents, _ = read(tmp_path / f"slack.{kind}")
    assert documents[0].text.startswith("wren: Are you in?\n")


def test_without_me_chats_are_read_as_text_and_a_sentence_asks(tmp_path):
    documents, report = read(put(tmp_path / "a.json", TELEGRAM))
    assert documents[0].text.startswith("Wren: Are you in?\nMärta: At noon\nMärta: or later\n")
    assert report.lines()[-1] == (
        "read 1 chat as plain text; who in them are you? Say it with --me NAME (first: Wren, Märta)"
    )
    documents, report = read(tmp_path / "a.json", "Nobody")
    assert (documents, report.skipped) == ([], {"chat in which --me does not write": 1})


def test_messages_that_an_export_turns_round_are_put_in_order(tmp_path):
    said = [("Märta", "At noon", 2000), ("wren", "Are you in?", 1000)]
    messages = [{"sender_name": name, "timestamp_ms": time, "content": text} for name, text, time in said]
    documents, _ = read(put(tmp_path / "a.json", {"participants": [], "messages": messages}), "märta")
    assert [turn.content for turn in documents[0].turns] == ["Are you in?", "At noon"]


def test_what_whatsapp_says_itself_is_no_message_and_is_counted(tmp_path):
    chat = """[31.12.25, 23:59:01] Kiln: \u200eMessages and calls are end-to-end encrypted.
[31.12.25, 23:59:10] ~\u202fWren: Are you in?
\u200e[31.12.25, 23:59:12] Märta: \u200eimage omitted
[31.12.25, 23:59:20] Märta: At noon \u200e<This message was edited>
"""
    documents, report = read(put(tmp_path / "_chat.txt", chat))
    assert documents[0].text == "Wren: Are you in?\nMärta: At noon\n"
    assert report.skipped == {"message without text": 2}


def test_pictures_and_calls_in_the_exports_of_assistants_are_counted(tmp_path):
    parts = [{"content_type": "image_asset_pointer"}, "Why?"]
    nodes = {
        "a": {"message": {"author": {"role": "user"}, "content": {"content_type": "multimodal_text", "parts": parts}}},
        "b": {
            "message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["So."]}},
            "parent": "a",
        },
    }
    called = [{"type": "tool_use", "name": "x"}, {"type": "text", "text": "So."}]
    said = [{"sender": "human", "text": "Why?"}, {"sender": "assistant", "content": called}]
    put(tmp_path / "a.json", [{"current_node": "b", "mapping": nodes}, {"chat_messages": said}])
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == ["Why?\n\nSo."] * 2
    assert report.skipped == {NO_TEXT: 2}


def test_in_a_group_others_are_named(tmp_path):
    said = [("Wren", "a"), ("Ada", "b"), ("Märta", "c")]
    messages = [{"from": name, "date": "2026-01-01T10:00:00", "text": text} for name, text in said]
    ((document,), _) = read(put(tmp_path / "a.json", {"messages": messages}), "Märta")
    assert document.turns[0].content == "Wren: a\n\nAda: b"


def test_text_with_dates_is_no_whatsapp():
    diary = "2024-01-01 10:00 Went for a walk.\n2024-01-02 09:00 Breakfast: eggs.\n"
    for text in ("2024-01-01 10:00 started\n2024-01-01 10:01 ended\n", diary, "1.2. Wren: no\n", "plain\n"):
        assert not is_whatsapp(text.encode())


ANYTHING = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "parts", "role"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ["mapping", "current_node", "chat_messages", "textContent", "listContent", "chats", "messages", "title", "from"]
KEYS += ["author", "content", "message", "parent", "sender", "text", "type", "list", "date", "a"]
EXPORT = st.recursive(
    ANYTHING, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
)


@given(row=st.dictionaries(st.sampled_from(KEYS), EXPORT, max_size=6), me=st.sampled_from([(), ("a",)]))
def test_no_export_stops_the_reader_and_nothing_is_silent(row, me):
    report = ReadReport()
    source = Source("a", iter(()), report, reading=Reading(me=me))
    documents = export_documents(row, "a:1", source)
    assert documents is None or list(documents) or report.skipped or row.get("chats")
