"""Members that predict together: rules, schedules, gates, guides and attribution."""

from __future__ import annotations
