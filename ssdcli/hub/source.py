"""Where a checkpoint comes from: a repository of the hub, a folder, or a GGUF file in one of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, ClassVar

from ssdcli.errors import SsdError, UsageError
from ssdcli.hub.download import Listing, RemoteFile, RepoId, Report, look, small_files
from ssdcli.models.weights.gguf_header import GGUF, LONGEST
from ssdcli.registry.disk import digest
from ssdcli.registry.manifest import WEIGHTS
from ssdcli.registry.names import LONGEST as LONGEST_NAME

_PATH = re.compile(r"[./~\\].*|[A-Za-z]:[\\/].*", re.DOTALL)
_FILE = re.compile(r"[\w][\w ./+-]*\.gguf", re.ASCII | re.IGNORECASE)
_SAFE = ".safetensors"
_SHOWN = 5  # files that a message lists
_FOREIGN = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True)
class RepoFile:
    """A GGUF file of a repository."""

    repo: RepoId
    file: str

    def __str__(self) -> str:
        return f"{self.repo}:{self.file}"


Place = RepoId | RepoFile | Path


def parse_source(text: str) -> Place:
    """Read what `ssd pull` is told: ORG/NAME[@REV], ORG/NAME[@REV]:FILE.gguf, or a path, which begins with . or /.

    UsageError for anything else, and for a path where there is neither a folder nor a file.
    """
    repository, colon, file = text.partition(":")
    if _PATH.fullmatch(text) or (text.lower().endswith(GGUF) and not colon) or _is_bare_name(text):
        return _existing(Path(text).expanduser(), text)
    repo = RepoId.parse(repository)
    if not colon:
        return repo
    if not _FILE.fullmatch(file) or ".." in file:
        raise UsageError(f"{file!r} is not a GGUF file of a repository.", "Give ORG/NAME:FILE.gguf.")
    return RepoFile(repo, file)


def default_name(place: Place) -> str:
    """The last part of the repository's, folder's or file's name, spelled as a model name; it may be empty."""
    if isinstance(place, RepoId):
        name = place.name.rpartition("/")[2]
    elif isinstance(place, RepoFile):
        name = Path(place.file).stem
    else:
        name = place.resolve().name if place.is_dir() else place.stem
    return spelled(name)


def spelled(text: str) -> str:
    """A text as a model name; empty if it has no letter or digit of that grammar."""
    return _FOREIGN.sub("-", text.lower()).strip("-").lstrip("._-")[:LONGEST_NAME]


def find_source(place: Place) -> CheckpointSource:
    """Look at a place; DownloadFailed if the hub cannot be asked, SsdError if the repository lacks the file."""
    if isinstance(place, RepoId):
        return look(place)
    if isinstance(place, RepoFile):
        listing = look(place.repo)
        file = next((file for file in listing.files if file.name == place.file), None)
        if file is None:
            raise SsdError(f"{place.repo} has no file {place.file}.", ggufs_of(listing) or listing.elsewhere)
        return replace(listing, gguf=file)
    if place.is_dir():
        folder = place.resolve()
        return LocalSource(folder, tuple(_stored(path) for path in sorted(folder.iterdir()) if path.is_file()))
    file = _stored(place)
    return LocalSource(place.parent.resolve(), (file,), file)


def ggufs_of(source: CheckpointSource) -> str:
    """The sentence that names the GGUF files of a repository or folder; empty if there are none."""
    names = [file.name for file in source.files if file.name.lower().endswith(GGUF)]
    joint = "/" if isinstance(source, LocalSource) else ":"
    more = ", ..." if len(names) > _SHOWN else ""
    return f"Name a GGUF file: {', '.join(f'{source.title}{joint}{n}' for n in names[:_SHOWN])}{more}." * bool(names)


@dataclass(frozen=True)
class LocalSource:
    """A folder, or a GGUF file in it, which its owner may change at any time; as a source it is like `Listing`.

    folder: absolute.
    files: in it.
    """

    folder: Path
    files: tuple[RemoteFile, ...]
    gguf: RemoteFile | None = None
    links: ClassVar[bool] = False
    licence: ClassVar[None] = None
    gated: ClassVar[bool] = False
    elsewhere: ClassVar[str] = "Name another folder."

    @property
    def title(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def place(self) -> str:
        """The path, from the user's own folder on if it is in there."""
        path, home = self.folder / (self.gguf.name if self.gguf else ""), Path.home()
        return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)

    def origin(self, files: Iterable[RemoteFile]) -> str:
        """The name and the sha256: of the GGUF file, else of the list of these files and theirs.

        A path tells of its owner, and models are shared.
        """
        if self.gguf is not None:
            return f"{self.gguf.name}@sha256:{digest(self.folder / self.gguf.name)}"
        listed = "".join(sorted(f"{digest(self.folder / file.name)} {file.name}\n" for file in files))
        return f"{self.folder.name}@sha256:{hashlib.sha256(listed.encode()).hexdigest()}"

    def small(self) -> dict[str, bytes]:
        """Configuration, tokenizer and index."""
        return {file.name: (self.folder / file.name).read_bytes() for file in small_files(self.files)}

    def to_fetch(self, files: Iterable[RemoteFile]) -> int:
        """Nothing."""
        return 0

    def fetch(self, files: Sequence[RemoteFile], report: Report) -> dict[str, Path]:
        """The files where they are."""
        report(sum(file.size for file in files))
        return {file.name: self.folder / file.name for file in files}

    @contextmanager
    def open(self, file: RemoteFile, begin: int = 0, most: int = LONGEST) -> Iterator[BinaryIO]:
        """A stream of a file's bytes from `begin` on."""
        with (self.folder / file.name).open("rb") as stream:
            stream.seek(begin)
            yield stream


CheckpointSource = Listing | LocalSource


def weight_files(source: CheckpointSource, shards: Iterable[str], pickles: Iterable[str]) -> tuple[RemoteFile, ...]:
    """The files with the weights; SsdError if there are none, or some are missing.

    shards: the files that the index names; none without an index. pickles: those that the family is known to have, used
    only where there are no safetensors at all.
    """
    top = {file.name: file for file in source.files if "/" not in file.name}
    tensors = [name for name in top if name.endswith(_SAFE)]
    names = sorted(set(shards)) or ([WEIGHTS] if WEIGHTS in tensors else tensors) or list(pickles)
    missing = [name for name in names if name not in top]
    if missing or not names:
        lack = f"{source.title} lacks {', '.join(missing)}." if missing else f"{source.title} holds no safetensors."
        raise SsdError(lack, source.elsewhere)
    return tuple(top[name] for name in names)


def _stored(path: Path) -> RemoteFile:
    return RemoteFile(path.name, path.stat().st_size, None)


def _is_bare_name(text: str) -> bool:
    """Whether this names something in the current folder, and cannot name a repository."""
    return text != "" and "/" not in text and Path(text).exists()


def _existing(path: Path, text: str) -> Path:
    if path.is_dir() or path.is_file():
        return path
    there = f"{text!r} is neither a folder nor a file." if path.exists() else f"there is no folder or file {text!r}."
    raise UsageError(there, "Give a path, or ORG/NAME or ORG/NAME:FILE.gguf for what is on the hub.")
