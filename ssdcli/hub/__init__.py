"""From a repository or a folder to a registered core."""

from __future__ import annotations
