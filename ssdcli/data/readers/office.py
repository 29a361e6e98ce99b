"""The text of PDF and DOCX files, by libraries that are installed beside `ssd` on request."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers.formats import clean, text_documents

MAX_PAPER_BYTES = 256 << 20  # of a DOCX once it is unpacked
EXTRA = "ssdcli[documents]"

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it logs every irregularity of a file that it can read


class Locked(ValueError):
    """A file that only opens with a password."""


def paper_documents(chunks: Iterable[bytes], form: str, name: str, report: ReadReport) -> Iterator[Document]:
    """The text of a paper, its form one of READERS, as one document or several; what has none is counted."""
    kind = form.upper()
    held = bytearray()
    for chunk in chunks:
        held += chunk
        if len(held) > MAX_PAPER_BYTES:
            report.skip(f"{kind} of more than 256 MiB", name)
            return
    if not held:
        return
    try:
        text = READERS[form](BytesIO(held))
    except ImportError:
        report.skip(f"{kind}, which needs pip install '{EXTRA}'", name)
        return
    except Locked:
        report.skip(f"{kind} with a password", name)
        return
    except Exception:  # the libraries raise many kinds at malformed files
        report.skip(f"broken {kind}", name)
        return
    if not text.strip():
        report.skip(f"{kind} without text", name)
        return
    yield from text_documents([clean(text, name, report)], name, report)


def _pdf_text(file: BytesIO) -> str:
    """The text of all pages; that of scanned ones is in pictures, which nobody reads here."""
    from pypdf import PasswordType, PdfReader

    reader = PdfReader(file)
    if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
        raise Locked
    return "\n".join(page.extract_text() for page in reader.pages)


def _docx_text(file: BytesIO) -> str:
    """Paragraphs apart, and the rows of tables with tabs between the cells."""
    from docx import Document as open_docx
    from docx.text.paragraph import Paragraph

    if sum(part.file_size for part in zipfile.ZipFile(file).infolist()) > MAX_PAPER_BYTES:
        raise ValueError("it unpacks to more than a document can be")
    parts = []
    for part in open_docx(file).iter_inner_content():
        if isinstance(part, Paragraph):
            parts.append(part.text)
        else:
            parts.append("\n".join("\t".join(cell.text for cell in row.cells) for row in part.rows))
    return "\n\n".join(part for part in parts if part.strip())


READERS: dict[str, Callable[[BytesIO], str]] = {"pdf": _pdf_text, "docx": _docx_text}
