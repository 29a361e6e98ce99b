"""Rows of text or of conversations: JSON, CSV, TSV and Parquet, read without holding a whole file in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from ssdcli.data.cloze import cloze_of
from ssdcli.data.documents import Document, ReadReport, printable
from ssdcli.data.readers.chats import export_documents, is_slack, slack_documents
from ssdcli.data.readers.json_values import holds_rows, json_rows
from ssdcli.data.readers.tables import table_rows
from ssdcli.data.readers.text import clean, text_documents
from ssdcli.data.row_forms import (
    FIELDS,
    NO_TEXT,
    NO_TEXT_FIELDS,
    Row,
    Unfit,
    count_no_text,
    has_conversation,
    named,
    row_turns,
    text_of,
)
from ssdcli.data.streams import MAX_DOCUMENT_CHARACTERS, Source

_FIELDS_SHOWN = 8
_PARQUET_ROWS = 128
_PARQUET_BUFFER_BYTES = 1 << 20
_MAX_PARQUET_BYTES = 256 << 20  # of a file that is packed, and so held in memory

NumberedRow = tuple[int, Mapping[str, Any]]


def read_json(source: Source) -> Iterator[Document]:
    """Read JSON: one object a line, an array of objects, or objects spread over lines."""
    yield from _read_rows(source, json_rows(source.text(), source.name, source.report))


def read_json_or_text(source: Source) -> Iterator[Document]:
    """Read a stream whose name does not tell its format: JSON with objects, else text."""
    is_json, text = holds_rows(source.text())
    if is_json:
        yield from _read_rows(source, json_rows(text, source.name, source.report))
    else:
        yield from text_documents(text, source.name, source.report)


def read_csv(source: Source) -> Iterator[Document]:
    """Read a table with commas between its columns, or what its header shows to be between them."""
    yield from _read_rows(source, table_rows(source.text(), source.name, source.report, ","))


def read_tsv(source: Source) -> Iterator[Document]:
    """Read a table with tabs between its columns."""
    yield from _read_rows(source, table_rows(source.text(), source.name, source.report, "\t"))


def read_parquet(source: Source) -> Iterator[Document]:
    """Read a Parquet file; one without random access, such as in an archive, is held in memory."""
    if source.path is not None:
        yield from _read_rows(source, _parquet_rows(source.path))
        return
    data = source.whole(_MAX_PARQUET_BYTES, "packed Parquet of more than 256 MiB")
    if data:
        yield from _read_rows(source, _parquet_rows(BytesIO(data)))


def _read_rows(source: Source, rows: Iterable[NumberedRow]) -> Iterator[Document]:
    """Yield the documents of rows, and of the objects that exports of chats and notes consist of."""
    slack: list[Row] = []
    for number, row in rows:
        export = export_documents(row, f"{source.name}:{number}", source)
        if export is not None:
            yield from export
        elif is_slack(row):
            slack.append(row)
        else:
            yield from row_documents([(number, row)], source.name, source.report)
    if slack:
        yield from slack_documents(slack, source)


def row_documents(rows: Iterable[NumberedRow], name: str, report: ReadReport) -> Iterator[Document]:
    """Yield the text or the conversation of each row; rows without either are counted as skipped."""
    for number, given in rows:
        place, row = f"{name}:{number}", named(given)
        text = text_of(row)
        if text is not None and text.strip():
            yield from _texts(row, clean(text, place, report), place, report)
        elif has_conversation(row):
            yield from _conversations(row, place, report)
        elif text is not None:
            report.skip("empty text", place, "row")
        else:
            found = ", ".join(printable(str(key)) for key in list(given)[:_FIELDS_SHOWN])
            report.skip(NO_TEXT_FIELDS, f"{place}, fields: {found}" if found else place, "row")


def _texts(row: Row, text: str, place: str, report: ReadReport) -> Iterator[Document]:
    """Yield the text of a row, with the words that may come next at its places."""
    try:
        cloze = cloze_of(row, text)
    except Unfit as unfit:
        report.skip(str(unfit), place, "row")
        return
    yield from (replace(document, cloze=cloze) for document in text_documents([text], place, report))


def _conversations(row: Row, place: str, report: ReadReport) -> Iterator[Document]:
    """Yield the whole conversation of a row, if it is fit for training."""
    try:
        turns = row_turns(row)
    except Unfit as unfit:
        report.skip(str(unfit), place, "row")
        return
    for _ in range(count_no_text(row)):
        report.skip(NO_TEXT, place, "part")
    cleaned = tuple(replace(turn, content=clean(turn.content, place, report)) for turn in turns)
    document = Document.conversation(cleaned, place)
    if len(document.text) > MAX_DOCUMENT_CHARACTERS:
        report.skip(f"a conversation of more than {MAX_DOCUMENT_CHARACTERS:,} characters", place, "row")
        return
    report.add(document)
    yield document


def _parquet_rows(path: Path | BytesIO) -> Iterator[NumberedRow]:
    """Yield the rows of a Parquet file, with only the columns of text or conversations if there are any.

    pyarrow reads it directly: `datasets` holds a whole row group in memory and leaves a lock file named after the path.
    Raises OSError when the file is broken.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name.strip().casefold() in FIELDS]
            absent = dict.fromkeys(names)
            read = 0
            for batch in file.iter_batches(_PARQUET_ROWS, columns=columns):
                rows = batch.to_pylist() if columns else [{}] * batch.num_rows
                for number, row in enumerate(rows, read + 1):
                    yield number, {**absent, **row}
                read += batch.num_rows
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # any may come from converting a column
        raise OSError(str(error)) from error
