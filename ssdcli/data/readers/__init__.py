"""Readers of files, one module a format."""

from __future__ import annotations
