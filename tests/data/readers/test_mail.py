from __future__ import annotations

import gzip
import mailbox
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers import mail as mails
from ssdcli.data.readers.files import read_documents
from ssdcli.data.readers.mail import read_mbox
from ssdcli.data.streams import Source


def read(path: Path) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(read_documents([str(path)], report)), report


def mail(text: str, html: str | None = None, subject: str = "boiler") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"] = subject, "me@example.org"
    if text:
        message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


def box(path: Path, *messages: EmailMessage) -> Path:
    """An mbox as the standard library writes it."""
    written = mailbox.mbox(path)
    for message in messages:
        written.add(message)
    written.close()
    return path


def test_each_mail_is_a_document_with_its_quoted_replies(tmp_path: Path):
    body = "Dear landlord,\n\n> is it cold?\nYes, é.\n\nFrom here on it is dark.\n"
    path = box(tmp_path / "a.mbox", mail(body), mail("second\n"))
    documents, report = read(path)
    assert [document.text for document in documents] == [body, "second\n"]
    assert [document.source for document in documents] == [f"{path}:1", f"{path}:2"]
    assert (report.files, report.skipped) == (1, {})


def test_a_mail_is_read_as_text_or_else_as_what_its_html_shows(tmp_path: Path):
    both, page = mail("plain\n", "<p>marked</p>"), mail("", "<p>Dear</p><script>x</script><p>land&shy;lord</p>")
    documents, _ = read(box(tmp_path / "a.mbox", both, page))
    assert [document.text for document in documents] == ["plain\n", "Dear\n\nland\xadlord"]


def test_attachments_are_no_text_and_mails_without_text_are_counted(tmp_path: Path):
    with_picture, picture = mail("see below\n"), mail("")
    with_picture.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    picture.set_content(b"\0\1", maintype="image", subtype="png")
    documents, report = read(box(tmp_path / "a.mbox", with_picture, picture, mail(" \n")))
    assert [document.text for document in documents] == ["see below\n"]
    assert report.skipped == {"mail without text": 2}


def test_broken_mails_are_counted_and_the_others_read(tmp_path: Path):
    content = b"From a\n\nfirst\n\nFrom b\nContent-Type: text/plain; charset=nonsense\n\n\xff\n\nFrom c\n\nthird\n"
    (tmp_path / "a.mbox").write_bytes(content)
    documents, report = read(tmp_path / "a.mbox")
    assert [document.text.strip() for document in documents] == ["first", "third"]
    assert report.skips["broken mail"].first == f"{tmp_path / 'a.mbox'}:2"


def test_a_mail_that_is_too_long_is_counted_without_being_held(monkeypatch):
    monkeypatch.setattr(mails, "MAX_MAIL_BYTES", 1000)
    chunks = [b"From a\n\nfirst\n\nFrom b\n\n", *[b"x" * 100] * 50, b"\n\nFrom c\n\nthird\n"]
    report = ReadReport()
    assert [document.text.strip() for document in read_mbox(Source("a", iter(chunks), report))] == ["first", "third"]
    assert report.skipped == {"mail of more than 16 MiB": 1}


def test_what_holds_no_mails_is_said_to(tmp_path: Path):
    (tmp_path / "a.mbox").write_text("just text\n")
    assert read(tmp_path / "a.mbox")[1].skipped == {"an mbox without mails": 1}


def test_a_packed_mbox_is_read(tmp_path: Path):
    data = box(tmp_path / "a.mbox", mail("one\n"), mail("two\n")).read_bytes()
    (tmp_path / "b.mbox.gz").write_bytes(gzip.compress(data))
    assert [document.text for document in read(tmp_path / "b.mbox.gz")[0]] == ["one\n", "two\n"]


@given(sizes=st.lists(st.integers(1, 9), min_size=1), breaks=st.sampled_from(["\n", "\r\n"]))
def test_mails_do_not_depend_on_how_the_bytes_come(sizes, breaks):
    data = f"From a{breaks}A: b{breaks}{breaks}one{breaks}{breaks}From b{breaks}{breaks}two{breaks}".encode()
    chunks, place = [], 0
    while place < len(data):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[place : place + size])
        place += size
    found = [document.text.strip() for document in read_mbox(Source("a", iter(chunks), ReadReport()))]
    assert found == ["one", "two"]


@pytest.mark.parametrize("header", [b"Content-Type: ;;;", b"Content-Transfer-Encoding: base64", b"\xff\xfe: \x00"])
def test_strange_headers_do_not_stop_the_reader(header):
    report = ReadReport()
    mails = b"From a\n" + header + b"\n\n=?x?\n\nFrom b\n\nlast\n"
    documents = read_mbox(Source("a", iter([mails]), report))
    assert [document.text.strip() for document in documents][-1] == "last"
