"""The Python interface: `load("starter", {"notes": 0.3}).generate("Dear landlord,")`."""

from __future__ import annotations

from ssdcli.exchange import PLAIN, Blend, MemberUse, Message, Options, Piece, Request, Result, TokenShares
from ssdcli.lineup import Lineup, Members, choose
from ssdcli.models.placement import FREE, Placement
from ssdcli.registry.store import Registry
from ssdcli.writing import Writer

__all__ = [
    "Blend",
    "Lineup",
    "MemberUse",
    "Message",
    "Options",
    "Piece",
    "Placement",
    "Request",
    "Result",
    "TokenShares",
    "Writer",
    "choose",
    "load",
]


def load(
    core: str | None = None,
    members: Members = None,
    registry: Registry | None = None,
    blend: Blend = PLAIN,
    placement: Placement = FREE,
) -> Writer:
    """Load an ensemble from the registry; small models run in float32, and a pulled core as it fits.

    core: a model's name; "none" for none, the small models' weights then scaled to sum to one; by default the
    core that the first small model was made for, else the registry's default.
    members: small models and their weights in (0, 1], or names alone; a weight of None is the tuned one in
    the manifest, else 0.5. The core keeps what is left of 1, and is not run if that is nothing.
    blend: how and when they combine, and what guides them.
    placement: the dtype of all, the device of canvases, and whether a core may wait in memory and on disk.

    NoSuchModel for a name that is not registered, UsageError for weights or models that do not go together, OutOfMemory
    for a core that does not fit.
    """
    return choose(core, members, registry, blend).open(placement)
