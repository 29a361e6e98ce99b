"""How files that earlier versions stored are read: what they call otherwise, and what no longer exists."""

from __future__ import annotations

REMOVED_SETTINGS = frozenset({"anneal", "distill_samples"})  # of recipes and unfinished trainings; read and ignored
