"""One function per file format, each turning a stream into texts or rows without holding it whole."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ssdcli.data.documents import Document, ReadReport, printable
from ssdcli.data.readers import conversations
from ssdcli.data.streams import MAX_DOCUMENT_CHARACTERS, MAX_LINE_BYTES, NumberedLines, cut_text

NO_TEXT_FIELDS = "no 'text', no 'prompt' and 'response', no 'messages'"

_TEXT_FIELDS = ("text", *conversations.FIELDS)
_FIELDS_SHOWN = 8
_PARQUET_ROWS = 128
_PARQUET_BUFFER_BYTES = 1 << 20
_SURROGATES = re.compile("[\ud800-\udfff]")

Row = Mapping[str, Any]
NumberedRow = tuple[int, Row]


def text_documents(chunks: Iterable[str], name: str, report: ReadReport) -> Iterator[Document]:
    """Plain text as one document, or several when it is long."""
    for text in cut_text(chunks):
        if not text.isspace():
            document = Document(text, name)
            report.add(document)
            yield document


def row_documents(rows: Iterable[NumberedRow], name: str, report: ReadReport) -> Iterator[Document]:
    """The text or the conversation of each row; rows without one are counted."""
    for number, row in rows:
        place = f"{name}:{number}"
        text = row.get("text")
        if isinstance(text, str):
            yield from _texts(text, place, report)
        elif conversations.has_conversation(row):
            yield from _conversations(row, place, report)
        else:
            found = ", ".join(printable(str(key)) for key in list(row)[:_FIELDS_SHOWN])
            report.skip(NO_TEXT_FIELDS, f"{place}, fields: {found}" if found else place, "row")


def _texts(text: str, place: str, report: ReadReport) -> Iterator[Document]:
    if not text.strip():
        report.skip("empty text", place, "row")
    else:
        yield from text_documents([clean(text, place, report)], place, report)


def _conversations(row: Row, place: str, report: ReadReport) -> Iterator[Document]:
    """The conversation of a row, whole, if it is fit to learn from."""
    try:
        turns = conversations.row_turns(row)
    except conversations.Unfit as unfit:
        report.skip(str(unfit), place, "row")
        return
    cleaned = tuple(replace(turn, content=clean(turn.content, place, report)) for turn in turns)
    document = Document.conversation(cleaned, place)
    if len(document.text) > MAX_DOCUMENT_CHARACTERS:
        report.skip(f"a conversation of more than {MAX_DOCUMENT_CHARACTERS:,} characters", place, "row")
        return
    report.add(document)
    yield document


def clean(text: str, place: str, report: ReadReport) -> str:
    """Line ends as LF; lone surrogates, which JSON can spell and UTF-8 cannot, replaced and counted."""
    text, surrogates = _SURROGATES.subn("\ufffd", text)
    if surrogates:
        report.replaced(surrogates, place)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def json_rows(chunks: Iterable[str], name: str, report: ReadReport) -> Iterator[NumberedRow]:
    """The objects of JSON lines; broken lines are counted."""
    lines = NumberedLines(chunks, name, report)
    for line in lines:
        if not line.strip():
            continue
        row = parse_object(line)
        if row is None:
            report.skip("broken JSON, or not an object", f"{name}:{lines.number}", "line")
        else:
            yield lines.number, row


def parse_object(line: str) -> Row | None:
    """The JSON object in a line, None when it holds anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def peek_json_lines(chunks: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Whether the first line that is not blank is a JSON object; and all the chunks again."""
    held: list[str] = []
    line = ""
    for chunk in chunks:
        held.append(chunk)
        line = line + chunk if line else chunk.lstrip()
        not_an_object = line != "" and line[0] != "{"
        if not_an_object or "\n" in line or len(line) > MAX_LINE_BYTES:
            break
    first_line = line.split("\n", 1)[0]
    return parse_object(first_line) is not None, chain(held, chunks)


def csv_rows(chunks: Iterable[str], delimiter: str, name: str, report: ReadReport) -> Iterator[NumberedRow]:
    """The rows of a table whose first row names the columns; broken rows are counted."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = NumberedLines(chunks, name, report)
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        number = lines.number + 1
        try:
            row = next(reader, None)
        except csv.Error:
            row = [""] * (len(header) + 1)
        if row is None:
            return
        if row and not header:
            header = [column.strip() for column in row]
        elif len(row) == len(header):
            yield number, dict(zip(header, row, strict=True))
        elif row:
            report.skip("broken CSV row", f"{name}:{number}", "row")


def parquet_rows(path: Path) -> Iterator[NumberedRow]:
    """The rows of a Parquet file, only the columns that hold text or conversations where there are any.

    Read by pyarrow itself: `datasets` holds a whole row group and leaves a lock file named after the path.
    Raises OSError when the file is broken.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name in _TEXT_FIELDS]
            absent = dict.fromkeys(names)
            read = 0
            for batch in file.iter_batches(_PARQUET_ROWS, columns=columns):
                rows = batch.to_pylist() if columns else [{}] * batch.num_rows
                for number, row in enumerate(rows, read + 1):
                    yield number, {**absent, **row}
                read += batch.num_rows
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # what a column may raise on its way to Python
        raise OSError(str(error)) from error
