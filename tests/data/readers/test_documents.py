"""Documents, notes and archives: what a reader sees of each, and what is skipped by its name."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import docx
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docx.oxml import parse_xml
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.readers.formats import FORMATS
from ssdcli.data.readers.office import joined_lines
from ssdcli.data.readers.text import without_pictures
from tests.data.readers.test_office import pdf_of

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()


def read(path: Path) -> tuple[list[str], dict[str, int]]:
    report = ReadReport()
    return [document.text for document in read_documents([str(path)], report)], report.skipped


def zipped(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_word_file_is_read_whole(tmp_path):
    document = docx.Document()
    body = document.element.body
    for xml in (
        f"<w:p {W}><w:r><w:t>Kept</w:t></w:r><w:ins><w:r><w:t> added</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t>unseen</w:t></w:r></w:p>",
        f"<w:sdt {W}><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>",
        f"<w:p {W}><w:r><w:t>beside</w:t><w:pict><w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p>"
        "</w:txbxContent></w:pict></w:r></w:p>",
    ):
        body.insert(len(body) - 1, parse_xml(xml))
    table = document.add_table(2, 3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(0, 2).merge(table.cell(1, 2)).text = "tall"
    table.cell(1, 0).text = "a"
    table.cell(1, 1).add_table(1, 2).cell(0, 1).text = "inner"
    document.save(str(tmp_path / "a.docx"))
    ((text,), skipped) = read(tmp_path)
    for part in ("Kept added", "in a control", "beside", "boxed", "wide\ttall"):
        assert text.count(part) == 1
    assert "gone" not in text
    assert "unseen" not in text
    assert text.count("tall") == text.count("inner") == 1
    assert skipped == {}


def test_the_lines_of_a_printed_page_are_paragraphs():
    page = "It rained all Tues-\nday, so that nobody\nwent out at all.\nThen the well-known\nsun came.\n\n- one\n- two"
    assert joined_lines(page) == (
        "It rained all Tuesday, so that nobody went out at all.\nThen the well-known sun came.\n\n- one\n- two"
    )
    assert joined_lines("") == ""


def test_pages_without_text_are_counted(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf_of("one", "", "three"))
    assert read(tmp_path) == (["one\nthree"], {"page of a PDF without text": 1})


def test_sheets_slides_books_and_letters_are_read(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["Day", "Heat"])
    book.active.append(["Sun", 900])
    book.save(tmp_path / "a.xlsx")
    slide = '<p:sld xmlns:p="p" xmlns:a="a"><a:p><a:r><a:t>A </a:t></a:r><a:r><a:t>slide</a:t></a:r></a:p></p:sld>'
    zipped(
        tmp_path / "b.pptx",
        **{"ppt/slides/slide10.xml": slide.replace("slide<", "last<"), "ppt/slides/slide2.xml": slide},
    )
    rows = (
        "<t:table-row><t:table-cell><x:p>a</x:p></t:table-cell><t:table-cell><x:p>b</x:p></t:table-cell></t:table-row>"
    )
    lines = "<x:h>Title</x:h><x:p>One<x:tab/><x:span>two</x:span></x:p>"
    text = f'<o xmlns:x="x" xmlns:t="t">{lines}<t:table>{rows}</t:table></o>'
    zipped(tmp_path / "c.odt", **{"content.xml": text})
    container = '<c><rootfile full-path="OPS/x.opf"/></c>'
    spine = (
        '<p><item id="1" href="b.xhtml"/><item id="2" href="a%20b.xhtml"/><itemref idref="2"/><itemref idref="1"/></p>'
    )
    chapters = {"OPS/a b.xhtml": "<p>first</p>", "OPS/b.xhtml": "<title/><p>second</p>"}
    zipped(tmp_path / "d.epub", **{"META-INF/container.xml": container, "OPS/x.opf": spine}, **chapters)
    (tmp_path / "e.rtf").write_bytes(rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}\f0 n\'e9.\par \u8364? 5}")
    found, skipped = read(tmp_path)
    assert found == [
        "Day\tHeat\nSun\t900",
        "A slide\n\nA last",
        "Title\n\nOne\ttwo\n\na\tb",
        "first\n\nsecond",
        "né.\n€ 5",
    ]
    assert skipped == {}


def test_slides_come_as_they_are_shown_each_with_its_own_notes(tmp_path):
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    links = (
        "<R>" + "".join(f'<r Id="r{n}" Type="{office}/slide" Target="slides/slide{n}.xml"/>' for n in (1, 2)) + "</R>"
    )
    show = f'<p:p xmlns:p="p" xmlns:r="{office}"><p:sldId r:id="r2"/><p:sldId r:id="r1"/></p:p>'
    notes = f'<R><r Id="n" Type="{office}/notesSlide" Target="../notesSlides/notesSlide1.xml"/></R>'
    slide = '<p:sld xmlns:p="p" xmlns:a="a"><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:sld>'
    parts = {"presentation.xml": show, "_rels/presentation.xml.rels": links, "slides/_rels/slide2.xml.rels": notes}
    parts |= {f"slides/slide{n}.xml": slide.format(f"made {n}") for n in (1, 2)}
    parts["notesSlides/notesSlide1.xml"] = slide.format("a note")
    zipped(tmp_path / "a.pptx", **{f"ppt/{name}": part for name, part in parts.items()})
    assert read(tmp_path) == (["made 2\n\na note\n\nmade 1"], {})


ORG = """#+TITLE: T
#+STARTUP: x
* Head
:PROPERTIES:
:ID: 3
:END:
# a comment
See [[file:kiln.org][the kiln]] and [[https://x.org]].
#+BEGIN_SRC python :results none
# code [[a]]
#+END_SRC
#+begin_comment
hidden
#+end_comment
body
"""


def test_notebooks_and_exports_of_notes_are_read(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# T\n", "text"], "attachments": {"a.png": {"image/png": PICTURE}}},
        {"cell_type": "code", "source": "x = 1\n", "outputs": [{"data": {"image/png": PICTURE}, "text": ["out"]}]},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    note = "<note><title>T</title><content><![CDATA[<en-note><div>a &amp; b</div></en-note>]]></content>"
    resource = f"<resource><data encoding='base64'>{PICTURE}</data></resource></note>"
    (tmp_path / "b.enex").write_text(f"<?xml version='1.0'?><en-export>{note}{resource}{note}</note></en-export>")
    (tmp_path / "c.org").write_text(ORG)
    found, skipped = read(tmp_path)
    assert found == [
        "# T\ntext\n\nx = 1",
        "T\n\na & b",
        "T\n\na & b",
        "T\n* Head\nSee the kiln and https://x.org.\n# code [[a]]\nbody\n",
    ]
    assert skipped == {}


def test_markdown_is_read_as_obsidian_shows_it(tmp_path):
    (tmp_path / "a.md").write_text(
        "---\ntags: [x]\nlist:\n  - y\n---\n\nSee [[Kiln]] and [[Other|that]].![[p.png]]\n%%hidden%%\n"
    )
    (tmp_path / "b.md").write_text("---\nexcalidraw-plugin: parsed\n---\nx\n")
    (tmp_path / "c.md").write_text("---\nA rule, and then text\n---\nmore\n")
    assert read(tmp_path) == (
        ["See Kiln and that.\n\n", "---\nA rule, and then text\n---\nmore\n"],
        {"Excalidraw, a drawing": 1},
    )


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (f"a\n![kiln](data:image/png;base64,{PICTURE})\nb", "a\nkiln\nb"),
        (f"a\n[image1]: <data:image/png;base64,{PICTURE}>\nb", "a\n\nb"),
        (f'<img src="data:image/svg+xml;base64,{PICTURE}">', '<img src="">'),
        (f"a {PICTURE} b", "a  b"),
        ("\n".join(PICTURE[i : i + 76] for i in range(0, len(PICTURE), 76)), ""),
    ],
)
def test_pictures_in_base64_are_left_out_and_counted(text, rest):
    report = ReadReport()
    assert without_pictures(text, "a", report) == rest
    assert report.skipped == {"base64 in a text": 1}


@pytest.mark.parametrize("text", ["x" * 900, "GATTACA" * 200, "0123456789abcdef" * 90, "see data: and base64, too"])
def test_other_long_words_stay(text):
    assert without_pictures(text, "a", ReadReport()) == text


def test_archives_are_read_like_folders_and_packed_files_like_files(tmp_path):
    note = "the boiler is cold"
    members = {"notes/a.md": note, "notes/b.jsonl": '{"text": "row"}', ".git/config": "x", "node_modules/x.js": "y"}
    zipped(tmp_path / "a.zip", **members, **{"c.bin": b"\0\1" * 99})
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("d.txt")
        info.size = len(note)
        archive.addfile(info, BytesIO(note.encode()))
    (tmp_path / "c.txt.bz2").write_bytes(bz2.compress(note.encode()))
    (tmp_path / "d.xz").write_bytes(lzma.compress(note.encode()))
    (tmp_path / "e.zip").write_bytes(b"PK\3\4 broken")
    report = ReadReport()
    documents = list(read_documents([str(tmp_path)], report))
    assert [document.text for document in documents] == [note, "row", note, note, note]
    assert documents[0].source == f"{tmp_path / 'a.zip'}/notes/a.md"
    assert report.skipped == {"hidden": 1, "installed packages": 1, "binary": 1, "broken archive": 1}
    assert report.files == 5


def test_parquet_is_read_in_archives_and_packed_and_archives_in_archives_are_named(tmp_path):
    held = BytesIO()
    pq.write_table(pa.table({"text": ["the boiler"]}), held)
    zipped(tmp_path / "a.zip", **{"a.parquet": held.getvalue(), "b.zip": b"PK\3\4", "c.txt.gz": b"\x1f\x8b"})
    (tmp_path / "b.parquet.bz2").write_bytes(bz2.compress(held.getvalue()))
    assert read(tmp_path) == (["the boiler", "the boiler"], {"an archive in an archive": 2})


def test_what_is_not_read_is_skipped_by_its_name(tmp_path):
    for name in ("a.doc", "b.svg", "c.mobi", "d.rar"):
        (tmp_path / name).write_bytes(b"<svg>" if name == "b.svg" else b"\xd0\xcf\x11\xe0")
    assert all(reason.endswith("which is not read") for reason in read(tmp_path)[1])
    assert len(read(tmp_path)[1]) == 4


def test_documents_are_known_by_what_they_hold(tmp_path):
    (tmp_path / "a").write_bytes(pdf_of("a page"))
    (tmp_path / "b.unknown").write_bytes(rb"{\rtf1 a letter}")
    (tmp_path / "c").write_text("<!DOCTYPE html><p>a <b>page</b>")
    assert read(tmp_path) == (["a page", "a letter", "a page"], {})


FUZZED = [".epub", ".odt", ".pptx", ".docx", ".xlsx", ".rtf", ".ipynb", ".enex", ".md", ".org", ".pdf", ".html", ".csv"]
FUZZED += [".tsv", ".json", ".jsonl", ".eml", ".mbox", ".mhtml", ".emlx", ".txt"]
PIECES = [
    b"<",
    b">",
    b"{",
    b"}",
    b'"',
    b"[",
    b"PK\3\4",
    b"%PDF-1.4",
    b"{\\rtf1",
    b"\\u",
    b"\0",
    b"\xff",
    b"---\n",
    b"x",
    b",",
]
PIECES += [b"From ", b":", b"\n", b"=?", b"<p>", b'{"text": "a"}', b'"cells": [', b"<note><content>", b"1 0 obj", b"[["]


@pytest.mark.parametrize("suffix", FUZZED)
@given(data=st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join) | st.binary(max_size=60))
@settings(max_examples=30)
def test_no_bytes_stop_a_reader_and_nothing_is_silent(tmp_path_factory, suffix, data):
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    path.write_bytes(data)
    found, skipped = read(path)
    assert found or skipped
    assert suffix in FORMATS or suffix == ".txt"
