"""Weights on disk: formats, conversion, precision, and what a class expects."""

from __future__ import annotations
