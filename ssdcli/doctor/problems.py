"""What is wrong with the registry, told from manifests and the names of files, and how it is mended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ssdcli.errors import SsdError
from ssdcli.registry.compatibility import misfit
from ssdcli.registry.manifest import MEMORY, Manifest
from ssdcli.registry.store import Entry, Registry


def problems(registry: Registry, entries: Sequence[Entry]) -> dict[str, str]:
    """Why models cannot be used and what mends them, by name."""
    again = "Remove it with 'ssd models rm {} --yes', then pull, train or import it again."
    found = {name: f"{problem} {again.format(name)}" for name, problem in registry.broken().items()}
    for entry in entries:
        missing = [file for file in entry.manifest.files if not (entry.folder / file).is_file()]
        if missing:
            found[entry.name] = f"{', '.join(missing)} is missing. {_made_again(entry.name, entry.manifest)}"
        elif not entry.manifest.files:
            found[entry.name] = f"its manifest lists no files. {_made_again(entry.name, entry.manifest)}"
        else:
            try:
                registry.origin_of(entry)
            except SsdError as error:
                found[entry.name] = str(error)
    return found


def _made_again(name: str, manifest: Manifest) -> str:
    """The command that makes a model again."""
    if manifest.source is not None:
        known = "/" in manifest.source  # else a file or folder of this machine, whose place is not kept
        place = manifest.source if known else "./WHERE-IT-IS"
        return f"Pull it again: 'ssd pull {place} --as {name} --overwrite'."
    if manifest.kind == MEMORY:
        return f"Build it again: 'ssd train-small DATA --update {name}'."
    core = "" if manifest.core is None else f" --for {manifest.core}"
    return f"Train it again: 'ssd train-small DATA{core} --name {name} --overwrite', or import it."


def loose_ends(registry: Registry, entries: Sequence[Entry]) -> Iterator[str]:
    """What can be used, but not as it was meant, in sentences: trainings that wait, and small models without a core."""
    from ssdcli.training.unfinished import has_checkpoint

    folder = registry.home / "training"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and has_checkpoint(registry, path.name):
            yield f"The training of {path.name!r} was interrupted: 'ssd train-small --name {path.name} --resume'."
    known = {entry.name: entry.manifest for entry in entries}
    for entry in entries:
        core = entry.manifest.core
        if core is None or entry.manifest.origin is not None:
            continue
        if core not in known:
            yield f"{entry.name!r} was made for {core!r}, which is not here: pull that again under this name."
        elif (reason := misfit(entry.manifest, known[core])) is not None:
            yield f"{entry.name!r} does not fit {core!r}, for which it was made: {reason}. Train it again."
