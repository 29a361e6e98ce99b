"""What a model gives away of the text it was trained on."""

from __future__ import annotations
