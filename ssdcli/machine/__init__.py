"""The computer itself: devices, memory, threads, the allocator, several processes, and where a model is placed."""

from __future__ import annotations
