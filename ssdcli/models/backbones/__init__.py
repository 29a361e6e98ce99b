"""Native transformers classes behind the engine's Backbone."""

from __future__ import annotations
