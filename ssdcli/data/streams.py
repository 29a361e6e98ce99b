"""Sources as bytes, as text and as lines, in pieces of bounded size."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ssdcli.data.documents import ReadReport
from ssdcli.data.reading import AS_USUAL, Reading
from ssdcli.machine.encodings import HEAD_BYTES, Decoded, TextDecoder, decode_bytes, shown

CHUNK_BYTES = 1 << 16
MAX_LINE_BYTES = 16 << 20
MAX_DOCUMENT_CHARACTERS = 1_000_000


class ByteStream(Protocol):
    """Anything that hands out bytes as they arrive."""

    def read1(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, none at the end."""


@dataclass(frozen=True)
class Source:
    """A file or a stream on its way to documents.

    name: what reports call it.
    chunks: its bytes, unpacked, in pieces of bounded size.
    report: where documents and skips are counted.
    path: where it is, for formats that have to seek; None for a stream and for a compressed file.
    reading: how its owner wants it read.
    codec: what its text is in, if that is known from what it declares.
    neighbour: reads a file beside it in an archive, by its path from there; None if there is none.
    """

    name: str
    chunks: Iterator[bytes]
    report: ReadReport
    path: Path | None = None
    reading: Reading = AS_USUAL
    codec: str | None = None
    neighbour: Callable[[str], bytes | None] | None = None

    def beside(self, relative: str) -> bytes | None:
        """The bytes of another file, by its path from the folder of this one; None if there is no such file."""
        if self.neighbour is not None:
            return self.neighbour(relative)
        try:
            return None if self.path is None else (self.path.parent / relative).read_bytes()
        except OSError:
            return None

    def text(self) -> Iterator[str]:
        """Decode the bytes, in pieces."""
        return decode(self.chunks, self.name, self.report, self.codec)

    def whole(self, most: int, larger: str) -> bytes | None:
        """All bytes, or None if there are more than `most`, counted as skipped for being `larger`."""
        held = bytearray()
        for chunk in self.chunks:
            held += chunk
            if len(held) > most:
                self.skip(larger)
                return None
        return bytes(held)

    def decoded(self, data: bytes, declared: str | None = None) -> str:
        """Decode bytes of this source by the encoding that they declare, if they do; what is replaced is counted."""
        found = decode_bytes(data, declared)
        if declared is None:
            self.report.decoded(found, self.name)
        else:
            self.report.replace(found.replaced, self.name)
        return found.text

    def skip(self, reason: str) -> None:
        """Count the whole source as skipped."""
        self.report.skip(reason, self.name)


def byte_chunks(stream: ByteStream, name: str, report: ReadReport) -> Iterator[bytes]:
    """Yield the bytes of a stream; one that breaks off is counted and ends there.

    Raises OSError if not even the first bytes can be read.
    """
    started = False
    while True:
        try:
            chunk = stream.read1(CHUNK_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            if not started:
                raise OSError(str(error)) from error
            plain_failure = isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile)
            report.skip("unreadable" if plain_failure else "truncated gzip", name, "file end")
            return
        if not chunk:
            return
        started = True
        yield chunk


def read_head(chunks: Iterator[bytes]) -> bytes:
    """The first bytes of a stream: at least HEAD_BYTES, or all of a shorter one."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= HEAD_BYTES:
            break
    return head


def decode(chunks: Iterable[bytes], name: str, report: ReadReport, codec: str | None = None) -> Iterator[str]:
    """Yield the text without byte order mark, with LF line ends; what had to be replaced is counted."""
    decoder, newlines = TextDecoder(codec), io.IncrementalNewlineDecoder(None, translate=True)
    for chunk in chunks:
        yield newlines.decode(decoder.decode(chunk))
    yield newlines.decode(decoder.decode(b"", final=True), final=True)
    report.decoded(Decoded("", shown(decoder.codec), decoder.replaced), name)


def cut_text(chunks: Iterable[str], limit: int = MAX_DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Join chunks into texts of at most `limit` characters, cut after a line break where there is one."""
    held = ""
    for chunk in chunks:
        held += chunk
        while len(held) > limit:
            cut = held.rfind("\n", 0, limit) + 1 or limit
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


class NumberedLines:
    """The lines of a text without their line ends; `number` is that of the last line handed out.

    A line longer than MAX_LINE_BYTES is counted, left out, and never held whole.
    """

    def __init__(self, chunks: Iterable[str], name: str, report: ReadReport) -> None:
        self.number = 0
        self._name = name
        self._report = report
        self._parts: list[str] = []
        self._bytes = 0
        self._lines = self._split(chunks)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._lines)

    def _split(self, chunks: Iterable[str]) -> Iterator[str]:
        for chunk in chunks:
            *ended, tail = chunk.split("\n")
            for part in ended:
                self._hold(part)
                yield from self._finish()
            self._hold(tail)
        if self._bytes:
            yield from self._finish()

    def _hold(self, part: str) -> None:
        self._bytes += len(part.encode("utf-8"))
        if self._bytes <= MAX_LINE_BYTES:
            self._parts.append(part)
        else:
            self._parts.clear()

    def _finish(self) -> Iterator[str]:
        self.number += 1
        line, size = "".join(self._parts), self._bytes
        self._parts.clear()
        self._bytes = 0
        if size <= MAX_LINE_BYTES:
            yield line
        else:
            self._report.skip("line longer than 16 MiB", f"{self._name}:{self.number}", "line")
