"""A family of public checkpoints: how its files become a native transformers checkpoint that knows how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssdcli.models.core_spec import CoreSpec

Config = Mapping[str, Any]

GENERATION = "generation_config"


@dataclass(frozen=True)
class Vocabulary:
    """What the tokenizer files of a checkpoint say.

    size: one more than the largest id. ids: of the added tokens, by their text. begin, end, mask, pad: the ids that
    tokenizer_config.json names, where it does. chat: whether there is a chat template.
    """

    size: int
    ids: Mapping[str, int] = field(default_factory=dict)
    begin: int | None = None
    end: int | None = None
    mask: int | None = None
    pad: int | None = None
    chat: bool = False


@dataclass(frozen=True)
class Rename:
    """A tensor under another name: both are patterns of `re.sub`, matched whole."""

    pattern: str
    target: str


@dataclass(frozen=True)
class Split:
    """A tensor cut along its first dimension: one target (patterns as in Rename) for each of the sizes."""

    pattern: str
    targets: tuple[str, ...]
    sizes: Callable[[Config], tuple[int, ...]]


@dataclass(frozen=True)
class Stack:
    """Tensors that become one, with a new first dimension; the group `n` of the pattern is each one's place in it.

    With several patterns, those of one place are first joined along their first dimension, in this order.
    """

    patterns: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Drop:
    """A tensor that no native class has a use for."""

    pattern: str


KeyRule = Rename | Split | Stack | Drop


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's adapter.

    title: as people know it. recognises: whether config.json, and what the tokenizer says, are of this family. native:
    the native class's configuration, which `AutoConfig` reads. spec: how it is run; its configuration also has what
    generation_config.json says, under GENERATION. Both raise SsdError, a clear sentence, for a checkpoint that
    contradicts itself or what the family is known for. keys: rules for the tensors'
    names, tried in order; a tensor that matches none keeps its name. pickles: the files of a repository without
    safetensors, and what their tensors' names begin with in the converted checkpoint.
    """

    name: str
    title: str
    recognises: Callable[[Config, Vocabulary], bool]
    native: Callable[[Config], dict[str, Any]]
    spec: Callable[[Config, Vocabulary], CoreSpec]
    keys: tuple[KeyRule, ...] = ()
    pickles: Mapping[str, str] = field(default_factory=dict)
