"""Noise processes: how a clean canvas is destroyed, and how it is denoised step by step."""

from __future__ import annotations

from collections.abc import Mapping

from ssdcli.engine.process.base import Canvas, EmbeddingSpace, Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex

__all__ = ["Canvas", "EmbeddingSpace", "Masked", "Process", "Simplex", "make_process"]

_KINDS: dict[str, type[Simplex] | type[Masked]] = {"simplex": Simplex, "masked": Masked}


def make_process(name: str, vocabulary: int, constants: Mapping[str, float]) -> Process:
    """Build the process that a manifest names: `constants` are the fields of its class but for the vocabulary."""
    if name not in _KINDS:
        raise ValueError(f"unknown noise process {name!r}: known are {', '.join(_KINDS)}")
    return _KINDS[name].from_constants(vocabulary, constants)
