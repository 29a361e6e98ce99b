"""`ssd eval`: how well a core, small models and their ensembles predict held-out text."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.flags import Recipe, resolve, with_flags
from ssdcli.cli.inputs import ModelFlags, read_context
from ssdcli.engine import catalogue
from ssdcli.errors import SsdError, UsageError, on_out_of_memory
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.measurement import (
    ENSEMBLE,
    Estimate,
    Evaluation,
    Figures,
    SweepResult,
    by_weight,
)
from ssdcli.generation.parts import CONTEXT, OF_MEMORY, read_members
from ssdcli.generation.schedule_parser import named
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.machine.environment import import_torch
from ssdcli.machine.units import counted
from ssdcli.options.declare import group
from ssdcli.registry.disk import write_atomic
from ssdcli.registry.manifest import CODE_LENGTH, MEMORY
from ssdcli.registry.recipes import find_recipe
from ssdcli.registry.store import Registry

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from rich.table import Table


@dataclass(frozen=True)
class _EvalFlags:
    """The settings of `ssd eval`.

    models: what is measured.
    measuring: how it is measured.
    """

    models: ModelFlags = group(ModelFlags())
    measuring: EvalSettings = group(EvalSettings())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(with_flags(_EvalFlags, evaluate))


def evaluate(
    flags: Mapping[str, object],
    data: Annotated[
        list[str] | None,
        typer.Argument(help="Files and folders of text that no member was trained on; - is standard input."),
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Store the first small model's best weight, by the first rule and schedule that are measured, and a "
            "gate in its manifest.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg",
            help="Draw bits per byte against the weight and the noise level, and how often what is written is right.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    recipe: Recipe = None,
) -> None:
    """Measure how well a core, small models and their ensembles predict held-out text, at every weight.

    Intervals are 95% confidence intervals, with documents as the independent draws.
    """
    given: _EvalFlags = resolve(_EvalFlags, flags, None if recipe is None else find_recipe(recipe))
    core, small = given.models.core, read_members(given.models.members)
    settings = replace(given.measuring, context=read_context(given.models.context))
    spec = choose(core, small, context=bool(settings.context))  # a typo is answered before torch is imported
    _check(spec, data or [], plot, save=save)
    import_torch()
    with on_out_of_memory("Use smaller models, or a --dtype with fewer bits."), console.progress() as on_progress:
        from ssdcli.evaluation.evaluate import evaluate as run

        found = run(data or (), core, small, settings, on_progress)
    _keep(found, plot, save=save)
    for remark in found.remarks:
        console.warn(f"{remark}.")
    if as_json:
        console.write_json(found.to_json())
    else:
        _tell(found)


def _check(spec: EnsembleSpec, data: list[str], plot: Path | None, *, save: bool) -> None:
    """Raise early the errors that would otherwise come at the end."""
    if not data:
        raise UsageError("no text is named.", "Name files or folders of held-out text, or - for standard input.")
    small = [member for member in spec.members if member.sees_context]
    if save and (not small or small[0].name.removesuffix(OF_MEMORY) == CONTEXT):
        raise UsageError("--save stores the weight of a small model, and none is named.", "Name one with --with.")
    if save and len({member.model.entry.name for member in small}) > 1:
        problem = "--save stores the weights of a core and one small model, and several are named."
        raise UsageError(problem, "Name one with --with; together they are weighed as each is alone.")
    if save and small[0].model.entry.bundled:
        raise UsageError(f"{small[0].model.entry.name!r} comes with ssd and cannot be changed.", "Omit --save.")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {str(plot.absolute().parent)!r} for the plot.", "Create it first.")


def _keep(found: Evaluation, plot: Path | None, *, save: bool) -> None:
    """Store the weight and draw the plot, if asked to."""
    if save and found.gates and found.small is not None:
        owner = found.small.removesuffix(OF_MEMORY)
        Registry().set_gates(owner, found.tuned_weight, [asdict(one.gate) for one in found.gates])
        console.note(f"Stored the weights and the gates of {owner!r}.")
    elif save:
        _check_has_weight(found)
        weight = found.tuned_weight
        if found.small is None or weight is None:
            raise UsageError(
                "no weight was swept, so there is none to store.", "Omit --save, or the file of --schedule."
            )
        gate = found.fitted
        Registry().set_weight(found.small, weight, None if gate is None else asdict(gate))
        console.note(f"Stored the weight {weight:g}{' and the gate' * (gate is not None)} of {found.small!r}.")
    if plot is not None:
        try:
            write_atomic(plot.absolute(), _svg(found))
        except OSError as error:
            raise SsdError(f"the plot cannot be written ({error.strerror}).", "Name another file.") from error


def _check_has_weight(found: Evaluation) -> None:
    """Raise UsageError for a memory that no gate was fitted to: it has no other weight."""
    first = found.small or ""
    if first.endswith(OF_MEMORY) or (first and Registry().find(first).manifest.kind == MEMORY):
        problem = f"no gate was fitted for {first!r}: too little of this text is new to it, or was measured."
        raise UsageError(problem, "Name more text that it does not hold, or omit --save.")


def _svg(found: Evaluation) -> str:
    """Draw bits per byte: for each schedule over the weight, and for the members over the noise level."""
    from ssdcli.reports.charts import reliability, stacked, to_svg, weight_sweeps

    title = " with ".join(name for name in (found.core, found.small) if name is not None)
    ensembles = [swept for swept in found.ensembles if swept.over_weights]
    schedules = dict.fromkeys(swept.schedule for swept in ensembles)
    bits = f"bits per byte, {found.measure}"
    pictures = [
        weight_sweeps(
            {swept.rule: _points(swept, found) for swept in ensembles if swept.schedule == schedule},
            f"{title}, {schedule} weights",
            found.small or "",
            bits,
        )
        for schedule in schedules
    ]
    if found.measure != CODE_LENGTH:
        pictures.append(_levels(found, f"{title}, by noise level", bits))
    shown = [one for one in found.calibration if one.name in (found.core, found.small, ENSEMBLE)]
    for unit in dict.fromkeys(one.unit for one in shown):
        lines = {one.name: [(sure, right) for sure, right, _ in one.bins] for one in shown if one.unit == unit}
        pictures.append(reliability(lines, f"{title}: calibration by {unit}"))
    return to_svg(stacked(pictures or [weight_sweeps({}, title)], title))


def _points(swept: SweepResult, found: Evaluation) -> list[tuple[float, float]]:
    """An ensemble's points; at constant weights, 0 is the core alone if there is no other member."""
    members = [member for member in found.members if member.role != "base"]
    declared = None if swept.schedule is None else named(swept.schedule)
    steady = declared is not None and declared.varies is None
    ends_alone = steady and len(members) == 2 and members[0].name == found.core
    alone = [(0.0, members[0].figures.bits.value)] * ends_alone
    return [*alone, *((point.weight or 0.0, point.figures.bits.value) for point in swept.points)]


def _levels(found: Evaluation, title: str, unit: str) -> Element:
    """Draw the core, the first small model and their best ensemble over the noise level."""
    from ssdcli.reports.charts import level_losses

    shown = {one.name: one.figures for one in found.members if one.name in (found.core, found.small)}
    lines = shown if found.best is None else shown | {"ensemble": found.best.best.figures}
    bits = {who: [one.value for one in figures.by_level] for who, figures in lines.items()}
    margins = {who: [one.margin for one in figures.by_level] for who, figures in lines.items()}
    return level_losses(bits, title, margins, unit)


def _tell(found: Evaluation) -> None:
    """Write the figures as tables, and what they mean as sentences."""
    from ssdcli.reports.overview import explained

    _write_table(_members(found))
    if found.ensembles:
        _write_table(_sweep(found))
        _write_table(_ensembles(found))
    if found.gates:
        _write_table(_gates(found))
    if found.generated:
        _write_table(_texts(found))
    if found.calibration:
        _write_table(_calibration(found))
    if found.cloze:
        _write_table(_words(found))
    size = f"{counted(found.documents, 'document')}, {found.tokens:,} tokens, {found.bytes:,} bytes"
    meaning = f"{found.process} process; bits per byte are of the {explained(found.measure)}"
    single = "Intervals and gains need two documents; what is best for one need not be for others"
    intervals = "Intervals are 95% confidence intervals" if found.documents > 1 else single
    console.write(f"{size}, {meaning}. {intervals}.")
    best, fitted = found.best, found.best_gate
    if best is not None and fitted is not None and fitted.gated.value < best.best.figures.bits.value:
        saved = found.better.figures.bits.value - fitted.gated.value
        figures = f"{_interval(fitted.gated)} bits per byte on documents that did not choose it"
        members = " + ".join(fitted.gate.members)
        console.write(f"best: the gate of {members}, {figures}: {saved:.4f} fewer than {found.better.name}.")
    elif best is not None and found.gain is not None:
        weight = "" if best.best.weight is None else f" at weight {best.best.weight:g}"
        gain = f"gain, on documents that did not choose it: {_interval(found.gain, '+')} bits per byte"
        told = f"; {gain} over {found.better.name}" if found.documents > 1 else " on this document"
        console.write(f"best: {best.name}{weight}{told}.")


def _members(found: Evaluation) -> Table:
    table = _table("MODEL", "ROLE", "BITS PER BYTE", "NATS PER TOKEN")
    for member in found.members:
        table.add_row(member.name, member.role, *_figures(member.figures))
    return table


def _sweep(found: Evaluation) -> Table:
    """A table of every ensemble's bits per byte at each weight, the lowest of each in bold."""
    ensembles = [swept for swept in found.ensembles if swept.over_weights]
    table = _table(f"WEIGHT OF {found.small}", *(swept.name.upper() for swept in ensembles))
    for weight, points in by_weight(ensembles).items():
        bold = ["bold" if point is swept.best else "" for point, swept in zip(points, ensembles, strict=True)]
        cells = ["" if point is None else f"{point.figures.bits.value:.4f}" for point in points]
        table.add_row(f"{weight:g}", *(f"[{s}]{cell}[/]" if s else cell for s, cell in zip(bold, cells, strict=True)))
    return table


def _ensembles(found: Evaluation) -> Table:
    table = _table("ENSEMBLE", "BEST WEIGHT", "BITS PER BYTE", "NATS PER TOKEN", f"GAIN OVER {found.better.name}")
    for swept in found.ensembles:
        table.add_row(swept.name, _best_weight(swept), *_figures(swept.best.figures), _interval(swept.gain, "+"))
    return table


def _gates(found: Evaluation) -> Table:
    """A table of the sets of members whose probabilities were averaged, at weights that other documents chose."""
    table = _table("AVERAGE OF", "WEIGHTS", "CONSTANT WEIGHTS", "GATE", "ORACLE", "DEFAULT")
    for one in found.gates:
        members, weights = " + ".join(one.gate.members), " ".join(f"{weight:.2f}" for weight in one.gate.weights)
        bits = (_interval(estimate) for estimate in (one.constant, one.gated, one.oracle))
        table.add_row(members, weights, *bits, "gate" if one.gate.is_default else "constant weights")
    return table


def _best_weight(swept: SweepResult) -> str:
    if swept.best.weight is not None:
        return f"{swept.best.weight:g}"
    needs = catalogue.rule(swept.rule).needs
    return "by the gate" if "gate" in needs else "by the text" if "several" in needs else "by the file"


def _texts(found: Evaluation) -> Table:
    metrics = found.generated[0].values
    table = _table("TEXTS", *(name.replace("_", "-").upper() for name in metrics))
    for texts in found.generated:
        values = ("-" if value is None else f"{value:.3f}" for value in texts.values.values())
        table.add_row(f"{texts.count} x {texts.name}", *values)
    return table


def _calibration(found: Evaluation) -> Table:
    """A table of how sure authors are of what they write, beside how often it is right."""
    table = _table("WRITTEN BY", "UNIT", "ITEMS", "RIGHT", "CONFIDENCE", "CALIBRATION ERROR", "OF ITS PROBABILITY")
    for one in found.calibration:
        fitted = one.plain if one.fitted is None else one.fitted
        shares = f"{one.right:.3f}", f"{one.confidence:.3f}"
        table.add_row(one.name, one.unit, f"{one.count:,}", *shares, _interval(fitted), _interval(one.plain))
    return table


def _words(found: Evaluation) -> Table:
    """A table of how the next words of authors agree with those that the text gives."""
    table = _table("NEXT WORDS OF", "PLACES", "DIVERGENCE IN NATS", "CORRELATION", "TOP WORD")
    for one in found.cloze:
        agrees = _interval(one.divergence), f"{one.correlation:.3f}", _interval(one.top)
        table.add_row(one.name, f"{one.places:,}", *agrees)
    return table


def _figures(figures: Figures) -> tuple[str, str]:
    return _interval(figures.bits), _interval(figures.nats)


def _interval(estimate: Estimate, sign: str = "") -> str:
    if math.isnan(estimate.value):
        return "-"
    margin = f" ± {estimate.margin:.4f}" if math.isfinite(estimate.margin) else ""
    return f"{estimate.value:{sign}.4f}{margin}"


def _table(first: str, *others: str) -> Table:
    """A table without lines, its numbers flush right."""
    from rich.table import Table

    table = Table(first, box=None, pad_edge=False, header_style="bold")
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def _write_table(table: Table) -> None:
    """Write a table and an empty line to standard output, with bold text only on a terminal."""
    from rich.console import Console

    screen = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    with screen.capture() as drawn:
        screen.print(table)
    console.write(drawn.get())
