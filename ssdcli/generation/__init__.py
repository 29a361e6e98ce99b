"""From a request to text: members chosen and loaded, prompts encoded, blocks decoded and streamed."""

from __future__ import annotations
