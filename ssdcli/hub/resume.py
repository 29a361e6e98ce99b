"""A large file of the hub, fetched from where an earlier process had to stop.

huggingface_hub goes on after a broken connection, but forgets what it has of a file when its process ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PARTIAL = ".ssd-partial"


def fetch_blob(url: str, blob: Path, size: int, bar: type[Any]) -> None:
    """Bring the content at a URL of the hub to `blob`; what arrives before a failure is kept beside it.

    Nothing is done for files that come by Xet, which keeps chunks of its own. Raises what huggingface_hub raises; the
    content is only as long as it should be, its digest is for the caller to check.
    """
    from filelock import FileLock
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but loaded lazily
    from huggingface_hub.utils._runtime import is_xet_available

    headers = build_hf_headers()
    found = get_hf_file_metadata(url, headers=headers)
    if found.xet_file_data is not None and is_xet_available():
        return
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # another host is given no token
    partial = blob.with_name(blob.name + _PARTIAL)
    lock = partial.with_name(f"{partial.name}.lock")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        try:
            _append(found.location, partial, size, headers, bar)
            partial.replace(blob)
        finally:
            lock.unlink(missing_ok=True)


def _append(url: str, partial: Path, size: int, headers: dict[str, str], bar: type[Any]) -> None:
    """Fetch what a partial file lacks; one that ends, but not where it should, is of no use and goes."""
    from huggingface_hub.file_download import http_get

    try:
        with partial.open("ab") as stream:
            had = stream.tell()
            http_get(url, stream, resume_size=had, headers=headers, expected_size=size, tqdm_class=bar)
    except OSError as error:
        if error.errno is None:  # not the disk's: it has another size than was announced
            partial.unlink()
        raise
