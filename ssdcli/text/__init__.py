"""Messages, chat templates, openings and ends, the codec, and tokenizers."""

from __future__ import annotations
