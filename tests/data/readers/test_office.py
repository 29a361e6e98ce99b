from __future__ import annotations

import gzip
import sys
from io import BytesIO
from pathlib import Path

import docx
import pytest
from pypdf import PdfReader, PdfWriter

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers import office as papers
from ssdcli.data.readers.files import read_documents


def pdf_of(*pages: str) -> bytes:
    """A PDF that shows a line on each page."""
    count = len(pages)
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(count))
    bodies = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Count {count}/Kids[{kids}]>>"]
    font = "<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    for i, line in enumerate(pages):
        shown = f"BT /F 12 Tf 50 700 Td ({line}) Tj ET"
        bodies.append(f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources {font}/Contents {4 + 2 * i} 0 R>>")
        bodies.append(f"<</Length {len(shown)}>>\nstream\n{shown}\nendstream")
    written, places = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, 1):
        places.append(len(written))
        written += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(bodies) + 1
    trailer = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<</Size {size}/Root 1 0 R>>\n"
    return written + f"{trailer}startxref\n{len(written)}\n%%EOF\n".encode()


def docx_of(*paragraphs: str, table: list[list[str]] | None = None) -> bytes:
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    if table is not None:
        cells = document.add_table(len(table), len(table[0]))
        for row, texts in zip(cells.rows, table, strict=True):
            for cell, text in zip(row.cells, texts, strict=True):
                cell.text = text
    file = BytesIO()
    document.save(file)
    return file.getvalue()


def locked(pdf: bytes, password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    file = BytesIO()
    writer.write(file)
    return file.getvalue()


def read(path: Path) -> tuple[list[str], dict[str, int]]:
    report = ReadReport()
    return [document.text for document in read_documents([str(path)], report)], report.skipped


def test_the_pages_of_a_pdf_are_one_document(tmp_path: Path):
    (tmp_path / "a.PDF").write_bytes(pdf_of("Dear landlord,", "the rent is high."))
    assert read(tmp_path) == (["Dear landlord,\nthe rent is high."], {})


def test_a_docx_is_its_paragraphs_and_tables_in_their_order(tmp_path: Path):
    (tmp_path / "a.docx").write_bytes(docx_of("One.", "", "Two.", table=[["a", "b"], ["c", "d"]]))
    assert read(tmp_path) == (["One.\n\nTwo.\n\na\tb\nc\td"], {})


def test_a_gzipped_paper_is_read_like_any_other(tmp_path: Path):
    (tmp_path / "a.pdf.gz").write_bytes(gzip.compress(pdf_of("packed")))
    assert read(tmp_path) == (["packed"], {})


def test_a_pdf_is_read_without_a_password_where_it_needs_none_to_be_read(tmp_path: Path):
    (tmp_path / "a.pdf").write_bytes(locked(pdf_of("only printing is forbidden"), ""))
    (tmp_path / "b.pdf").write_bytes(locked(pdf_of("secret"), "secret"))
    assert read(tmp_path) == (["only printing is forbidden"], {"PDF with a password": 1})


def test_what_holds_no_text_is_counted_by_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(papers, "MAX_BYTES", 1_000_000)
    bomb = docx_of("x" * 1_000_000)
    assert len(bomb) < 1_000_000
    for name, content in {
        "scanned.pdf": pdf_of(""),
        "cut.pdf": pdf_of("a")[:100],
        "other.pdf": b"no PDF",
        "huge.pdf": b"%PDF" + bytes(1_000_000),
        "cut.docx": docx_of("a")[:100],
        "blank.docx": docx_of(),
        "bomb.docx": bomb,
        "empty.docx": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == (
        [],
        {
            "DOCX without text": 1,
            "broken DOCX": 2,
            "broken PDF": 2,
            "empty": 1,
            "PDF of more than 256 MiB": 1,
            "PDF without text": 1,
        },
    )


@pytest.mark.parametrize(("name", "library", "content"), [("a.pdf", "pypdf", pdf_of("a")), ("a.docx", "docx", b"a")])
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name, library, content):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(content)
    kind = name[-3:].upper() if library == "pypdf" else "DOCX"
    assert read(tmp_path) == ([], {f"{kind}, which needs pip install 'ssdcli[documents]'": 1})
