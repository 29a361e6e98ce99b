"""`ssd audit`: how much of its training text a model reveals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import model_names
from ssdcli.cli.flags import resolve, with_flags
from ssdcli.errors import on_out_of_memory
from ssdcli.evaluation.eval_settings import AuditSettings
from ssdcli.machine.environment import import_torch
from ssdcli.registry.store import Registry

if TYPE_CHECKING:
    from ssdcli.evaluation.audit.findings import Audit
    from ssdcli.evaluation.audit.membership import Attack

Model = Annotated[str, typer.Argument(metavar="NAME", help="The model.", autocompletion=model_names)]
Data = Annotated[
    list[str] | None,
    typer.Argument(
        help="The text that it was trained on, held-out documents included; without it only canaries are measured."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(with_flags(AuditSettings, audit))


def audit(flags: Mapping[str, object], name: Model, data: Data = None, as_json: AsJson = False) -> None:
    """Measure how much of its training text a model reveals."""
    settings: AuditSettings = resolve(AuditSettings, flags, None)
    Registry().find(name)  # a typo is answered before torch is imported
    import_torch()
    with (
        on_out_of_memory("Close other programs, or audit on a machine with more memory."),
        console.progress(name) as on_progress,
    ):
        from ssdcli.evaluation.audit.audit import audit as run

        found = run(name, data or (), settings, on_progress)
    if as_json:
        console.write_json(found.to_json())
    else:
        _tell(found)


def _tell(found: Audit) -> None:
    """Write the measures as a table, what was not measured, and the verdict."""
    rows = list(_rows(found))
    if rows:
        console.write_table([("MEASURE", "FOUND", "TO COMPARE"), *rows])
    for remark in found.remarks():
        console.write(remark)
    verdict = found.verdict()
    if verdict is not None:
        console.write(f"\n{verdict}")


def _rows(found: Audit) -> Iterator[tuple[str, str, str]]:
    if found.exposure is not None:
        most = f"never seen: 1.4, at most {found.exposure.most:.1f}"
        for times, bits in found.exposure.by_times().items():
            yield f"exposure of canaries planted {'once' if times == 1 else f'{times} times'}", f"{bits:.1f} bits", most
    if found.verbatim is not None:
        baseline = f"held-out text: {_percent(found.verbatim.baseline)}"
        yield "copied, after a document's beginning", _percent(found.verbatim.prompted), baseline
        yield "copied, after nothing", _percent(found.verbatim.unprompted), baseline
    if found.membership is not None:
        yield from _attack_rows("by its loss", found.membership.loss)
        if found.membership.calibrated is not None:
            yield from _attack_rows("by its loss beside the core's", found.membership.calibrated)


def _attack_rows(how: str, attack: Attack) -> Iterator[tuple[str, str, str]]:
    guessing = "guessing: 0"
    yield f"membership advantage {how}", f"{attack.advantage:.2f} ± {attack.advantage_error:.2f}", guessing
    yield f"membership AUC {how}", f"{attack.auc:.2f} ± {attack.auc_error:.2f}", "guessing: 0.5"
    if attack.caught is not None:
        yield f"found {how} at 1% false alarms", _percent(attack.caught), "guessing: 1%"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
