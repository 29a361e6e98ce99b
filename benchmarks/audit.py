"""How much does a model give away after longer and longer training?

    python -m benchmarks audit CORPUS --passes 2 10 50

Trains on a corpus with canaries, once for each number of passes, keeps the last weights however little they help, and
audits what came out, all in a registry of its own. About ten minutes on two cores.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks.lib.tables import heading, table
from ssdcli.evaluation.audit.audit import audit
from ssdcli.evaluation.measurement import AuditSettings
from ssdcli.registry.store import Registry
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings

QUICK = {"passes": [1.0], "audit_minutes": 0.1}
_ENOUGH = 600.0  # minutes that the passes never take
_TIMES = (1, 2, 4, 8)  # that a canary is planted


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", nargs="+", help="text, best in many documents, some of which are held out")
    parser.add_argument("--passes", nargs="+", type=float, default=[2.0, 10.0, 50.0], help="over the text")
    parser.add_argument("--audit-minutes", type=float, default=1.0)
    parser.add_argument("--for", dest="core", default="starter")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--heldout", type=float, default=0.2)
    parser.add_argument("--canaries", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="one pass and a short audit")


def main(given: Namespace) -> None:
    """Print a row for each number of passes."""
    header = [
        *("passes", "steps", "held-out bits per byte"),
        *(f"exposure, planted {times}x" for times in _TIMES),
        *("copied after a beginning", "copied after nothing", "held-out text's own share"),
        *("membership advantage", "beside the core", "level"),
    ]
    with tempfile.TemporaryDirectory() as home:
        rows = [measured(given, passes, Registry(Path(home))) for passes in given.passes]
    print(f"{heading()}\n\n{table(header, rows)}")


def measured(given: Namespace, passes: float, registry: Registry) -> list[object]:
    """Train and audit a model."""
    settings = TrainSettings(
        data=tuple(given.data),
        core=given.core,
        name="audited",
        size=given.size,
        minutes=_ENOUGH,
        passes=passes,
        patience=0,
        heldout=given.heldout,
        canaries=given.canaries,
    )
    trained = train_small(settings, overwrite=True, registry=registry)
    found = audit("audited", given.data, AuditSettings(given.audit_minutes), registry=registry)
    by_times = {} if found.exposure is None else found.exposure.by_times()
    verbatim, membership, verdict = found.verbatim, found.membership, found.verdict()
    copied = (None,) * 3 if verbatim is None else (verbatim.prompted, verbatim.unprompted, verbatim.baseline)
    attacks = (None, None) if membership is None else (membership.loss, membership.calibrated)
    bits = trained.description.quality.bits_per_byte
    return [
        *(passes, trained.description.steps, bits.get("small", bits.get("core"))),
        *(by_times.get(times, "-") for times in _TIMES),
        *("-" if share is None else f"{share:.2%}" for share in copied),
        *("-" if one is None else f"{one.advantage:.2f} ± {one.advantage_error:.2f}" for one in attacks),
        "-" if verdict is None else verdict.level,
    ]
