"""What this machine and the registry can do, and what to do next."""

from __future__ import annotations
