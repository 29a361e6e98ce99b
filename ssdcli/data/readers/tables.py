"""Tables as rows: CSV and TSV in the dialects that spreadsheets write."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from ssdcli.data.documents import ReadReport
from ssdcli.data.row_forms import FIELDS
from ssdcli.data.streams import MAX_LINE_BYTES, NumberedLines
from ssdcli.text.messages import BETWEEN

_DELIMITERS = (",", ";", "\t", "|")
_HEADER_LINES = 5  # in which the names of the columns are looked for

NumberedRow = tuple[int, dict[str, Any]]


def table_rows(chunks: Iterator[str], name: str, report: ReadReport, usual: str) -> Iterator[NumberedRow]:
    """Yield the rows of a table by the names of its columns; broken rows are counted.

    usual: the delimiter, unless `sep=` or the header tells another. A row that is shorter than the header lacks its
    last cells; columns of one name are one field, in paragraphs.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = NumberedLines(chunks, name, report)
    numbered = ((lines.number, line) for line in lines)
    first = list(islice(numbered, _HEADER_LINES))
    delimiter, start, header = _header(first, usual)
    if not header:
        for number, line in first:
            if line.strip():
                report.skip("a table without a header", f"{name}:{number}", "row")
                return
        return
    for number, cells in _Rows(chain(first[start:], numbered), delimiter, len(header)):
        if cells is None:
            report.skip("broken CSV row", f"{name}:{number}", "row")
        elif any(cell.strip() for cell in cells):
            yield number, _named(header, cells)


def _header(first: Sequence[tuple[int, str]], usual: str) -> tuple[str, int, list[str]]:
    """The delimiter, how many lines the header takes, and the names of the columns; none if there is none."""
    delimiters = [usual, *(one for one in _DELIMITERS if one != usual)]
    start = 0
    if first and first[0][1].lower().startswith("sep=") and len(first[0][1]) == 5:
        delimiters, start = [first[0][1][4]], 1
    for known in (True, False):
        for place, (_, line) in list(enumerate(first))[start:]:
            for delimiter in delimiters if known else delimiters[:1]:
                names = [name.strip() for name in _split(line, delimiter) or []]
                if any(names) and (not known or any(name.casefold() in FIELDS for name in names)):
                    return delimiter, place + 1, names
    return usual, 0, []


def _named(header: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=False):
        row[name] = BETWEEN.join(filter(None, (row[name], cell))) if row.get(name) else cell
    return row


class _Rows:
    """The rows of numbered lines as cells; None for one that is broken.

    A quote that is not closed, or closed within a cell, is a character like others: what its lines hold is then read
    line by line.
    """

    def __init__(self, lines: Iterator[tuple[int, str]], delimiter: str, columns: int) -> None:
        self._lines = lines
        self._delimiter = delimiter
        self._columns = columns
        self._used: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[tuple[int, list[str] | None]]:
        reader = csv.reader(self._fed(), delimiter=self._delimiter, strict=True)
        while True:
            self._used.clear()
            try:
                cells = next(reader, None)
            except csv.Error:
                for number, line in list(self._used):
                    escaped = _split(line, self._delimiter, escape="\\") if '\\"' in line else None
                    yield number, self._fitting(line.split(self._delimiter) if escaped is None else escaped)
                continue
            if cells is None:
                return
            if cells:
                yield self._used[0][0], self._fitting(cells)

    def _fed(self) -> Iterator[str]:
        for number, line in self._lines:
            self._used.append((number, line))
            yield line + "\n"

    def _fitting(self, cells: list[str]) -> list[str] | None:
        """The cells, if the header names them all; further ones may be blank. A single column has no delimiter."""
        if self._columns == 1:
            return [self._delimiter.join(cells).rstrip(self._delimiter)]
        if any(cell.strip() for cell in cells[self._columns :]):
            return None
        return cells[: self._columns]


def _split(line: str, delimiter: str, escape: str | None = None) -> list[str] | None:
    try:
        reader = csv.reader([line], delimiter=delimiter, strict=True, escapechar=escape, doublequote=escape is None)
        return next(reader, None)
    except csv.Error:
        return None
