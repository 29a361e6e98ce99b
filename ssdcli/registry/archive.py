"""A model as one file: a tar of the manifest and the files that it lists, exported and imported.

The tar is not compressed, since weights hardly shrink, and its bytes depend on the model alone. The manifest comes
first, so that everything after it is checked against it before it is written: only regular files that it lists, each
once and with its digest, reach the registry.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Self

from ssdcli.errors import SsdError, UsageError
from ssdcli.registry.disk import replacing
from ssdcli.registry.manifest import FILE, MEMORY, TOKENIZER, Manifest, tokenizer_fingerprint, write_manifest
from ssdcli.registry.names import check_name
from ssdcli.registry.store import Entry, Registry

REPORT = "report.html"  # shows the text that a model was trained on
TRAINED_DOCUMENTS = "trained-documents.txt"  # digests, by which a guess of a document can be tested
MEMORY_FILES = ("memory.tokens.npy", "memory.order.npy", "memory.json")  # hold the text itself
RECALL = "memory.recall.safetensors"  # what a core made of that text; not all memories have it
OWN = (
    "canaries.json",  # prove where a copy comes from, unless its holder knows them
    *MEMORY_FILES,
    RECALL,
    REPORT,
    TRAINED_DOCUMENTS,
)

_CHUNK = 1 << 20  # bytes
_LARGEST_READ = {FILE: 1 << 20, TOKENIZER: 1 << 28}  # bytes of what is read into memory as a whole
_LONGEST_PATH = 255
_LONGEST_REASON = 400
_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_-])?")  # Windows drops a dot at the end
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


class _Refused(Exception):
    """Why an archive is not written or read; the message is a clause that ends a sentence."""


class _PlainHeader(tarfile.TarInfo):
    """A tar header that refuses anything but regular files and their long names before tarfile acts on it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        is_long_name = header.type == tarfile.GNUTYPE_LONGNAME and header.size <= 2 * _LONGEST_PATH
        if not is_long_name and (header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or header.size < 0):
            raise _Refused(f"it holds {header.name!r}, which is not a regular file")
        return header


class _Digested:
    """A file that is hashed while it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size` of them, or all that are left."""
        chunk = self._stream.read(size)
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        """The sha256 of what was read so far, in hexadecimal."""
        return self._hash.hexdigest()


def export_to_file(entry: Entry, path: Path, overwrite: bool = False) -> None:
    """Write a model's archive, private, whole or not at all; UsageError for a path that cannot be written to."""
    check_target(path, overwrite)
    with _written(path), replacing(path) as stream:
        export_model(entry, stream)
        check_target(path, overwrite)


def check_target(path: Path, overwrite: bool) -> None:
    """Raise UsageError for a path that no archive can be written to, SsdError if the disk cannot be read."""
    with _written(path):
        _check_target(path, overwrite)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"{str(path)!r} cannot be written ({error.strerror or error})."
        raise SsdError(problem, "Make room there, or name another file.") from error


def export_model(entry: Entry, stream: BinaryIO) -> None:
    """Write a model's archive to a stream; SsdError when a file of it is not what the manifest lists.

    The files in OWN stay behind, and the archive's manifest does not list them. UsageError for a memory, which is
    nothing but text, and for a core on another machine, which is nothing but an address.
    """
    if entry.manifest.is_remote:
        problem = f"{entry.name!r} runs on another machine, and there is nothing of it here."
        raise UsageError(problem, f"Pull it where it is wanted: 'ssd pull {entry.manifest.source}'.")
    if entry.manifest.kind == MEMORY:
        problem = f"{entry.name!r} is a memory, which holds the text itself and never leaves this machine."
        raise UsageError(problem, "Export a small model, or give away the text.")
    kept = {file: digest for file, digest in entry.manifest.files.items() if file not in OWN}
    entry = replace(entry, manifest=replace(entry.manifest, files=kept, memory=None))
    with (
        _explained(f"{entry.name!r} cannot be exported", f"See 'ssd models verify {entry.name}'."),
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        _check_files(entry.name, entry.manifest)
        text = entry.manifest.to_json().encode("utf-8")
        tar.addfile(_header(f"{entry.name}/{FILE}", len(text)), io.BytesIO(text))
        for file in sorted(entry.manifest.files):
            _add(tar, entry, file)


def import_model(
    registry: Registry, stream: BinaryIO, source: str, name: str | None = None, overwrite: bool = False
) -> Entry:
    """Register the model of an archive, under its own name or another one.

    source: what the errors call the archive. Raises UsageError for a name that is taken or not allowed, and SsdError
    for anything but what an export writes; then nothing is registered.
    """
    with (
        _explained(f"{source} cannot be imported", "Take what the same version of 'ssd models export' wrote."),
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_PlainHeader) as tar,
    ):
        folder, manifest = _read_manifest(tar)
        chosen = folder if name is None else name
        with registry.stage(chosen, overwrite) as stage:
            write_manifest(stage, manifest)
            _unpack(tar, folder, manifest, stage)
            _check_weights(stage, manifest)
            _check_tokenizer(stage, manifest)
    return registry.find(chosen)


@contextmanager
def _explained(subject: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except _Refused as refused:
        # Part of the reason may be quoted from the archive.
        reason = "".join(filter(str.isprintable, str(refused)))[:_LONGEST_REASON]
        raise SsdError(f"{subject}: {reason}.", remedy) from refused
    except tarfile.TarError as error:
        raise SsdError(f"{subject}: it is not a plain tar archive, or not all of one ({error}).", remedy) from error
    except RecursionError as error:
        raise SsdError(f"{subject}: it is nested too deeply.", remedy) from error


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {str(path.parent)!r}.", "Make it, or name another file.")
    if not path.exists():
        return
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is not a regular file.", "Name a file, or - for standard output.")
    if not overwrite:
        raise UsageError(f"{str(path)!r} exists already.", "Pass --overwrite to replace it, or name another file.")


def _header(name: str, size: int) -> tarfile.TarInfo:
    """A header that reveals nothing of the machine, the user or the time: TarInfo's defaults."""
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o600
    return header


def _add(tar: tarfile.TarFile, entry: Entry, file: str) -> None:
    try:
        stream = (entry.folder / file).open("rb")
    except OSError as error:
        raise _Refused(f"its file {file!r} cannot be read ({error.strerror})") from error
    with stream:
        content = _Digested(stream)
        tar.addfile(_header(f"{entry.name}/{file}", os.fstat(stream.fileno()).st_size), content)
    _check_digest(entry.manifest, file, content.digest())


def _read_manifest(tar: tarfile.TarFile) -> tuple[str, Manifest]:
    """The archive's folder and the manifest that it begins with, whose list of files is checked."""
    member = tar.next()
    if member is None:
        raise _Refused("it is empty")
    _check_path(member.name)
    folder, _, file = member.name.partition("/")
    if file != FILE:
        raise _Refused(f"it begins with {member.name!r}, not with a model's {FILE}")
    _check_size(FILE, member.size)
    manifest = _parsed(_content(tar, member).read())
    _check_files(folder, manifest)
    return folder, manifest


def _parsed(text: bytes) -> Manifest:
    try:
        manifest = Manifest.from_json(text.decode("utf-8"))
        manifest.to_json().encode("utf-8")  # JSON can spell characters that no file can hold
        for name in filter(None, (manifest.name, manifest.core, manifest.base)):
            check_name(name)
    except SsdError as error:
        raise _Refused(error.problem.rstrip(".")) from error
    except (ValueError, OverflowError) as error:
        raise _Refused(f"its {FILE} cannot be read ({error})") from error
    if manifest.is_remote:
        raise _Refused(f"it is a core on another machine, {manifest.source}, to which text would be sent")
    return manifest


def _check_files(folder: str, manifest: Manifest) -> None:
    """Refuse a manifest whose files could not lie in one folder on every operating system."""
    paths = [f"{folder}/{file}" for file in (FILE, *manifest.files)]
    for path in paths:
        _check_path(path)
    taken = {path.lower() for path in paths}
    parents = {parent.as_posix() for path in taken for parent in PurePosixPath(path).parents}
    if len(taken) < len(paths) or taken & parents:
        raise _Refused("two of the files in its manifest would lie in the same place")
    if found := taken & {f"{folder}/{file}".lower() for file in OWN}:
        raise _Refused(f"it lists {min(found)!r}, which never leaves the machine that it was made on")
    if TOKENIZER not in manifest.files:
        raise _Refused(f"its manifest lists no {TOKENIZER}")


def _check_path(path: str) -> None:
    if len(path) > _LONGEST_PATH or not all(map(_PART.fullmatch, path.split("/"))):
        raise _Refused(f"{path!r} is not a plain path inside the model's folder")
    if path.lower().endswith(_PICKLES):
        raise _Refused(f"{path!r} may be a pickle, which can run code when it is read")


def _check_size(file: str, size: int) -> None:
    if size > _LARGEST_READ[file]:
        raise _Refused(f"its {file} has {size:,} bytes, more than the {_LARGEST_READ[file]:,} that any model needs")


def _unpack(tar: tarfile.TarFile, folder: str, manifest: Manifest, stage: Path) -> None:
    """Copy exactly the files that the manifest lists into the stage."""
    awaited = {f"{folder}/{file}": file for file in manifest.files}
    for member in iter(tar.next, None):
        _check_path(member.name)
        if member.name not in awaited:
            raise _Refused(f"it holds {member.name!r}, which its manifest does not list, or lists once")
        file = awaited.pop(member.name)
        _check_digest(manifest, file, _copy(_content(tar, member), stage / file))
    if awaited:
        raise _Refused(f"it lacks {min(awaited)!r}, which its manifest lists")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None, "regular files have a content, and there are no others"
    return content


def _copy(source: IO[bytes], target: Path) -> str:
    """Copy a stream into a new file and return its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = _Digested(source)
    with target.open("xb") as copy:
        while chunk := content.read(_CHUNK):
            copy.write(chunk)
    return content.digest()


def _check_digest(manifest: Manifest, file: str, found: str) -> None:
    if found != manifest.files[file]:
        raise _Refused(f"its file {file!r} differs from the digest in its manifest")


def _check_weights(folder: Path, manifest: Manifest) -> None:
    """Refuse weights whose header and size contradict each other, as the library that reads them later finds."""
    from safetensors import SafetensorError, safe_open

    for file in manifest.files:
        if file.lower().endswith(".safetensors"):
            try:
                with safe_open(folder / file, framework="np"):
                    pass
            except SafetensorError as error:
                raise _Refused(f"its {file!r} is not a sound safetensors file ({error})") from error


def _check_tokenizer(folder: Path, manifest: Manifest) -> None:
    path = folder / TOKENIZER
    _check_size(TOKENIZER, path.stat().st_size)
    try:
        found = tokenizer_fingerprint(path.read_bytes())
    except SsdError as error:
        raise _Refused(error.problem.rstrip(".")) from error
    if found != manifest.tokenizer:
        raise _Refused(f"its {TOKENIZER} is not the one that the model was made for")
