"""Memory: a user's own text as a member of an ensemble, an index without weights."""

from __future__ import annotations
