"""Samplers: the reverse of noise processes. Which positions are revealed, which tokens drawn, when a row stops."""

from __future__ import annotations
