"""Pauses while a long prompt is read, in which others can have their turn."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


def _nothing() -> None:
    pass


in_pauses: ContextVar[Callable[[], None]] = ContextVar("in_pauses", default=_nothing)
"""What is called between two chunks of a prompt. Each thread has its own; what it raises ends the reading."""
