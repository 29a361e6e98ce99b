"""What of a folder is not to be learned: hidden, ignored, installed, built, generated or secret files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ssdcli.data.documents import ReadReport, printable
from ssdcli.data.reading import Reading

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".ssdignore")  # of two that disagree, the later wins

_INSTALLED = frozenset({"node_modules", "bower_components", "jspm_packages", "site-packages", "Pods", "__pypackages__"})
_BUILT = frozenset({"__pycache__", "__MACOSX", "DerivedData", "htmlcov", "CMakeFiles", "_site"})
_PERHAPS_BUILT = frozenset({"build", "dist", "out", "target", "obj"})
_PROJECT = re.compile(  # a file beside a folder that may be built: then it is; so is a lock file
    r"(package|composer|deno|angular|tsconfig|bower)\.json|pyproject\.toml|setup\.(py|cfg)|requirements.*\.txt|Pipfile"
    r"|Cargo\.toml|pom\.xml|(build|settings)\.gradle(\.kts)?|CMakeLists\.txt|(GNU)?makefile|meson\.build|go\.mod|.*\.sbt"
    r"|.*\.(csproj|vbproj|fsproj|sln|cabal|gemspec)|Gemfile|Rakefile|pubspec\.yaml|mix\.exs|Package\.swift|dune-project"
    r"|(webpack|vite|rollup|next|gatsby-|svelte|astro|vue|babel|gulpfile|Gruntfile).*\.[cm]?[jt]s",
    re.IGNORECASE,
)
_PRODUCTS = ("CACHEDIR.TAG", "debug", "release", "classes", "CMakeCache.txt")  # in a folder that was built
_LOCKS = re.compile(
    r"(package-lock\.json|npm-shrinkwrap\.json|pnpm-lock\.yaml|go\.sum|go\.work\.sum|bun\.lockb|packages\.lock\.json"
    r"|Package\.resolved|.*\.lock|.*\.lock\.hcl)",
    re.IGNORECASE,
)
_MINIFIED = re.compile(r".*([.-]min\.(js|css|mjs|html)|\.bundle\.js|\.chunk\.js|\.(js|css|mjs)\.map)", re.IGNORECASE)
_KEYS = re.compile(
    r"(id_(rsa|dsa|ecdsa|ed25519)(_\w+)?|.*\.(pem|key|p12|pfx|ppk|kdbx?|jks|keystore|asc|gpg|ovpn))", re.IGNORECASE
)


@dataclass(frozen=True)
class _Ignoring:
    """The patterns of an ignore file, for the folder that it is in."""

    folder: Path
    file: str
    spec: GitIgnoreSpec


@dataclass
class Exclusion:
    """Decides what of a folder is read.

    folder: that was named.
    reading: whose `include` overrides all other rules, relative to the folder.
    report: where what is left out is counted.
    """

    folder: Path
    reading: Reading
    report: ReadReport
    _ignoring: dict[Path, list[_Ignoring]] = field(default_factory=dict)

    @cached_property
    def _included(self) -> GitIgnoreSpec | None:
        return _spec(self.reading.include) if self.reading.include else None

    def includes(self, path: Path) -> bool:
        """Whether the reader asks for a file explicitly."""
        return self._included is not None and self._included.match_file(os.path.relpath(path, self.folder))

    def files(self) -> Iterator[Path]:
        """Yield the files that are not left out, in sorted order; what is left out is counted by reason."""
        yield from self._below(self.folder, excluded=False)

    def _below(self, folder: Path, *, excluded: bool) -> Iterator[Path]:
        """Yield the files below a folder; of an excluded one those that are asked for."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            self.report.skip("unreadable", printable(str(folder)))
            return
        folders = [entry for entry in entries if entry.is_dir()]
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir() or (excluded and not self.includes(path)):
                continue
            reason = None if self.includes(path) else self._reason_against_file(path)
            if reason is None:
                yield path
            else:
                self.report.skip(reason, printable(str(path)), "entry" if reason == "hidden" else "file")
        for entry in folders:
            yield from self._in_folder(Path(entry.path), excluded=excluded)

    def _in_folder(self, path: Path, *, excluded: bool) -> Iterator[Path]:
        reason = None if excluded else self._reason_against_folder(path)
        if path.is_symlink():
            reason = None if excluded else "link to a folder"
        if reason is not None:
            self.report.skip(reason, printable(str(path)), "entry")
        if path.is_symlink() or ((reason or excluded) and self._included is None):
            return
        yield from self._below(path, excluded=excluded or reason is not None)

    def _reason_against_folder(self, path: Path) -> str | None:
        name = path.name
        if name.startswith("."):
            return "hidden"
        if (path / "pyvenv.cfg").is_file() or (path / "conda-meta").is_dir():
            return "virtual environment"
        if name in _INSTALLED or (
            name == "vendor" and ((path / "modules.txt").exists() or (path / "autoload.php").exists())
        ):
            return "installed packages"
        if self._is_built(path):
            return "build folder"
        return self._ignored(path, is_folder=True)

    def _is_built(self, path: Path) -> bool:
        if (
            path.name in _BUILT
            or path.name.endswith((".egg-info", ".dist-info"))
            or path.name.startswith("cmake-build-")
        ):
            return True
        if path.name not in _PERHAPS_BUILT:
            return False
        return any((path / name).exists() for name in _PRODUCTS) or any(
            _PROJECT.fullmatch(file.name) or _LOCKS.fullmatch(file.name) for file in path.parent.iterdir()
        )

    def _reason_against_file(self, path: Path) -> str | None:
        return _reason_against_name(path.name) or self._ignored(path, is_folder=False) or self._leaving(path)

    def _leaving(self, path: Path) -> str | None:
        """The reason against a link whose target is elsewhere; one that leads nowhere is unreadable, not elsewhere."""
        leaves = path.is_symlink() and path.exists() and not path.resolve().is_relative_to(self.folder.resolve())
        return "link that leaves the folder" if leaves else None

    def _ignored(self, path: Path, *, is_folder: bool) -> str | None:
        """The reason of the last pattern that matches, from the root of the repository down; None if it includes."""
        verdict = None
        for ignoring in self._above(path.parent):
            relative = os.path.relpath(path, ignoring.folder) + "/" * is_folder
            found = ignoring.spec.check_file(relative).include
            if found is not None:
                verdict = f"excluded by {ignoring.file}" if found else None
        return verdict

    def _above(self, folder: Path) -> list[_Ignoring]:
        """The ignore files that hold for what is in a folder, the outermost first."""
        if folder not in self._ignoring:
            outer = self._above(folder.parent) if folder != self.folder else list(_of_repository(folder))
            self._ignoring[folder] = [*outer, *_ignore_files(folder)]
        return self._ignoring[folder]


def reason_against(path: PurePosixPath) -> str | None:
    """Why a member of an archive is not to be learned, as far as its path tells."""
    for folder in path.parts[:-1]:
        if folder.startswith(".") or folder in _INSTALLED or folder in _BUILT:
            return (
                "hidden" if folder.startswith(".") else "installed packages" if folder in _INSTALLED else "build folder"
            )
    return _reason_against_name(path.name)


def _reason_against_name(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    kinds = (("lock file", _LOCKS), ("minified or generated", _MINIFIED), ("private key", _KEYS))
    return next((reason for reason, names in kinds if names.fullmatch(name)), None)


def _of_repository(folder: Path) -> Iterator[_Ignoring]:
    """Yield the ignore files above a folder, as far as its repository goes."""
    parents = list(folder.absolute().parents)
    root = next((place for place, parent in enumerate(parents) if (parent / ".git").exists()), None)
    if root is not None and not (folder / ".git").exists():
        for parent in reversed(parents[: root + 1]):
            yield from _ignore_files(parent)


def _ignore_files(folder: Path) -> Iterator[_Ignoring]:
    for name in IGNORE_FILES:
        try:
            lines = (folder / name).read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError:
            continue
        yield _Ignoring(folder, name, _spec(lines))


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    """The patterns of lines; one that git could not read either matches nothing."""
    from pathspec import GitIgnoreSpec

    good = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        good.append(line)
    return GitIgnoreSpec.from_lines(good)
