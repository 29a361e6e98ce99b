"""The names that fields and tensors had in files of earlier versions, which are read as well as today's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

CONFIG = {"hears_itself": "self_conditioned", "adapted": "native_body"}
"""Fields of the config.json of models made here: the old name, and today's."""

TENSORS = {"listen": "self_conditioning"}
"""Modules of models made here, as their tensors' names begin: the old name, and today's."""

REMOVED_SETTINGS = frozenset({"anneal", "distill_samples"})
"""Settings of recipes and of unfinished trainings that are no more: they are read and ignored."""

REMOVED_CORE_FIELDS = frozenset({"family"})
"""Fields of the table `ssd` in a core's config.json that are no more: the manifest has it as the architecture."""

_Value = TypeVar("_Value")


def renamed(values: Mapping[str, _Value], names: Mapping[str, str]) -> dict[str, _Value]:
    """The same values, in the same order, under today's names."""
    return {names.get(name, name): value for name, value in dict(values).items()}


def tensor_name(name: str) -> str:
    """Today's name of a tensor of a model made here."""
    module, dot, rest = name.partition(".")
    return TENSORS.get(module, module) + dot + rest
