"""Conversion of downloaded weights to a native checkpoint: linked if they are one already, else streamed."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

from ssdcli.errors import SsdError
from ssdcli.models.families.family import Config, Family, KeyRule, Rename, Split, Stack
from ssdcli.models.weights.blueprint import blueprint, check, parameters, wanted
from ssdcli.models.weights.gguf_header import GGUF
from ssdcli.models.weights.gguf_tensors import read_gguf
from ssdcli.models.weights.pickles import read_pickle
from ssdcli.models.weights.safetensors_stream import (
    AGAIN,
    StoredTensor,
    joined,
    read_safetensors,
    stacked,
    write_safetensors,
)
from ssdcli.registry.manifest import INDEX, WEIGHTS

_Key = TypeVar("_Key", bound=Hashable)
_Parts = dict[tuple[int, int], StoredTensor]  # by place, and by the index of the rule's pattern


def rearranged(stored: Mapping[str, StoredTensor], rules: Sequence[KeyRule], config: Config) -> dict[str, StoredTensor]:
    """The tensors under native names: each by the first rule that matches its whole name, else unchanged.

    SsdError for a tensor that cannot be cut or stacked as its rule says, or if two get the same name.
    """
    native: dict[str, StoredTensor] = {}
    stacks: dict[tuple[str, Stack], _Parts] = defaultdict(dict)
    for name, tensor in sorted(stored.items()):
        found = _first(rules, name)
        if found is None:
            _put(native, name, tensor, name)
            continue
        rule, column, groups = found
        if isinstance(rule, Rename):
            _put(native, groups.expand(rule.target), tensor, name)
        elif isinstance(rule, Split):
            for target, part in zip(rule.targets, _cut(name, tensor, rule.sizes(config)), strict=True):
                _put(native, groups.expand(target), part, name)
        elif isinstance(rule, Stack):
            _put(stacks[groups.expand(rule.target), rule], (int(groups["n"]), column), tensor, name)
    for (target, rule), parts in stacks.items():
        _put(native, target, _stack(target, rule, parts), target)
    return native


def _first(rules: Sequence[KeyRule], name: str) -> tuple[KeyRule, int, re.Match[str]] | None:
    """The first rule that matches a name, the index of its pattern, and the match; None without one."""
    for rule in rules:
        for column, pattern in enumerate(rule.patterns if isinstance(rule, Stack) else (rule.pattern,)):
            groups = re.fullmatch(pattern, name)
            if groups:
                return rule, column, groups
    return None


def _put(table: dict[_Key, StoredTensor], key: _Key, tensor: StoredTensor, name: str) -> None:
    if key in table:
        raise SsdError(f"the checkpoint holds {name} twice, under two names.", AGAIN)
    table[key] = tensor


def _cut(name: str, tensor: StoredTensor, rows: tuple[int, ...]) -> list[StoredTensor]:
    try:
        return tensor.cut(rows)
    except ValueError as error:
        raise SsdError(
            f"the configuration contradicts the weights: {name} cannot be divided: {error}.", AGAIN
        ) from error


def _stack(target: str, rule: Stack, parts: _Parts) -> StoredTensor:
    """Stack the parts in the order of their places, after joining those of one place."""
    columns = range(len(rule.patterns))
    count = max(place for place, _ in parts) + 1
    for place, column in ((place, column) for place in range(count) for column in columns):
        if (place, column) not in parts:
            raise SsdError(f"the checkpoint lacks part {place} of {target} (named {rule.patterns[column]}).", AGAIN)
    try:
        return stacked([joined([parts[place, column] for column in columns]) for place in range(count)])
    except ValueError as error:
        raise SsdError(f"the parts of {target} do not fit each other: {error}.", AGAIN) from error


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
