"""The model card, the HTML report, and plots."""

from __future__ import annotations
