"""Draft and verify: several tokens are proposed, predicted at once, and kept as far as they are what is drawn."""

from __future__ import annotations
