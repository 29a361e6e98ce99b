"""The reverse step: which positions are revealed, which tokens are drawn, and when a row stops."""

from __future__ import annotations
