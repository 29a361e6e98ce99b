"""A terminal for tests of what commands read and write."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """A terminal at which nobody types."""

    def isatty(self) -> bool:
        return True
