"""Where a core on another machine is, and what its server tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from ssdcli.errors import UsageError, require
from ssdcli.models.core_config import read_config, unreadable
from ssdcli.registry.manifest import REMOTE

SCHEMES = ("http://", "https://")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FORM = "Give http://HOST:PORT/v1#MODEL."


@dataclass(frozen=True)
class Address:
    """A model of a server that speaks OpenAI's API.

    url: what comes before `/completions`.
    model: what the server calls it.
    variable: the environment variable that holds the bearer token; the token itself is kept nowhere.
    top: how many of the likeliest tokens it tells of each place.
    """

    url: str
    model: str
    variable: str
    top: int = 0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        require(bool(self.url.startswith(SCHEMES) and parts.hostname and self.model), f"{self} names no model.", _FORM)
        secret = "an address must not hold a password: it is kept as it is."
        require("@" not in parts.netloc, secret, f"Put the token into the variable {self.variable}.")
        require(not parts.query, f"the address {self.url} has a query.", _FORM)
        named = bool(_VARIABLE.fullmatch(self.variable))
        require(named, f"{self.variable!r} is not the name of a variable.", "Name one, such as SSD_CORE_TOKEN.")

    def __str__(self) -> str:
        return f"{self.url}#{self.model}"

    @classmethod
    def parse(cls, text: str, variable: str) -> Self:
        """Read URL#MODEL (UsageError for anything else)."""
        url, _, model = text.partition("#")
        return cls(url.rstrip("/"), model, variable)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """That of a registered core (SsdError if it cannot be read)."""
        try:
            return cls(**read_config(folder)[REMOTE])
        except (LookupError, TypeError, UsageError) as error:
            raise unreadable(folder, error) from error

    def table(self) -> Mapping[str, Any]:
        """What config.json holds of it."""
        return asdict(self)

    @property
    def host(self) -> str:
        """The machine, and the port if it is named."""
        return urlsplit(self.url).netloc

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return urlsplit(self.url).hostname in _LOOPBACK
