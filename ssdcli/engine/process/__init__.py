"""Noise processes: how a clean canvas is destroyed."""

from __future__ import annotations

from collections.abc import Mapping

from ssdcli.engine import catalogue
from ssdcli.engine.process.process import Canvas, EmbeddingSpace, Process

__all__ = ["Canvas", "EmbeddingSpace", "Process", "make_process"]


def make_process(name: str, vocabulary: int, constants: Mapping[str, float]) -> Process:
    """Build the process that a manifest names.

    constants: those of the process, and perhaps others, which are ignored. ValueError for an unknown name, KeyError
    for a constant that is missing.
    """
    process: Process = catalogue.process(name).load()(vocabulary, constants)
    return process
