"""Files that survive a crash: private folders, digests, syncing, atomic writes, and disk errors made clear."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import filterfalse
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from ssdcli.errors import SsdError

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600


def make_private(folder: Path) -> Path:
    """Make a folder, and the parents it lacks, that only its owner can enter."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return folder


def unique_suffix() -> str:
    """Eight hexadecimal digits that tell a temporary file or folder from all others."""
    return uuid4().hex[:8]


def digest(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def close_to_others(folder: Path) -> None:
    """Make a folder, and all in it that is not linked from elsewhere, readable by its owner alone."""
    folder.chmod(PRIVATE_FOLDER)
    for path in filterfalse(is_linked, folder.rglob("*")):
        path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)


def is_linked(path: Path) -> bool:
    """Whether a file's content is shared with another place, such as the hub's cache."""
    return path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)


def sync_tree(folder: Path) -> None:
    """Force a folder, every folder below it, and every file that is not linked from elsewhere to the disk."""
    for path in filterfalse(is_linked, folder.rglob("*")):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Force one file's content, or one folder's list of names, to the disk."""
    if os.name == "nt":  # Windows cannot open folders, nor flush a file that was opened for reading.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a private text file so that a crash leaves the old content or the new one."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a private file that replaces `path` on a clean exit and is deleted on any other."""
    temporary = path.with_name(f".{path.name}.{unique_suffix()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def disk_errors(home: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk under `home` into an SsdError that says what to do."""
    try:
        yield
    except OSError as error:
        problem = _problem(error, home)
        if problem is None:
            raise
        raise SsdError(
            problem, "Free some space or correct the permissions there, or set SSD_HOME to another folder."
        ) from error


def _problem(error: OSError, home: Path) -> str | None:
    if not _concerns(error.filename, home):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {home} is full."
    if error.errno == errno.EROFS:
        return f"{home} is on a read-only disk."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"there is no permission to write in {home}."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"a file is where a folder is needed: {error.filename or home}."
    return None


def _concerns(filename: object, home: Path) -> bool:
    # A failed write() names no file, and making `home` can fail at one of its parents.
    if not isinstance(filename, (str, bytes)):
        return True
    path = Path(os.fsdecode(filename))
    return path.is_relative_to(home) or home.is_relative_to(path)
