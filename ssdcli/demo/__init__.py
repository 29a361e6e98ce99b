"""The whole story, on a notebook that comes with the package."""

from __future__ import annotations
