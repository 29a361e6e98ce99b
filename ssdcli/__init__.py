"""Personal ensembles of diffusion language models: `load("starter", {"notes": 0.3}).generate("Dear ...")`."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_INTERFACE = ("Blend", "EvalSettings", "Options", "Placement", "Request", "Result", "evaluate", "load")


def __getattr__(name: str) -> Any:
    """Import the interface on first use, so that importing the package costs nothing."""
    if name in _INTERFACE:
        from ssdcli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
