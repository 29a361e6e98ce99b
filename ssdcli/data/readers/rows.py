"""Rows of text or of conversations: JSON lines, CSV, TSV and Parquet, read without holding a whole file in memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ssdcli.data.documents import Document, ReadReport, printable
from ssdcli.data.readers import conversations
from ssdcli.data.readers.text import clean, text_documents
from ssdcli.data.streams import MAX_DOCUMENT_CHARACTERS, MAX_LINE_BYTES, NumberedLines, Source

NO_TEXT_FIELDS = "no 'text', no 'prompt' and 'response', no 'messages'"

_TEXT_FIELDS = ("text", *conversations.FIELDS)
_FIELDS_SHOWN = 8
_PARQUET_ROWS = 128
_PARQUET_BUFFER_BYTES = 1 << 20

Row = Mapping[str, Any]
NumberedRow = tuple[int, Row]


def read_json_lines(source: Source) -> Iterator[Document]:
    """Read one JSON object per line."""
    yield from _read_rows(source, _json_rows(source.text(), source))


def read_json(source: Source) -> Iterator[Document]:
    """Read a .json file, which must hold JSON lines; any other is counted as skipped."""
    is_json_lines, text = _peek_json_lines(source.text())
    if is_json_lines:
        yield from _read_rows(source, _json_rows(text, source))
    elif any(chunk.strip() for chunk in text):
        source.skip("JSON, but not JSON lines (one object on each line)")


def read_json_lines_or_text(source: Source) -> Iterator[Document]:
    """Read a stream whose name does not tell its format: JSON lines if its first line is an object, else text."""
    is_json_lines, text = _peek_json_lines(source.text())
    if is_json_lines:
        yield from _read_rows(source, _json_rows(text, source))
    else:
        yield from text_documents(text, source.name, source.report)


def read_csv(source: Source) -> Iterator[Document]:
    """Read a table with commas between its columns."""
    yield from _read_rows(source, _table_rows(source, ","))


def read_tsv(source: Source) -> Iterator[Document]:
    """Read a table with tabs between its columns."""
    yield from _read_rows(source, _table_rows(source, "\t"))


def read_parquet(source: Source) -> Iterator[Document]:
    """Read a Parquet file; one without random access, compressed or from a stream, is counted as binary."""
    if source.path is None:
        source.skip("binary")
    else:
        yield from _read_rows(source, _parquet_rows(source.path))


def _read_rows(source: Source, rows: Iterable[NumberedRow]) -> Iterator[Document]:
    yield from row_documents(rows, source.name, source.report)


def row_documents(rows: Iterable[NumberedRow], name: str, report: ReadReport) -> Iterator[Document]:
    """Yield the text or the conversation of each row; rows without either are counted as skipped."""
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
    """Yield the whole conversation of a row, if it is fit for training."""
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


def _json_rows(chunks: Iterable[str], source: Source) -> Iterator[NumberedRow]:
    """Yield the objects of JSON lines; broken lines are counted."""
    lines = NumberedLines(chunks, source.name, source.report)
    for line in lines:
        if not line.strip():
            continue
        row = _object(line)
        if row is None:
            source.report.skip("broken JSON, or not an object", f"{source.name}:{lines.number}", "line")
        else:
            yield lines.number, row


def _object(line: str) -> Row | None:
    """The JSON object in a line, or None if it holds anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _peek_json_lines(chunks: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Whether the first line that is not blank is a JSON object, and all the chunks again."""
    held: list[str] = []
    line = ""
    for chunk in chunks:
        held.append(chunk)
        line = line + chunk if line else chunk.lstrip()
        not_an_object = line != "" and line[0] != "{"
        if not_an_object or "\n" in line or len(line) > MAX_LINE_BYTES:
            break
    first_line = line.split("\n", 1)[0]
    return _object(first_line) is not None, chain(held, chunks)


def _table_rows(source: Source, delimiter: str) -> Iterator[NumberedRow]:
    """Yield the rows of a table whose first row names the columns; broken rows are counted."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = NumberedLines(source.text(), source.name, source.report)
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
            source.report.skip("broken CSV row", f"{source.name}:{number}", "row")


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    """Yield the rows of a Parquet file, with only the columns of text or conversations if there are any.

    pyarrow reads it directly: `datasets` holds a whole row group in memory and leaves a lock file named after the path.
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
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # any may come from converting a column
        raise OSError(str(error)) from error
