"""Noise processes: how a clean canvas is destroyed, and how it is denoised step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ssdcli.engine.process.base import Canvas, EmbeddingSpace, Process, Sampling, Times
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex, simplex
from ssdcli.engine.process.uniform import Uniform

__all__ = [
    "Canvas",
    "EmbeddingSpace",
    "Masked",
    "Process",
    "Sampling",
    "Simplex",
    "SparseSimplex",
    "Times",
    "Uniform",
    "make_process",
]

_KINDS: dict[str, Callable[[int, Mapping[str, float]], Process]] = {
    "simplex": simplex,
    "masked": Masked.from_constants,
    "uniform": Uniform.from_constants,
}


def make_process(name: str, vocabulary: int, constants: Mapping[str, float]) -> Process:
    """Build the process that a manifest names: `constants` are the fields of its class but for the vocabulary."""
    if name not in _KINDS:
        raise ValueError(f"unknown noise process {name!r}: known are {', '.join(_KINDS)}")
    return _KINDS[name](vocabulary, constants)
