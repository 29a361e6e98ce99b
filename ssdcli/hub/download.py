"""What a repository of the hub holds, and its files, complete and checked, in the hub's own cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from ssdcli.errors import DownloadFailed, UsageError
from ssdcli.hub.failures import failures
from ssdcli.hub.resume import fetch_blob, stream_range
from ssdcli.machine.units import large
from ssdcli.models.weights.gguf_header import LONGEST
from ssdcli.registry.manifest import CONFIG, FILE, INDEX, TEMPLATE

_SMALL = (
    CONFIG,
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    TEMPLATE,
    INDEX,
    FILE,
)
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w.][\w./-]*", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

Report = Callable[[int], None]


@dataclass(frozen=True)
class RepoId:
    """A repository of the hub, and the branch, tag or commit of it that was asked for."""

    name: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ORG/NAME or ORG/NAME@REV; UsageError for anything else."""
        name, at, revision = text.partition("@")
        sane = ".." not in text and _REVISION.fullmatch(revision or "main")
        if not (sane and _NAME.fullmatch(name)) or (at and not revision):
            raise UsageError(f"{text!r} is not a repository of the hub.", "Give ORG/NAME, or ORG/NAME@REVISION.")
        return cls(name, revision) if at else cls(name)

    def __str__(self) -> str:
        return self.name if self.revision == "main" else f"{self.name}@{self.revision}"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    name: its path in the repository.
    size: in bytes.
    digest: the sha256 of what is in large file storage, git's sha1 of anything else; also the name of the file's
        content in the hub's cache. None where it is not known.
    """

    name: str
    size: int
    digest: str | None

    @property
    def is_large(self) -> bool:
        """Whether it is in large file storage, so that its digest is a sha256."""
        return len(self.digest or "") == 64

    def check(self, path: Path) -> bool:
        """Whether the file at this path has this size and digest."""
        if path.stat().st_size != self.size:
            return False
        if self.digest is None:
            return True
        sha = hashlib.sha256() if self.is_large else hashlib.sha1(b"blob %d\0" % self.size)
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: sha).hexdigest() == self.digest


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit: a source of a checkpoint, or of a GGUF file in it.

    repo: as it was asked for.
    commit: its sha.
    files: in it.
    gated: whether access must be asked for.
    licence: as the card has it.
    gguf: the file that is meant; None for a checkpoint of several files.
    links: whether its files stay as they are, so that links to them will do.
    """

    repo: RepoId
    commit: str
    files: tuple[RemoteFile, ...]
    gated: bool = False
    licence: str | None = None
    gguf: RemoteFile | None = None
    links: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """The repository as it was asked for."""
        return str(self.repo)

    @property
    def elsewhere(self) -> str:
        """What to do if a file is missing."""
        return "Go online to fetch the rest." if is_offline() else "Pull another revision or repository."

    @property
    def place(self) -> str:
        """ORG/NAME@COMMIT, or ORG/NAME@COMMIT:FILE."""
        return f"{self.repo.name}@{self.commit}" + (f":{self.gguf.name}" if self.gguf else "")

    def origin(self, files: Iterable[RemoteFile]) -> str:
        """The place: a commit says what its files hold."""
        return self.place

    def small(self) -> dict[str, bytes]:
        """Configuration, tokenizer and index, fetched, by name."""
        return {name: path.read_bytes() for name, path in self.fetch(small_files(self.files)).items()}

    def to_fetch(self, files: Iterable[RemoteFile]) -> int:
        """How many bytes of these files are not in the hub's cache."""
        return sum(file.size for file in files if not _is_cached(self, file))

    def fetch(self, files: Iterable[RemoteFile], report: Report = lambda _: None) -> dict[str, Path]:
        """Bring files into the cache and check them; `report` is called with the number of bytes as they arrive.

        Returns the paths by name. DownloadFailed names a file that differs from the listing; it is deleted from the
        cache, so that the next attempt fetches it again.
        """
        paths = {}
        for file in files:
            if _is_cached(self, file):
                report(file.size)
            paths[file.name] = path = _download(self, file, report)
            if not file.check(path):
                _forget(path)
                raise DownloadFailed(
                    f"{file.name} of {self.repo} arrived damaged: it is not what the hub lists.",
                    "Run the same command again to fetch it anew.",
                )
        _remember(self)
        return paths

    @contextmanager
    def open(self, file: RemoteFile, begin: int = 0, most: int = LONGEST) -> Iterator[BinaryIO]:
        """The bytes of a file from `begin` on, at least `most` of them if there are so many, without fetching the rest.

        DownloadFailed if the hub cannot send them, or, offline, if they are not in the cache.
        """
        from huggingface_hub import hf_hub_url

        if _is_cached(self, file) or is_offline():
            with self.fetch([file])[file.name].open("rb") as stream:
                stream.seek(begin)
                yield stream
            return
        with failures(self.repo, file.name):
            url = hf_hub_url(self.repo.name, file.name, revision=self.commit)
            with stream_range(url, begin, most) as stream:
                yield stream


def is_offline() -> bool:
    """Whether SSD_OFFLINE or HF_HUB_OFFLINE forbids using the network."""
    from huggingface_hub import is_offline_mode

    return os.environ.get("SSD_OFFLINE", "").lower() in ("1", "on", "yes", "true") or is_offline_mode()


def look(repo: RepoId) -> Listing:
    """What the hub has under this name, or, offline, its cache; DownloadFailed says why there is nothing."""
    if is_offline():
        return _look_into_cache(repo)
    from huggingface_hub import HfApi

    with failures(repo):
        info = HfApi().model_info(repo.name, revision=repo.revision, files_metadata=True)
    files = tuple(
        RemoteFile(file.rfilename, file.size or 0, file.blob_id if file.lfs is None else file.lfs.sha256)
        for file in info.siblings or ()
    )
    licence = None if info.card_data is None else info.card_data.get("license")
    return Listing(repo, str(info.sha), files, bool(info.gated), licence if isinstance(licence, str) else None)


def small_files(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Configuration, tokenizer and index: all that is needed to recognise a checkpoint."""
    top = [file for file in files if "/" not in file.name]
    return tuple(file for file in top if any(fnmatchcase(file.name, name) for name in _SMALL))


def check_space(wanted: Iterable[tuple[Path, int]], what: str) -> None:
    """Raise DownloadFailed unless each disk has room for the bytes that something wants in all folders on it."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in wanted:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        device = there.stat().st_dev
        disks[device] = (there, disks.get(device, (there, 0))[1] + size)
    for there, size in disks.values():
        free = shutil.disk_usage(there).free
        if size > free:
            raise DownloadFailed(
                f"{what} takes {large(size, 'B')} on the disk of {there}, which has {large(free, 'B')} free.",
                "Free some space, or set HF_HUB_CACHE or SSD_HOME to a folder on another disk.",
            )


def cache_folder() -> Path:
    """The hub's cache, which all programs share."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _download(listing: Listing, file: RemoteFile, report: Report) -> Path:
    from huggingface_hub import hf_hub_download, hf_hub_url

    with failures(listing.repo, file.name):
        if file.is_large and not is_offline() and not _is_cached(listing, file):
            url = hf_hub_url(listing.repo.name, file.name, revision=listing.commit)
            fetch_blob(url, _blob(listing, file), file.size, _bar(report))
        path = hf_hub_download(
            listing.repo.name,
            file.name,
            revision=listing.commit,
            local_files_only=is_offline(),
            tqdm_class=_bar(report),
        )
    return Path(path)


def _bar(report: Report) -> type[Any]:
    """A class of progress bars that report instead of being drawn."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, initial: int = 0, **_: object) -> None:
            super().__init__(disable=True)  # type: ignore[no-untyped-call]
            report(initial)  # what an earlier process had fetched

        def update(self, n: float | None = 1) -> None:
            report(int(n or 0))

        def update_transfer(self, n: float) -> None:
            """Ignored: with Xet, bytes over the wire are not bytes of the file."""

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None:
            """Ignored."""

    return Bar


def _storage(repo: RepoId) -> Path:
    return cache_folder() / f"models--{repo.name.replace('/', '--')}"


def _is_cached(listing: Listing, file: RemoteFile) -> bool:
    snapshot = _storage(listing.repo) / "snapshots" / listing.commit
    return (snapshot / file.name).exists() or _blob(listing, file).is_file()


def _blob(listing: Listing, file: RemoteFile) -> Path:
    """The place of a file's content in the cache."""
    return _storage(listing.repo) / "blobs" / (file.digest or "")


def _remember(listing: Listing) -> None:
    """Write to the cache which commit a branch or tag was, as huggingface_hub does when it downloads by branch."""
    ref = _storage(listing.repo) / "refs" / listing.repo.revision
    if listing.repo.revision != listing.commit and not is_offline():
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        draft.write_text(listing.commit, encoding="utf-8")
        draft.replace(ref)


def _forget(path: Path) -> None:
    """Delete a file of the cache together with the content that it links to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _look_into_cache(repo: RepoId) -> Listing:
    storage = _storage(repo)
    ref = storage / "refs" / repo.revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else repo.revision
    snapshot = storage / "snapshots" / commit
    if not snapshot.is_dir():
        raise DownloadFailed(
            f"{repo} is not in the hub's cache, and ssd is offline.",
            "Unset SSD_OFFLINE and HF_HUB_OFFLINE to fetch it.",
        )
    paths = sorted(path for path in snapshot.rglob("*") if path.is_file())
    return Listing(repo, commit, tuple(_cached(path, path.relative_to(snapshot).as_posix()) for path in paths))


def _cached(path: Path, name: str) -> RemoteFile:
    content = path.readlink().name if path.is_symlink() else ""
    return RemoteFile(name, path.stat().st_size, content if _DIGEST.fullmatch(content) else None)
