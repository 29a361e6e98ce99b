"""A family's rules for tensor names, applied to tensors that stay in their files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from ssdcli.errors import SsdError
from ssdcli.models.families.family import Config, KeyRule, Rename, Split, Stack
from ssdcli.models.weights.safetensors_stream import AGAIN, StoredTensor, joined, stacked

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
