"""A family of public checkpoints: how to recognise it, convert its files to a native checkpoint, and run that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssdcli.models.core_spec import CoreSpec

Config = Mapping[str, Any]

GENERATION = "generation_config"
SOURCE = "source"  # the name of the repository, folder or file


@dataclass(frozen=True)
class Vocabulary:
    """What the tokenizer files of a checkpoint say.

    size: one more than the largest id.
    ids: of the added tokens, by their text.
    begin: the id of the beginning of a text; this and the next three as tokenizer_config.json has them, if it does.
    end: the id of the end of a text.
    mask: the mask's id.
    pad: the padding's id.
    opening: the id that the tokenizer puts before every text, if it does.
    chat: whether there is a chat template.
    """

    size: int
    ids: Mapping[str, int] = field(default_factory=dict)
    begin: int | None = None
    end: int | None = None
    mask: int | None = None
    pad: int | None = None
    opening: int | None = None
    chat: bool = False


@dataclass(frozen=True)
class Rename:
    """A tensor under another name: both are patterns of `re.sub`, matched whole."""

    pattern: str
    target: str


@dataclass(frozen=True)
class Split:
    """A tensor cut along its first dimension into parts of these sizes, one target (as in Rename) each."""

    pattern: str
    targets: tuple[str, ...]
    sizes: Callable[[Config], tuple[int, ...]]


@dataclass(frozen=True)
class Stack:
    """Tensors stacked along a new first dimension; the pattern's group `n` is each tensor's place in it.

    With several patterns, those of the same place are first concatenated along their first dimension, in this order.
    """

    patterns: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Drop:
    """A tensor that no native class uses."""

    pattern: str


KeyRule = Rename | Split | Stack | Drop


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family.

    name: in manifests.
    title: as people know it.
    recognises: whether a config.json and a tokenizer are of this family.
    native: the native class's configuration for `AutoConfig`; SsdError for a checkpoint that contradicts itself or
        what the family is known for.
    spec: how it is run, from config.json with generation_config.json under GENERATION and the checkpoint's name under
        SOURCE; errors as in `native`.
    keys: rules for tensor names, tried in order; a tensor that matches none keeps its name.
    pickles: the files of weights in a repository without safetensors, and the prefix of their tensors' names in the
        converted checkpoint.
    """

    name: str
    title: str
    recognises: Callable[[Config, Vocabulary], bool]
    native: Callable[[Config], dict[str, Any]]
    spec: Callable[[Config, Vocabulary], CoreSpec]
    keys: tuple[KeyRule, ...] = ()
    pickles: Mapping[str, str] = field(default_factory=dict)
