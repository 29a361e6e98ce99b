"""Charts as SVG, for light and dark backgrounds: curves over two axes, and bars."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ssdcli.reports.drawing import (
    HEIGHT,
    RIGHT,
    Frame,
    Line,
    Mark,
    Point,
    axis_around,
    axis_from,
    doublings,
    draw,
    empty_picture,
    finite,
    right_of,
    sentence_alone,
    styled_lines,
)

STYLE = """
.ssd-chart { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
.ssd-chart:root { max-width: 100%; height: auto; }
.ssd-chart .paper { fill: #ffffff; }
.ssd-chart .title { fill: #1a1f27; font-size: 17px; font-weight: 600; }
.ssd-chart .quiet { fill: #5d6673; }
.ssd-chart .grid { stroke: #e7eaee; }
.ssd-chart .axis { stroke: #aab2bd; }
.ssd-chart .ideal { color: #aab2bd; }
.ssd-chart .first { color: #2459d3; }
.ssd-chart .second { color: #b8520a; }
.ssd-chart .third { color: #0b7a5b; }
.ssd-chart .line, .ssd-chart .ring { fill: none; stroke: currentColor; stroke-width: 2; }
.ssd-chart .band { fill: currentColor; fill-opacity: 0.15; stroke: none; }
.ssd-chart .dot, .ssd-chart .bar, .ssd-chart .label { fill: currentColor; font-weight: 600; }
.ssd-chart .label { stroke: #ffffff; stroke-width: 4px; paint-order: stroke; }
@media (max-width: 34rem) {
.ssd-chart { font-size: 18px; }
.ssd-chart .title { font-size: 20px; }
}
@media (prefers-color-scheme: dark) {
.ssd-chart .paper { fill: #12161c; }
.ssd-chart .title { fill: #eef1f5; }
.ssd-chart .quiet { fill: #a3adba; }
.ssd-chart .grid { stroke: #272e38; }
.ssd-chart .axis { stroke: #566070; }
.ssd-chart .ideal { color: #566070; }
.ssd-chart .first { color: #84aaff; }
.ssd-chart .second { color: #ffb066; }
.ssd-chart .third { color: #5fd0a8; }
.ssd-chart .label { stroke: #12161c; }
}
"""


def to_svg(picture: ET.Element) -> str:
    """A picture as the text of an SVG file, its style included."""
    style = ET.Element("style")
    style.text = STYLE
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **picture.attrib})
    title, *drawn = picture
    root.extend([title, style, *drawn])
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def loss_curve(history: Sequence[Mapping[str, float]], kept: int | None, title: str) -> ET.Element:
    """Draw the training loss and the held-out loss over the steps.

    history: points {"step", "loss", and perhaps "heldout"}, losses in nats per token.
    kept: the step whose weights were kept, if it was not the last; it is marked on the held-out curve.
    """
    training = finite((p["step"], p["loss"]) for p in history)
    heldout = finite((p["step"], p["heldout"]) for p in history if "heldout" in p)
    lines = styled_lines({"training": training, "held-out": heldout})
    if not lines:
        return sentence_alone(title, "No loss was recorded.")
    points = [*training, *heldout]
    steps = axis_from("step", 0.0, max(3.0, *(x for x, _ in points)))
    below = {p["step"] for p in history if p["loss"] < p.get("heldout", -math.inf)}  # where the training loss is
    marks = [
        Mark(p, f"kept {p[1]:.3f} at step {p[0]:,.0f}", "second", above=kept in below) for p in heldout if p[0] == kept
    ]
    nats = axis_around("nats per token", [y for _, y in points], marked=bool(marks))
    return draw(Frame(title, steps, nats, right_of(lines)), lines, marks)


def weight_sweep(weights: Sequence[float], bits_per_byte: Sequence[float], title: str) -> ET.Element:
    """Draw an ensemble's bits per byte against the small model's weight, and mark the minimum."""
    points = sorted(finite(zip(weights, bits_per_byte, strict=True)))
    if not points:
        return sentence_alone(title, "No weight was measured.")
    weight = axis_from("weight (0: the core alone, 1: the small model alone)", 0.0, 1.0)
    bits = axis_around("bits per byte", [y for _, y in points], marked=True)
    best = min(points, key=lambda point: point[1])
    mark = Mark(best, f"minimum {best[1]:.3f} at weight {best[0]:g}", "first")
    return draw(Frame(title, weight, bits, RIGHT), [Line("", points, "first")], [mark])


def weight_sweeps(
    ensembles: Mapping[str, Sequence[Point]], title: str, member: str = "", unit: str = "bits per byte"
) -> ET.Element:
    """Draw up to three ensembles' losses against the weight of a member, and mark each minimum."""
    lines = styled_lines({name: finite(points) for name, points in ensembles.items()})
    if not lines:
        return sentence_alone(title, "No weight was measured.")
    best = [min(line.points, key=lambda point: point[1]) for line in lines]
    names = [name for name, points in ensembles.items() if finite(points)]
    told = [f"{name} {bits:.3f} at {weight:.2g}" for name, (weight, bits) in zip(names, best, strict=True)]
    marks = [Mark(point, "", line.style) for point, line in zip(best, lines, strict=True)]
    lines = [replace(line, label=label) for line, label in zip(lines, told, strict=True)]
    bits = axis_around(unit, [y for line in lines for _, y in line.points], marked=False)
    weight = axis_from(f"weight of {member}", 0.0, 1.0)
    return draw(Frame(title, weight, bits, right_of(lines)), lines, marks)


def stacked(pictures: Sequence[ET.Element], title: str) -> ET.Element:
    """Put pictures one below the other."""
    root = empty_picture(title, len(pictures) * HEIGHT)
    for place, picture in enumerate(pictures):
        picture.set("y", str(place * HEIGHT))
        root.append(picture)
    return root


def level_losses(
    by_member: Mapping[str, Sequence[float]],
    title: str,
    margins: Mapping[str, Sequence[float]] | None = None,
    unit: str = "nats per token",
) -> ET.Element:
    """Draw losses over the noise level, one line for each of up to three members.

    by_member: losses in bins of levels of equal width from 0 to 1; those that are not finite are left out.
    margins: half the widths of their intervals, drawn as bands; where one is not finite, the loss is left out, too.
    """
    kept = {who: _over_levels(losses, (margins or {}).get(who)) for who, losses in by_member.items()}
    if not any(points for points, _ in kept.values()):
        return sentence_alone(title, "Too little was measured to draw losses by noise level.")
    lines = styled_lines({who: points for who, (points, _) in kept.items()})
    bands = [band for points, band in kept.values() if points]
    lines = [replace(line, margins=band) for line, band in zip(lines, bands, strict=True)]
    level = axis_from("noise level (0: the text itself, 1: nothing but noise)", 0.0, 1.0)
    values = axis_around(unit, [value for line in lines for value in line.values], marked=False)
    return draw(Frame(title, level, values, right_of(lines)), lines, [])


def _over_levels(losses: Sequence[float], margins: Sequence[float] | None) -> tuple[list[Point], tuple[float, ...]]:
    """Points in the middle of each bin, and half the heights of the band around them."""
    points = [((place + 0.5) / len(losses), loss) for place, loss in enumerate(losses)]
    if margins is None:
        return finite(points), ()
    kept = [(point, margin) for point, margin in zip(points, margins, strict=True) if math.isfinite(point[1] + margin)]
    return [point for point, _ in kept], tuple(margin for _, margin in kept)


def reliability(by_author: Mapping[str, Sequence[Point]], title: str) -> ET.Element:
    """Draw how often up to three authors are right over how sure they are, beside the line on which both agree.

    by_author: the mean confidence of each bin, and the share of it that is right.
    """
    lines = styled_lines({who: list(points) for who, points in by_author.items()}, valued=False)
    sure, right = axis_from("confidence", 0.0, 1.0), axis_from("share that is right", 0.0, 1.0)
    ideal = Line("", [(0.0, 0.0), (1.0, 1.0)], "ideal")
    return draw(Frame(title, sure, right, right_of(lines)), [ideal, *lines], [])


def length_bars(counts: Sequence[int], title: str) -> ET.Element:
    """Draw the lengths of documents as bars: counts[k] documents have from 2^k to 2^(k+1) - 1 tokens."""
    filled = [k for k, count in enumerate(counts) if count]
    if not filled:
        return sentence_alone(title, "There is no document.")
    low, high = filled[0], filled[-1] + 1
    lengths = doublings("tokens", low, high)
    frame = Frame(title, lengths, axis_from("documents", 0.0, max(3.0, *counts)), RIGHT)
    root = frame.picture()
    group = ET.SubElement(root, "g", {"class": "first"})
    for k in filled:
        (left, top), (right, bottom) = frame.at((k + 0.06, counts[k])), frame.at((k + 0.94, 0.0))
        size = {"width": f"{right - left:.1f}", "height": f"{bottom - top:.1f}"}
        ET.SubElement(group, "rect", {"class": "bar", "x": f"{left:.1f}", "y": f"{top:.1f}", **size})
    return root
