"""A large file of the hub: resumed where an earlier process stopped, or a range of it alone.

huggingface_hub resumes after a broken connection, but not after its process was killed: it writes to a file with a
random name. So a partial file is kept here under a name that the next process finds, and when it is whole it is moved
to the place in the cache where huggingface_hub looks first. Two of its internals are needed for that: `http_get`, which
appends to an open file, and `is_xet_available`, which tells whether the file would come in another way.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_PARTIAL = ".ssd-partial"
_PARTIAL_CONTENT = 206


def fetch_blob(url: str, blob: Path, size: int, bar: type[Any]) -> None:
    """Download the content at a URL of the hub to `blob`; what arrives before a failure is kept beside it.

    Does nothing for files that come by Xet, which has a cache of its own. Raises what huggingface_hub raises. Only the
    length is checked here; the caller checks the digest.
    """
    from filelock import FileLock
    from huggingface_hub.utils._runtime import is_xet_available

    found, headers = _located(url)
    if found.xet_file_data is not None and is_xet_available():
        return
    partial = blob.with_name(blob.name + _PARTIAL)
    lock = partial.with_name(f"{partial.name}.lock")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        try:
            _append(found.location, partial, size, headers, bar)
            partial.replace(blob)
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def stream_range(url: str, begin: int, most: int) -> Iterator[BinaryIO]:
    """A stream of the content at a URL of the hub, of which no more is sent than is read, and a little ahead.

    begin: the first byte that is sent; most: how many bytes are. Raises what huggingface_hub raises.
    """
    from huggingface_hub import get_session, hf_raise_for_status

    found, headers = _located(url)
    headers |= {"range": f"bytes={begin}-{begin + most - 1}", "accept-encoding": "identity"}
    with get_session().stream("GET", found.location, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        stream = io.BufferedReader(_Pieces(response.iter_bytes()))
        if response.status_code != _PARTIAL_CONTENT:  # all of it is being sent
            stream.read(begin)
        yield stream


class _Pieces(io.RawIOBase):
    """Bytes that come in pieces of any length, as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the beginning of a buffer; return how many bytes, 0 at the end."""
        data = self._left or next(self._pieces, b"")
        count = min(len(data), len(buffer))
        buffer[:count], self._left = data[:count], data[count:]
        return count


def _located(url: str) -> tuple[HfFileMetadata, dict[str, str]]:
    """Where a file of the hub is, and the headers of requests to there."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but loaded lazily

    headers: dict[str, str] = build_hf_headers()
    found = get_hf_file_metadata(url, headers=headers)
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # never send the token to another host
    return found, headers


def _append(url: str, partial: Path, size: int, headers: dict[str, str], bar: type[Any]) -> None:
    """Download the rest of a partial file; delete it if the whole then has the wrong length."""
    from huggingface_hub.file_download import http_get

    try:
        with partial.open("ab") as stream:
            had = stream.tell()
            http_get(url, stream, resume_size=had, headers=headers, expected_size=size, tqdm_class=bar)
    except OSError as error:
        if error.errno is None:  # not from the disk: the size is not the one announced
            partial.unlink()
        raise
