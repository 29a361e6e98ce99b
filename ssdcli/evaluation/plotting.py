"""A picture of a measurement: bits per byte against the weight, and against the noise level."""

from __future__ import annotations

from ssdcli.evaluation.measurement import BASE, Evaluation, SweepResult
from ssdcli.generation.schedule_parser import named
from ssdcli.reports.charts import Point, curves, stacked, to_svg, weight_sweeps

_LEVEL = "noise level (0: the text itself, 1: nothing but noise)"


def plot(found: Evaluation) -> str:
    """The text of an SVG file: a picture of each schedule over the weight, and one of the members over the level."""
    title = " with ".join(name for name in (found.core, found.small) if name is not None)
    ensembles = [swept for swept in found.ensembles if swept.over_weights]
    schedules = dict.fromkeys(swept.schedule for swept in ensembles)
    pictures = [
        weight_sweeps(
            {swept.rule: _points(swept, found) for swept in ensembles if swept.schedule == schedule},
            f"{title}, {schedule} weights: {found.measure}",
        )
        for schedule in schedules
    ]
    levels = curves(_levels(found), f"{title}: {found.measure}", (_LEVEL, "bits per byte"))
    return to_svg(stacked([*pictures, levels], title))


def _points(swept: SweepResult, found: Evaluation) -> list[Point]:
    """An ensemble's points; of constant weights, 0 is the core alone if nobody else is left."""
    members = [member for member in found.members if member.role != BASE]
    declared = named(swept.schedule)
    steady = declared is not None and declared.varies is None
    ends_alone = steady and len(members) == 2 and members[0].name == found.core
    alone = [(0.0, members[0].figures.bits.value)] * ends_alone
    return [*alone, *((point.weight or 0.0, point.figures.bits.value) for point in swept.points)]


def _levels(found: Evaluation) -> dict[str, list[Point]]:
    """The core, the first small model and their best ensemble over the levels."""
    shown = {one.name: one.figures for one in found.members if one.name in (found.core, found.small)}
    best = found.best
    lines = shown if best is None else shown | {"ensemble": best.best.figures}
    return {
        who: [((place + 0.5) / len(figures.by_level), bits) for place, bits in enumerate(figures.by_level)]
        for who, figures in lines.items()
    }
