"""Readers of files, one module per format."""

from __future__ import annotations
