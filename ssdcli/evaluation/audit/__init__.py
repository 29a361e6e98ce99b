"""What a model reveals of the text that it was trained on."""

from __future__ import annotations
