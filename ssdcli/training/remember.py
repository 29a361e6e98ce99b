"""Memories: built from a training's text, alone, or again for a model whose text has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.reading import Reading, recorded_reading
from ssdcli.data.token_store import TokenStore, build_store
from ssdcli.engine.ensemble.gate import PUBLIC_GATE
from ssdcli.errors import SsdError, UsageError, require
from ssdcli.evaluation.joint_gate import with_memory
from ssdcli.generation.loaded_model import process_of
from ssdcli.machine.units import counted
from ssdcli.models.memory.memory_files import NOTHING, Memory, load_memory, write_memory
from ssdcli.models.memory.recall import Recall, save_recall
from ssdcli.registry.archive import MEMORY_FILES, RECALL
from ssdcli.registry.disk import disk_errors, files_below
from ssdcli.registry.manifest import FILE, HEAD, MEMORY, TOKENIZER, Manifest, write_manifest
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.chat_template import copy_chat
from ssdcli.text.tokenizer import load_tokenizer
from ssdcli.training.memory_text import texts_of
from ssdcli.training.prepare import find_core, format_of_text, store_settings
from ssdcli.training.recalling import digest_of, renewed_recall
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import check_free, claimed

_TOKENS = "tokens"


@dataclass(frozen=True)
class Remembered:
    """A memory that was built.

    name: of its model.
    folder: of its model.
    size: what the manifest says of it.
    learned: how many texts are new in it.
    forgotten: how many of the memory before are not in it any more.
    report: sentences about what was read.
    has_weights: whether the model is more than a memory.
    """

    name: str
    folder: Path
    size: dict[str, int]
    learned: int
    forgotten: int
    report: tuple[str, ...]
    has_weights: bool = False


def train_memory(settings: TrainSettings, registry: Registry | None = None, *, overwrite: bool = False) -> Remembered:
    """Make a model that is a memory alone of the data, for a core, in seconds.

    It is weighed by PUBLIC_GATE, until `ssd eval --save` fits a gate to the user's own text.
    """
    registry = registry or Registry()
    settings = replace(settings, core=settings.core or registry.default())
    settings.check_complete()
    require(settings.core != NO_CORE, "a memory needs a core, whose tokens it keeps.", "Name one with --for.")
    check_free(registry, settings.name, overwrite=overwrite)
    core = find_core(settings, registry)
    _check_process(core)
    with _working(registry, settings.name) as workspace:
        store = _read(settings.data, settings.reading, core, workspace)
        with registry.stage(settings.name, overwrite) as folder:
            memory = write_memory(folder, *texts_of(store), core.manifest.tokenizer)
            shutil.copyfile(core.folder / TOKENIZER, folder / TOKENIZER)
            manifest = _manifest(settings.name, core, store, memory)
            if manifest.format == "chat":
                copy_chat(core.folder, folder)
            (folder / "README.md").write_text(_card(manifest), encoding="utf-8")
            write_manifest(folder, manifest)
    lines = tuple(store.info.report)
    return Remembered(settings.name, registry.models / settings.name, memory.size, len(memory.origins), 0, lines)


def _renewed(memory: Memory, old: Memory, store: TokenStore, entry: Entry, registry: Registry) -> Recall | None:
    """The recall of a model's memory by the keys of its old one; the core, or its adapter, reads what is new."""
    origin = registry.origin_of(entry)
    if entry.manifest.tunes_core:
        return renewed_recall(memory, old, store, entry, origin)
    return None if origin is None else renewed_recall(memory, old, store, origin)


def update_memory(
    name: str, data: Sequence[str], registry: Registry | None = None, reading: Reading | None = None
) -> Remembered:
    """Build the memory of a registered model again from its text as it is now; the weights stay as they are.

    Texts that are gone are forgotten. A model without a memory gets one. Two updates of one model exclude each other.

    reading: how the text is read; None for how the model's own was.
    """
    registry = registry or Registry()
    entry = registry.find(name)
    if entry.bundled or entry.manifest.kind in ("core", HEAD):
        raise UsageError(f"{name!r} has no memory to update.", "Name a small model or a memory of your own.")
    _check_process(entry)
    has_weights = entry.manifest.kind != MEMORY
    with _working(registry, name) as workspace:
        store = _read(data, reading or recorded_reading(entry.folder), entry, workspace)
        old = _known(entry)
        with registry.stage(name, overwrite=True) as folder:
            memory = write_memory(folder, *texts_of(store), entry.manifest.tokenizer)
            recall = None if old.recall is None else _renewed(memory, old, store, entry, registry)
            if recall is not None:
                save_recall(folder / RECALL, recall)
            entry = registry.find(name)  # its weight may have been stored meanwhile
            _copy(entry, folder)
            before, after = ({digest_of(text) for text in one.index.texts()} for one in (old, memory))
            kept = {
                file: digest for file, digest in entry.manifest.files.items() if file not in (*MEMORY_FILES, RECALL)
            }
            text = entry.manifest.text if has_weights else _amount(store)
            changed = replace(entry.manifest, files=kept, memory=memory.size, text=text, gates=_gates(entry))
            if before != after:
                changed = replace(changed, metrics=_without_memory(entry.manifest.metrics))
            write_manifest(folder, changed)
    new, forgotten, report = len(after - before), len(before - after), tuple(store.info.report)
    return Remembered(name, entry.folder, memory.size, new, forgotten, report, has_weights)


def _without_memory(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those measures of a model in which its memory, which is another one now, had no part."""
    return {name: value for name, value in metrics.items() if name.split()[0] not in ("memory", "ensemble", "gain")}


def _gates(entry: Entry) -> tuple[dict[str, Any], ...]:
    """A model's gates, and beside a causal core those of a memory that it did not have before."""
    known = entry.manifest.joint_gates
    if entry.manifest.tunes_core:
        return entry.manifest.gates or (asdict(PUBLIC_GATE),)
    return tuple(map(asdict, with_memory(known))) if known and entry.manifest.kind != MEMORY else entry.manifest.gates


@contextmanager
def _working(registry: Registry, name: str) -> Iterator[Path]:
    """Yield a folder for the tokens of a memory's text, which is deleted again; SsdError while another has it."""
    with disk_errors(registry.home), claimed(registry, f"{name}.memory", f"the memory of {name!r}") as workspace:
        try:
            yield workspace
        finally:
            shutil.rmtree(workspace, ignore_errors=True)


def _check_process(entry: Entry) -> None:
    process = process_of(entry)
    if not process.hides:
        problem = f"a memory takes part in the masked process alone, and {entry.name!r} has the {process.name} process."
        raise UsageError(problem, "Train a small model instead.")


def _read(data: Sequence[str], reading: Reading, entry: Entry, workspace: Path) -> TokenStore:
    """The tokens of the data, as a model of this tokenizer and format reads them, in a folder of the workspace."""
    report, tokenizer = ReadReport(), load_tokenizer(entry.folder, entry.name)
    how = replace(store_settings(entry, tokenizer), split=None)
    return build_store(read_documents(data, report, reading), tokenizer, workspace / _TOKENS, how, report)


def _known(entry: Entry) -> Memory:
    """A model's memory; an empty one where it has none that can be read."""
    if entry.manifest.memory is None:
        return NOTHING
    try:
        return load_memory(entry.folder, entry.name, entry.manifest.vocabulary, entry.manifest.tokenizer)
    except SsdError:
        return NOTHING


def _copy(entry: Entry, folder: Path) -> None:
    """Link a model's files, but for its manifest and its memory, into another folder of the same disk."""
    for path in files_below(entry.folder):
        inside = path.relative_to(entry.folder)
        if inside.as_posix() not in (FILE, *MEMORY_FILES, RECALL):
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, folder / inside)


def _manifest(name: str, core: Entry, store: TokenStore, memory: Memory) -> Manifest:
    """What the registry keeps of a memory alone; the digests of its files are added when it is registered."""
    own, info = core.manifest, store.info
    causal = own.attention == "autoregressive"
    return Manifest.beside(
        own,
        name=name,
        kind=MEMORY,
        architecture=MEMORY,
        parameters=0,
        format=format_of_text(info, core),
        ends=own.ends,
        gates=(asdict(PUBLIC_GATE),) if causal else (),
        memory=memory.size,
        text=_amount(store),
    )


def _amount(store: TokenStore) -> dict[str, float]:
    """How much text was read, as a manifest says it."""
    sides = (store.info.train, store.info.heldout)
    return {key: sum(getattr(side, key) for side in sides) for key in ("documents", "conversations", "tokens", "bytes")}


def _card(manifest: Manifest) -> str:
    """The README of a memory alone."""
    assert manifest.memory is not None
    size = f"{counted(manifest.memory['texts'], 'text')} of {counted(manifest.memory['tokens'], 'token')}"
    return (
        f"# {manifest.name}\n\nA memory for {manifest.core}: an index of {size}, without weights. It holds the text\n"
        f"itself, so it is private, and 'ssd models export' refuses it.\n\n"
        f"    ssd generate PROMPT --with {manifest.name}\n"
    )
