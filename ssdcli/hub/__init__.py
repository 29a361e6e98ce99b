"""From a repository of the hub to a registered core."""

from __future__ import annotations
