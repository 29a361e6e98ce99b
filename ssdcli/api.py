"""The Python interface: `load("starter", {"notes": 0.3}).generate("Dear landlord,")`."""

from __future__ import annotations

from collections.abc import Sequence

from ssdcli.evaluation.measurement import EvalSettings, Evaluation
from ssdcli.generation.selection import EnsembleSpec, SmallModels, choose
from ssdcli.generation.types import PLAIN, Blend, Contribution, Options, Piece, Request, Result, TokenShares
from ssdcli.generation.writer import Writer
from ssdcli.machine.placement import FREE, Placement
from ssdcli.registry.store import Registry
from ssdcli.text.messages import Message

__all__ = [
    "Blend",
    "Contribution",
    "EnsembleSpec",
    "EvalSettings",
    "Evaluation",
    "Message",
    "Options",
    "Piece",
    "Placement",
    "Request",
    "Result",
    "TokenShares",
    "Writer",
    "choose",
    "evaluate",
    "load",
]


def load(
    core: str | None = None,
    members: SmallModels = None,
    registry: Registry | None = None,
    blend: Blend = PLAIN,
    placement: Placement = FREE,
) -> Writer:
    """Load an ensemble from the registry; small models run in float32, and a pulled core as it fits.

    core: a model's name; "none" for none, the small models' weights then scaled to sum to one; by default the
    core that the first small model was made for, else the registry's default.
    members: small models and their weights in (0, 1], or only names; a weight of None stands for the tuned one in
    the manifest, else 0.5. The core gets what is left of 1, and is not run if that is 0.
    blend: how and when they combine, and what guides them.
    placement: the dtype of all, the device of canvases, and whether a core may wait in memory and on disk.

    NoSuchModel for a name that is not registered, UsageError for weights or models that do not go together, OutOfMemory
    for a core that does not fit.
    """
    return choose(core, members, registry, blend).open(placement)


def evaluate(
    data: str | Sequence[str],
    core: str | None = None,
    members: SmallModels = None,
    settings: EvalSettings | None = None,
    registry: Registry | None = None,
) -> Evaluation:
    """Measure how well a core, small models and their ensembles predict held-out text, as `ssd eval` does.

    data: files and folders. core, members: as for `load`; the weight of the first small model is swept, and those of
    the others stay. Errors as for `load`; UsageError for text that is not there, SsdError for too little of it.
    """
    from ssdcli.evaluation.evaluate import evaluate as run

    return run([data] if isinstance(data, str) else data, core, members, settings, registry=registry)
