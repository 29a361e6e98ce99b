from __future__ import annotations

import gzip
import mailbox
from codecs import BOM_UTF8
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers import mail as mails
from ssdcli.data.readers.files import read_documents
from ssdcli.data.readers.mail import is_mail, is_mbox, read_mail, read_mbox, read_mhtml
from ssdcli.data.readers.mail_body import reflowed, without_quotes
from ssdcli.data.reading import Reading
from ssdcli.data.streams import Source

POSTMARK = b"From ada@example.org Thu Jan  1 00:00:00 2026\n"
LINES = st.lists(st.text(st.characters(categories=("L", "N", "P", "Zs"), codec="utf-8"), max_size=90), min_size=1)


def read(*paths: Path, quotes: bool = False) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(read_documents([str(path) for path in paths], report, Reading(quotes))), report


def texts(data: bytes, quotes: bool = False) -> list[str]:
    report = ReadReport()
    source = Source("a", iter([data]), report, reading=Reading(quotes))
    return [document.text for document in (read_mbox if is_mbox(data) else read_mail)(source)]


def mail(plain: str, html: str | None = None) -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"] = "[HEADER] über", "Märta <ada@example.org>"
    if plain:
        message.set_content(plain)
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


def multipart(kind: str, *parts: bytes) -> bytes:
    """A mail of parts, each with its own headers."""
    inner = b"".join(b"--B\n" + part + b"\n" for part in parts)
    return (
        b"From: a@b.c\nDate: today\nMIME-Version: 1.0\nContent-Type: "
        + kind.encode()
        + b"; boundary=B\n\n"
        + inner
        + b"--B--\n"
    )


HEAD = b"From: a@b.c\nDate: today\nMessage-ID: <1@x>\n"


def test_a_mark_before_the_headers_is_no_text():
    postmark = b"From a@b.c Thu Jan  1 00:00:00 2026\n"
    for mail in (HEAD + b"\nBody.\n", postmark + HEAD + b"\nBody.\n"):
        assert is_mbox(BOM_UTF8 + mail) == is_mbox(mail)
        assert texts(BOM_UTF8 + mail) == ["Body.\n"]


def test_a_sentence_with_a_time_and_a_year_begins_no_mail():
    body = b"One.\n\nFrom here at 10:00 in 2026 it went on.\n\nTwo.\n"
    found = texts(b"From a@b.c Thu Jan  1 00:00:00 2026\n" + HEAD + b"\n" + body)
    assert found == [body.decode()]


def test_uuencoded_files_in_a_mail_are_left_out():
    assert texts(HEAD + b"\nSee:\nbegin 644 a.txt\n#0V%T\n`\nend\nAfter\n") == ["See:\n\nAfter\n"]


def test_what_openpgp_puts_around_a_text_is_no_text():
    signed = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nText.\n- -- dash\n"
    signature = "-----BEGIN PGP SIGNATURE-----\n\niQEz\n-----END PGP SIGNATURE-----\n"
    assert texts(HEAD + f"\n{signed}{signature}".encode()) == ["Text.\n-- dash\n"]
    encrypted = HEAD + b"\n-----BEGIN PGP MESSAGE-----\n\nhQEMA\n-----END PGP MESSAGE-----\n"
    report = ReadReport()
    assert list(read_mail(Source("a", iter([encrypted]), report))) == []
    assert report.skipped == {"encrypted mail": 1}


def test_enriched_text_is_read_without_its_marks():
    assert texts(HEAD + b"Content-Type: text/enriched\n\n<bold>Hi</bold> there\n") == ["Hi there\n"]


def test_the_quotations_of_a_saved_page_are_text():
    mail = HEAD + b"Content-Type: text/html\n\n<p>a<blockquote type=cite>b</blockquote>"
    assert texts(mail) == ["a\n"]
    page = Source("a.mhtml", iter([mail]), ReadReport())
    assert [document.text for document in read_mhtml(page)] == ["a\n\nb\n"]


def test_each_mail_is_a_document_and_no_header_is_in_any(tmp_path: Path):
    body = "Dear landlord,\n\nYes, é.\n\nFrom here on it is dark.\n>From there too.\n"
    path = box(tmp_path / "a.mbox", mail(body), mail("second\n"))
    documents, report = read(path)
    assert [document.text for document in documents] == [body.replace(">From", "From"), "second\n"]
    assert [document.source for document in documents] == [f"{path}:1", f"{path}:2"]
    assert (report.files, report.skipped) == (1, {})
    assert not any("HEADER" in document.text for document in documents)


@given(
    lines=LINES,
    transfer=st.sampled_from(["base64", "quoted-printable"]),
)
def test_a_mail_says_what_was_written_into_it(lines, transfer):
    body = "\n".join(line.strip() or "." for line in lines)
    message = mail("")
    message.set_content(body, charset="utf-8", cte=transfer)
    assert texts(bytes(message), quotes=True) == [body.strip("\n").rstrip() + "\n"]


@given(bodies=st.lists(LINES, min_size=1, max_size=4), escape=st.booleans(), ends=st.sampled_from([b"\n", b"\r\n"]))
def test_a_box_has_as_many_mails_as_were_put_into_it(bodies, escape, ends):
    """Whether "From " in a body is escaped or not."""
    texts_in = ["\n".join(["From now on", *(line.strip() or "." for line in lines)]) for lines in bodies]
    written = b""
    for text in texts_in:
        body = text.replace("From ", ">From ") if escape else text
        written += POSTMARK + b"From: a@b.c\nContent-Type: text/plain; charset=utf-8\n\n" + body.encode() + b"\n\n"
    assert texts(written.replace(b"\n", ends), quotes=True) == [text.rstrip() + "\n" for text in texts_in]


def test_a_missing_blank_line_parts_mails_and_a_sentence_does_not():
    one = POSTMARK + b"A: b\n\none\n\nFrom time to time it rained at 10:15 in 2024\nand snowed\n"
    two = POSTMARK + b"A: b\n\ntwo\n\nFrom \nFrom -\nFrom x\nend\n"
    bare = b"\nFrom \nA: b\n\nthree\n\nFrom - Mon Jan 01 10:00:00 2026\nA: b\n\nfour\n"
    found = texts(one + two + bare)
    assert found == [
        "one\n\nFrom time to time it rained at 10:15 in 2024\nand snowed\n",
        "two\n\nFrom \nFrom -\nFrom x\nend\n",
        "three\n",
        "four\n",
    ]


def test_a_mail_is_read_as_text_or_else_as_what_its_html_shows(tmp_path: Path):
    both, page = mail("plain\n", "<p>marked</p>"), mail("", "<p>Dear</p><script>x</script><p>land&shy;lord</p>")
    blank = mail("\xa0\n", "<p>only here</p>")
    documents, _ = read(box(tmp_path / "a.mbox", both, page, blank))
    assert [document.text for document in documents] == ["plain\n", "Dear\n\nlandlord\n", "only here\n"]


def test_all_text_parts_are_read_in_their_order_and_forwarded_mails_too():
    inner = b"Content-Type: message/rfc822\n\nFrom: x@y.z\nSubject: inner\n\nforwarded"
    attached = b"Content-Type: text/plain\nContent-Disposition: attachment; filename=a.txt\n\nattached"
    picture = b"Content-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA"
    data = multipart(
        "multipart/mixed", b"\nbefore", picture, attached, b"Content-Type: text/html\n\n<i>after</i>", inner
    )
    report = ReadReport()
    (document,) = read_mail(Source("a", iter([data]), report))
    assert document.text == "before\n\nafter\n\nforwarded\n"
    assert report.skipped == {"attached to a mail": 2}
    assert texts(multipart("multipart/related", b"Content-Type: text/html\n\n<p>page", b"\nother")) == ["page\n"]
    assert texts(multipart("multipart/report", b"\nbounced", b"Content-Type: message/delivery-status\n\nA: b")) == [
        "bounced\n"
    ]


@pytest.mark.parametrize(
    ("declared", "body", "text"),
    [
        (b"iso-8859-1", b"\x93so\x94 \x96 5 \x80", "“so” – 5 €"),
        (b"unknown-8bit", "né".encode(), "né"),
        (b"utf-8", "né, “oui”".encode("cp1252"), "né, “oui”"),
        (b'"utf-8 odd"', "né".encode(), "né"),
        (b"cp-850", "né".encode("cp850"), "né"),
        (b"us-ascii", "né".encode(), "né"),
        (b"x-user-defined", b"plain", "plain"),
        (b"iso-2022-jp", "雪".encode("iso2022_jp"), "雪"),
        (b"", "né, señor".encode("cp1252"), "né, señor"),
    ],
)
def test_the_charset_of_a_mail_is_obeyed_unless_it_is_unknown_or_false(declared, body, text):
    charset = b"; charset=" + declared if declared else b""
    assert texts(b"From: a@b.c\nContent-Type: text/plain" + charset + b"\n\n" + body) == [text + "\n"]


def test_a_page_in_a_mail_tells_its_charset_where_the_mail_declares_a_false_one():
    page = "<meta charset=koi8-r><p>Привет".encode("koi8-r")
    assert texts(b"From: a@b.c\nContent-Type: text/html; charset=us-ascii\n\n" + page) == ["Привет\n"]


def test_flowed_lines_are_joined_as_their_reader_sees_them():
    text = "One soft \nbreak and \nanother.\n\n From stuffed\n> quoted \n> too\n>> deep \n> less\n-- \nAda"
    assert reflowed(text, delete_space=False) == (
        "One soft break and another.\n\nFrom stuffed\n> quoted too\n>> deep \n> less\n-- \nAda"
    )
    assert reflowed("ab \ncd", delete_space=True) == "abcd"
    header = b"From: a@b.c\nContent-Type: text/plain; format=flowed\n\n"
    assert texts(header + b"One soft \nbreak.\n") == ["One soft break.\n"]


REPLY = "Yes, at noon.\n"


@pytest.mark.parametrize(
    "body",
    [
        REPLY + "\nOn Mon, 1 Jan 2026 at 10:00, Wren <wren@example.org>\nwrote:\n> is it cold?\n> really?\n",
        REPLY + "\nAm 01.01.26 um 10:00 schrieb Wren:\n>> deep\n\n> is it?\n",
        REPLY
        + "\n-----Original Message-----\nFrom: Wren\nSent: Monday, January 1, 2026\nTo: Ada\nSubject: cold\n\nis it?\n",
        REPLY + "\n________________________________\nVon: Wren <wren@example.org>\nGesendet: heute\nAn: Ada\n\nkalt?\n",
        REPLY + "\nFrom: Wren <wren@example.org>\nDate: today\nTo: Ada\nSubject: cold\n\nis it?\n",
        REPLY + "-- \nAda\nLane 3\n",
    ],
)
def test_quoted_replies_and_signatures_are_left_out_and_counted(body, tmp_path):
    assert without_quotes(body).strip() == REPLY.strip()
    path = box(tmp_path / "a.mbox", mail(body))
    documents, report = read(path)
    assert [document.text for document in documents] == [REPLY]
    assert report.skipped == {"quoted replies and signatures, which --quotes keeps": 1}
    ((kept,), report) = read(path, quotes=True)
    assert (kept.text, report.skipped) == (body, {})


def test_forwarded_text_stays_without_its_headers_and_text_between_quotes_too():
    headers = "---------- Forwarded message ---------\nFrom: Wren <w@x.y>\nDate: today\nTo: Ada\n\n"
    assert without_quotes(f"See below.\n\n{headers}It is cold.\n") == "See below.\n\nIt is cold.\n"
    assert without_quotes("Wren wrote:\n> a?\nYes.\n> b?\nNo: never.\n") == "Yes.\nNo: never.\n"
    untouched = "Name: Ada\nAge: 7\n\nA list:\n- one\n--\n"
    assert without_quotes(untouched.replace("--\n", "")) == untouched.replace("--\n", "")


def test_a_signature_or_an_answered_mail_ends_its_own_part_alone():
    signed, answering = b"\nHello\n-- \nAda", b"\nYes\n\n-----Original Message-----\nFrom: b@c.d\nDate: 2026\n\nWhy?"
    forwarded = b"Content-Type: message/rfc822\n\nFrom: x@y.z\n\nforwarded"
    assert texts(multipart("multipart/mixed", signed, answering, b"\nafter", forwarded)) == [
        "Hello\n\nYes\n\nafter\n\nforwarded\n"
    ]


def test_a_list_of_particulars_is_no_mail_that_is_answered():
    notice = "Come!\n\nDate: 3 May 2026\nPlace: town hall\nTickets: ada@example.org\n\nBring cake.\n"
    assert without_quotes(notice) == notice
    assert without_quotes("Yes.\n\nVon: Ada\nGesendet: 3. Mai 2026\nAn: Bob\n\nKommst du?\n") == "Yes.\n"


def test_quotes_in_html_are_left_out():
    quote = '<div class="gmail_attr">On Monday Wren wrote:</div><blockquote class="gmail_quote">cold?</blockquote>'
    page = "<p>Yes.</p>" + quote
    data = b"From: a@b.c\nContent-Type: text/html\n\n" + page.encode()
    assert texts(data) == ["Yes.\n"]
    assert "cold?" in texts(data, quotes=True)[0]


def test_mails_without_text_and_encrypted_ones_are_counted(tmp_path: Path):
    with_picture, picture = mail("see below\n"), mail("")
    with_picture.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    picture.set_content(b"\0\1", maintype="image", subtype="png")
    documents, report = read(box(tmp_path / "a.mbox", with_picture, picture, mail(" \n")))
    assert [document.text for document in documents] == ["see below\n"]
    assert report.skipped == {"mail without text": 2, "attached to a mail": 2}
    (tmp_path / "b.eml").write_bytes(multipart("multipart/encrypted", b"\nx"))
    assert read(tmp_path / "b.eml")[1].skipped == {"encrypted mail": 1}


def test_mails_are_known_by_what_they_hold(tmp_path: Path):
    one = b"Return-Path: <a@b.c>\nReceived: by x;\n\ttoday\nFrom: a@b.c\nSubject: s\n\none\n"
    for name in ("cur/1700000000.M5P6.host:2,S", "new/17.host", "Inbox", "sent.eml", "letter.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((POSTMARK if name == "Inbox" else b"") + one)
    (tmp_path / "1.emlx").write_bytes(f"{len(one)}\n".encode() + one + b"<plist/>")
    documents, _ = read(tmp_path)
    assert [document.text for document in documents] == ["one\n"] * 6
    assert not is_mail(b"Title: a\nAuthor: b\nDate: c\n\ntext")
    assert not is_mail(b"From: my desk\n\ntext")
    assert not is_mbox(b"From here on it is dark.\nSoon: night\n")


def test_what_lies_in_a_maildir_is_a_mail_however_few_its_headers(tmp_path: Path):
    for folder in ("cur", "new", "tmp"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cur" / "17.host:2,S").write_bytes(b"Subject: s\n\none\n")
    (tmp_path / "new" / "18.host").write_bytes(b"From: a@b.c\n\ntwo\n")
    assert [document.text for document in read(tmp_path)[0]] == ["one\n", "two\n"]


def test_a_mail_that_is_too_long_is_counted_without_being_held(monkeypatch):
    monkeypatch.setattr(mails, "MAX_MAIL_BYTES", 1000)
    chunks = [
        POSTMARK + b"A: b\n\nfirst\n\n" + POSTMARK + b"A: b\n\n",
        *[b"x" * 100] * 50,
        b"\n\n" + POSTMARK + b"A: b\n\nthird\n",
    ]
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
    data = (
        f"From a{breaks}A: b{breaks}{breaks}one{breaks}{breaks}From b{breaks}C: d{breaks}{breaks}two{breaks}".encode()
    )
    chunks, place = [], 0
    while place < len(data):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[place : place + size])
        place += size
    found = [document.text.strip() for document in read_mbox(Source("a", iter(chunks), ReadReport()))]
    assert found == ["one", "two"]


FRAGMENTS = [
    POSTMARK,
    b"From ",
    b"\n",
    b"\n\n",
    b"--B",
    b"Content-Type: multipart/mixed; boundary=B\n",
    b"> q\n",
    b"-- \n",
]
FRAGMENTS += [
    b"Content-Type: text/html; charset=x\n\n<p>",
    b"Content-Transfer-Encoding: base64\n",
    b"\xff\xfe: \0",
    b"=?x?",
]
FRAGMENTS += [
    b"Content-Type: message/rfc822\n\n",
    b"A: b\n",
    b"Content-Type: text/plain; charset*=x''%FF\n",
    b"=\n",
    b"word ",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14))
def test_no_mail_stops_the_reader_or_is_lost_silently(fragments):
    report = ReadReport()
    data = POSTMARK + b"A: b\n\nfirst\n\n" + POSTMARK + b"".join(fragments)
    documents = list(read_mbox(Source("a", iter([data + b"\n\n" + POSTMARK + b"A: b\n\nlast\n"]), report)))
    assert documents[0].text.startswith("first\n")
    assert documents[-1].text.endswith("last\n") or report.skipped
