"""Office documents: the text of PDF and DOCX files, read by libraries of the extra `documents`."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO

from ssdcli.data.documents import Document
from ssdcli.data.readers.text import clean, text_documents
from ssdcli.data.streams import Source

MAX_BYTES = 256 << 20  # of a file, and of a DOCX once it is unpacked
EXTRA = "ssdcli[documents]"

logging.getLogger("pypdf").setLevel(
    logging.CRITICAL
)  # it logs every irregularity, even in files that it reads correctly


class Locked(ValueError):
    """A file that opens only with a password."""


def read_pdf(source: Source) -> Iterator[Document]:
    """Read the text of all pages; scanned pages are pictures and have none."""
    yield from _read(source, "PDF", _pdf_text)


def read_docx(source: Source) -> Iterator[Document]:
    """Read paragraphs, and tables with tabs between their cells."""
    yield from _read(source, "DOCX", _docx_text)


def _read(source: Source, kind: str, text_of: Callable[[BytesIO], str]) -> Iterator[Document]:
    """Read a file as one document, or as several if it is long; one without text is counted."""
    held = bytearray()
    for chunk in source.chunks:
        held += chunk
        if len(held) > MAX_BYTES:
            source.skip(f"{kind} of more than 256 MiB")
            return
    if not held:
        return
    try:
        text = text_of(BytesIO(held))
    except ImportError:
        source.skip(f"{kind}, which needs pip install '{EXTRA}'")
    except Locked:
        source.skip(f"{kind} with a password")
    except Exception:  # the libraries raise many kinds of errors for malformed files
        source.skip(f"broken {kind}")
    else:
        if text.strip():
            yield from text_documents([clean(text, source.name, source.report)], source.name, source.report)
        else:
            source.skip(f"{kind} without text")


def _pdf_text(file: BytesIO) -> str:
    from pypdf import PasswordType, PdfReader

    reader = PdfReader(file)
    if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
        raise Locked
    return "\n".join(page.extract_text() for page in reader.pages)


def _docx_text(file: BytesIO) -> str:
    from docx import Document as open_docx
    from docx.text.paragraph import Paragraph

    if sum(part.file_size for part in zipfile.ZipFile(file).infolist()) > MAX_BYTES:
        raise ValueError("it unpacks to more bytes than a document may have")
    parts = []
    for part in open_docx(file).iter_inner_content():
        if isinstance(part, Paragraph):
            parts.append(part.text)
        else:
            parts.append("\n".join("\t".join(cell.text for cell in row.cells) for row in part.rows))
    return "\n\n".join(part for part in parts if part.strip())
