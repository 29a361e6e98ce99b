"""What the tests of evaluation have: documents made of a few tokens."""

from __future__ import annotations

from tests.evaluation.conftest import documents

__all__ = ["documents"]
