"""How much does a model give away after longer and longer training? Prints a table in Markdown.

Trains on a corpus with canaries, once for each budget, and audits what came out, all in a registry of its own.
Example, about ten minutes on two cores: python benchmarks/audit.py CORPUS --minutes 0.5 1.5 4
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from ssdcli.machine import prepare_machine

prepare_machine()

from timing import machine, table  # noqa: E402

from ssdcli.audit import AuditSettings, audit  # noqa: E402
from ssdcli.findings import Audit  # noqa: E402
from ssdcli.pipeline.finish import Trained  # noqa: E402
from ssdcli.pipeline.job import train_small  # noqa: E402
from ssdcli.registry.store import Registry  # noqa: E402
from ssdcli.training.settings import TrainSettings  # noqa: E402


def main() -> None:
    """One row for each budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="text, best in many documents, of which some are held out")
    parser.add_argument("--minutes", nargs="+", type=float, default=[0.5, 1.5, 4.0], help="training budgets")
    parser.add_argument("--audit-minutes", type=float, default=1.0)
    parser.add_argument("--for", dest="core", default="starter")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--heldout", type=float, default=0.2)
    parser.add_argument("--canaries", type=int, default=16)
    arguments = parser.parse_args()
    rows = []
    with TemporaryDirectory() as home:
        registry = Registry(Path(home))
        for minutes in arguments.minutes:
            trained, found = _measure(arguments, minutes, registry)
            rows.append(_row(minutes, trained, found))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}:")
    print(f"`python {' '.join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])}`\n")
    print(table(_HEADER, rows))


_HEADER = [
    "minutes",
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


def _measure(arguments: argparse.Namespace, minutes: float, registry: Registry) -> tuple[Trained, Audit]:
    settings = TrainSettings(
        data=tuple(arguments.data),
        core=arguments.core,
        name="audited",
        size=arguments.size,
        minutes=minutes,
        heldout=arguments.heldout,
        canaries=arguments.canaries,
    )
    trained = train_small(settings, overwrite=True, registry=registry)
    return trained, audit("audited", arguments.data, AuditSettings(arguments.audit_minutes), registry=registry)


def _row(minutes: float, trained: Trained, found: Audit) -> list[object]:
    by_times = {} if found.exposure is None else found.exposure.by_times()
    verbatim, membership, verdict = found.verbatim, found.membership, found.verdict()
    attacks = (None, None) if membership is None else (membership.loss, membership.calibrated)
    bits = trained.bits_per_byte()
    return [
        minutes,
        trained.steps,
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
