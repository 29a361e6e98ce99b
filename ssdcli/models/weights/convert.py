"""Conversion of downloaded weights to a native checkpoint: linked if they are one already, else streamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ssdcli.errors import SsdError
from ssdcli.models.families.family import Family
from ssdcli.models.weights.blueprint import blueprint, check, parameters, wanted
from ssdcli.models.weights.gguf_header import GGUF
from ssdcli.models.weights.gguf_tensors import read_gguf
from ssdcli.models.weights.key_rules import rearranged
from ssdcli.models.weights.pickles import read_pickle
from ssdcli.models.weights.safetensors_stream import AGAIN, StoredTensor, read_safetensors, write_safetensors
from ssdcli.registry.manifest import INDEX, WEIGHTS

SHARD = 5 * 10**9  # bytes in one file, so that a copy that breaks off loses little

_SAFE = ".safetensors"
_Tensors = Mapping[str, StoredTensor]


def convert(
    sources: Sequence[Path], target: Path, family: Family, config: Mapping[str, Any], *, link: bool = True
) -> int:
    """Write or link the weights in `sources` as native ones into the folder `target`; return how many parameters.

    sources: at least one. config: the checkpoint's own. link: whether the sources stay as they are, so that links to
    native ones will do; otherwise they are copied. The headers are checked against the native class before
    anything is written: SsdError names the damaged file, or the tensor that is not as expected. Numbers keep their
    stored precision, and only a few MB are in memory at a time.
    """
    model = blueprint(family.native(config))
    _check_index(sources)
    files = [(source, _read(source, family, model)) for source in sorted(sources)]
    stored = _merged(files)
    native = rearranged(stored, family.keys, config)
    check(model, native)
    if native == stored and all(source.suffix == _SAFE for source in sources):
        _place(files, target, _link if link else shutil.copyfile)
    else:
        _write(wanted(model, native), target)
    return parameters(model)


def _check_index(sources: Sequence[Path]) -> None:
    """Raise SsdError if the index names other files than these."""
    index = sources[0].with_name(INDEX)
    if not index.exists():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SsdError(f"{INDEX} does not say which file holds which tensor.", AGAIN) from error
    there = {source.name for source in sources}
    if named - there:
        raise SsdError(f"{INDEX} names {min(named - there)}, which is missing.", AGAIN)
    if there - named:
        raise SsdError(f"{min(there - named)} is there, and {INDEX} does not name it.", AGAIN)


def _read(source: Path, family: Family, model: PreTrainedModel) -> dict[str, StoredTensor]:
    if source.suffix == _SAFE:
        return read_safetensors(source)
    if source.suffix.lower() == GGUF:
        return read_gguf(source, model)
    for name, prefix in family.pickles.items():
        if source.match(name):
            return read_pickle(source, prefix)
    raise SsdError(f"{source.name} is not a file of weights that {family.title} is known to have.", AGAIN)


def _merged(files: Sequence[tuple[Path, _Tensors]]) -> dict[str, StoredTensor]:
    """The tensors of all files; SsdError if two files hold the same name."""
    merged: dict[str, StoredTensor] = {}
    for source, tensors in files:
        for name, tensor in tensors.items():
            if name in merged:
                raise SsdError(f"{source.name} holds {name}, which another file holds too.", AGAIN)
            merged[name] = tensor
    return merged


def _place(files: Sequence[tuple[Path, _Tensors]], target: Path, put: Callable[[Path, Path], object]) -> None:
    """Link or copy the files to a native checkpoint's names."""
    for (source, _), name in zip(files, _names(len(files)), strict=True):
        put(source.resolve(), target / name)
    _write_index([tensors for _, tensors in files], target)


def _link(origin: Path, name: Path) -> None:
    try:
        name.hardlink_to(origin)
    except OSError:  # on another file system, or one without hard links
        name.symlink_to(origin)


def _write(tensors: _Tensors, target: Path) -> None:
    shards = list(_shards(tensors))
    for shard, name in zip(shards, _names(len(shards)), strict=True):
        write_safetensors(target / name, shard)
    _write_index(shards, target)


def _shards(tensors: _Tensors) -> Iterator[dict[str, StoredTensor]]:
    """The tensors in order, in files of at most SHARD bytes or of one tensor."""
    shard: dict[str, StoredTensor] = {}
    room = SHARD
    for name, tensor in tensors.items():
        if shard and tensor.size > room:
            yield shard
            shard, room = {}, SHARD
        shard[name] = tensor
        room -= tensor.size
    yield shard


def _names(count: int) -> list[str]:
    """The file names that transformers looks for: one file, or numbered ones beside an index."""
    return [WEIGHTS] if count == 1 else [f"model-{i:05}-of-{count:05}{_SAFE}" for i in range(1, count + 1)]


def _write_index(shards: Sequence[_Tensors], target: Path) -> None:
    if len(shards) == 1:
        return
    places = {name: file for shard, file in zip(shards, _names(len(shards)), strict=True) for name in shard}
    size = sum(tensor.size for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
