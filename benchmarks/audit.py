"""How much does a model give away after longer and longer training? Prints a table in Markdown.

Trains on a corpus with canaries, once for each number of passes, the last weights kept however little they help, and
audits what came out, all in a registry of its own.
Example, about ten minutes on two cores: python -m benchmarks audit CORPUS --passes 2 10 50
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lib.tables import machine, table
from ssdcli.evaluation.audit.audit import AuditSettings, audit
from ssdcli.evaluation.audit.findings import Audit
from ssdcli.registry.store import Registry
from ssdcli.training.job import Trained, train_small
from ssdcli.training.settings import TrainSettings

_ENOUGH = 600.0  # minutes that the passes never take


def main() -> None:
    """One row for each number of passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="text, best in many documents, of which some are held out")
    parser.add_argument("--passes", nargs="+", type=float, default=[2.0, 10.0, 50.0], help="over the text")
    parser.add_argument("--audit-minutes", type=float, default=1.0)
    parser.add_argument("--for", dest="core", default="starter")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--heldout", type=float, default=0.2)
    parser.add_argument("--canaries", type=int, default=16)
    arguments = parser.parse_args()
    rows = []
    with TemporaryDirectory() as home:
        registry = Registry(Path(home))
        for passes in arguments.passes:
            trained, found = _measure(arguments, passes, registry)
            rows.append(_row(passes, trained, found))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}:")
    print(f"`{' '.join(sys.argv)}`\n")
    print(table(_HEADER, rows))


_HEADER = [
    "passes",
    "steps",
    "held-out bits per byte",
    *[f"exposure, planted {times}x" for times in (1, 2, 4, 8)],
    "copied after a beginning",
    "copied after nothing",
    "held-out text's own share",
    "membership advantage",
    "beside the core",
    "level",
]


def _measure(arguments: argparse.Namespace, passes: float, registry: Registry) -> tuple[Trained, Audit]:
    settings = TrainSettings(
        data=tuple(arguments.data),
        core=arguments.core,
        name="audited",
        size=arguments.size,
        minutes=_ENOUGH,
        passes=passes,
        patience=0,
        heldout=arguments.heldout,
        canaries=arguments.canaries,
    )
    trained = train_small(settings, overwrite=True, registry=registry)
    return trained, audit("audited", arguments.data, AuditSettings(arguments.audit_minutes), registry=registry)


def _row(passes: float, trained: Trained, found: Audit) -> list[object]:
    by_times = {} if found.exposure is None else found.exposure.by_times()
    verbatim, membership, verdict = found.verbatim, found.membership, found.verdict()
    attacks = (None, None) if membership is None else (membership.loss, membership.calibrated)
    bits = trained.description.quality.bits_per_byte
    return [
        passes,
        trained.description.steps,
        bits.get("small", bits.get("core")),
        *[by_times.get(times, "-") for times in (1, 2, 4, 8)],
        *[_percent(None if verbatim is None else getattr(verbatim, side)) for side in _SIDES],
        *["-" if one is None else f"{one.advantage:.2f} ± {one.advantage_error:.2f}" for one in attacks],
        "-" if verdict is None else verdict.level,
    ]


_SIDES = ("prompted", "unprompted", "baseline")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


if __name__ == "__main__":
    main()
