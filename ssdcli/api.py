"""The Python interface: `load("starter", {"notes": 0.3}).generate("Dear landlord,")`."""

from __future__ import annotations

from ssdcli.exchange import PLAIN, Blend, MemberUse, Message, Options, Piece, Request, Result, TokenShares
from ssdcli.lineup import Lineup, Members, choose
from ssdcli.registry.store import Registry
from ssdcli.writing import Writer

__all__ = [
    "Blend",
    "Lineup",
    "MemberUse",
    "Message",
    "Options",
    "Piece",
    "Request",
    "Result",
    "TokenShares",
    "Writer",
    "choose",
    "load",
]


def load(
    core: str | None = None, members: Members = None, registry: Registry | None = None, blend: Blend = PLAIN
) -> Writer:
    """Load an ensemble from the registry; models run in float32, on a GPU if there is one.

    core: a model's name; "none" for none, the small models' weights then scaled to sum to one; by default the
    core that the first small model was made for, else the registry's default.
    members: small models and their weights in (0, 1], or names alone; a weight of None is the tuned one in
    the manifest, else 0.5. The core keeps what is left of 1, and is not run if that is nothing.
    blend: how and when they combine, and what guides them.

    NoSuchModel for a name that is not registered, UsageError for weights or models that do not go together.
    """
    return choose(core, members, registry, blend).open()
