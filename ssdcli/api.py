"""The Python interface: `load("starter", {"notes": 0.3}).generate("Dear landlord,")`."""

from __future__ import annotations

from collections.abc import Sequence

from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.measurement import Evaluation
from ssdcli.generation.blend import PLAIN, Blend
from ssdcli.generation.parts import SmallModels
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.generation.types import Contribution, Options, Piece, Request, Result, TokenShares
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

    core: a model's name, or "none": then the small models' weights are scaled to sum to one. By default it is the core
    that the first small model was made for, else the registry's default.
    members: small models and their weights in (0, 1], or only names; a weight of None is the tuned one in the manifest,
    else 0.5. The core gets the rest of 1, and does not run if that is 0.
    blend: how and when members combine, and which classifiers guide them.
    placement: the dtype, the device, and whether parts of a core may wait in memory and on disk.

    Raises NoSuchModel for a name that is not registered, UsageError for weights or models that do not fit together, and
    OutOfMemory for a core that does not fit into memory.
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

    data: files and folders. core, members: as for `load`; the weight of the first small model is swept, and the others
    stay. Raises what `load` raises, UsageError for text that does not exist, and SsdError for too little text.
    """
    from ssdcli.evaluation.evaluate import evaluate as run

    return run([data] if isinstance(data, str) else data, core, members, settings, registry=registry)
