"""Charts as SVG, for light and dark backgrounds: curves over two axes, and bars."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ssdcli.data.documents import printable

Point = tuple[float, float]

_WIDTH, _HEIGHT = 720, 400
_LEFT, _TOP, _BOTTOM = 64, 84, 338
_RIGHT, _RIGHT_WITH_LABELS = 688, 532
_LABEL_HEIGHT = 22
_TITLE_CHARACTERS = 72
_DOTS_UP_TO = 30  # more points than these are close enough to be read as a line
_TICKS_UP_TO = 9  # of doublings; where there are more, every second is written

_FACTORS = (1, 2, 4, 5, 10, 20)  # at most doubling, so that one of them gives 4 to 6 ticks
_ROUNDING = 1e-9
_LEAST_SPREAD = 0.01  # an axis spans at least this share of its values: no difference looks larger than it is
_ROOM_FOR_MARK = 0.15  # of the spread, below the lowest value

_STYLES = ("first", "second", "third")

STYLE = """
.ssd-chart { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
.ssd-chart .paper { fill: #ffffff; }
.ssd-chart .title { fill: #1a1f27; font-size: 17px; font-weight: 600; }
.ssd-chart .quiet { fill: #5d6673; }
.ssd-chart .grid { stroke: #e7eaee; }
.ssd-chart .axis { stroke: #aab2bd; }
.ssd-chart .first { color: #2459d3; }
.ssd-chart .second { color: #b8520a; }
.ssd-chart .third { color: #0b7a5b; }
.ssd-chart .line, .ssd-chart .ring { fill: none; stroke: currentColor; stroke-width: 2; }
.ssd-chart .dot, .ssd-chart .bar, .ssd-chart .label { fill: currentColor; font-weight: 600; }
@media (prefers-color-scheme: dark) {
.ssd-chart .paper { fill: #12161c; }
.ssd-chart .title { fill: #eef1f5; }
.ssd-chart .quiet { fill: #a3adba; }
.ssd-chart .grid { stroke: #272e38; }
.ssd-chart .axis { stroke: #566070; }
.ssd-chart .first { color: #84aaff; }
.ssd-chart .second { color: #ffb066; }
.ssd-chart .third { color: #5fd0a8; }
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
    kept: the step whose weights were kept where that was not the last; it is marked on the held-out curve.
    """
    training = _finite((p["step"], p["loss"]) for p in history)
    heldout = _finite((p["step"], p["heldout"]) for p in history if "heldout" in p)
    lines = _named({"training": training, "held-out": heldout})
    if not lines:
        return _sentence(title, "No loss was recorded.")
    points = [*training, *heldout]
    steps = _axis("step", 0.0, max(3.0, *(x for x, _ in points)))
    marks = [_Mark(p, f"kept {p[1]:.3f} at step {p[0]:,.0f}", "second") for p in heldout if p[0] == kept]
    nats = _axis_around("nats per token", [y for _, y in points], marked=bool(marks))
    return _curves(_Frame(title, steps, nats, _RIGHT_WITH_LABELS), lines, marks)


def weight_sweep(weights: Sequence[float], bits_per_byte: Sequence[float], title: str) -> ET.Element:
    """Draw an ensemble's bits per byte over the small model's weight, with its minimum marked."""
    points = sorted(_finite(zip(weights, bits_per_byte, strict=True)))
    if not points:
        return _sentence(title, "No weight was measured.")
    weight = _axis("weight of the small model (0: the core alone, 1: the small model alone)", 0.0, 1.0)
    bits = _axis_around("bits per byte", [y for _, y in points], marked=True)
    best = min(points, key=lambda point: point[1])
    mark = _Mark(best, f"minimum {best[1]:.3f} at weight {best[0]:g}", "first")
    return _curves(_Frame(title, weight, bits, _RIGHT), [_Line("", points, "first")], [mark])


def weight_sweeps(ensembles: Mapping[str, Sequence[Point]], title: str) -> ET.Element:
    """Draw up to three ensembles' bits per byte over the first small model's weight, with each minimum marked."""
    lines = _named({name: _finite(points) for name, points in ensembles.items()})
    if not lines:
        return _sentence(title, "No weight was measured.")
    best = [min(line.points, key=lambda point: point[1]) for line in lines]
    names = [name for name, points in ensembles.items() if _finite(points)]
    told = [f"{name} {bits:.3f} at {weight:g}" for name, (weight, bits) in zip(names, best, strict=True)]
    marks = [_Mark(point, "", line.style) for point, line in zip(best, lines, strict=True)]
    lines = [replace(line, label=label) for line, label in zip(lines, told, strict=True)]
    bits = _axis_around("bits per byte", [y for line in lines for _, y in line.points], marked=False)
    weight = _axis("weight of the first small model", 0.0, 1.0)
    return _curves(_Frame(title, weight, bits, _RIGHT_WITH_LABELS), lines, marks)


def stacked(pictures: Sequence[ET.Element], title: str) -> ET.Element:
    """Put pictures one below the other."""
    root = _empty(title, len(pictures) * _HEIGHT)
    for place, picture in enumerate(pictures):
        picture.set("y", str(place * _HEIGHT))
        root.append(picture)
    return root


def level_losses(by_member: Mapping[str, Sequence[float]], title: str) -> ET.Element:
    """Draw losses over the noise level, one line a member.

    by_member: nats per token in bands of levels of equal width from 0 to 1; those that are not finite are left out.
    """
    lines = _named({who: _finite(((i + 0.5) / len(ys), y) for i, y in enumerate(ys)) for who, ys in by_member.items()})
    if not lines:
        return _sentence(title, "No loss was measured.")
    level = _axis("noise level (0: the text itself, 1: nothing but noise)", 0.0, 1.0)
    return _lines_over(level, lines, title, "nats per token")


def curves(lines: Mapping[str, Sequence[Point]], title: str, axes: tuple[str, str]) -> ET.Element:
    """Draw up to three named lines over two named axes; points that are not finite are left out."""
    named = _named({name: _finite(points) for name, points in lines.items()})
    if not named:
        return _sentence(title, "Nothing was measured.")
    across = [x for line in named for x, _ in line.points]
    return _lines_over(_axis(axes[0], min(across), max(*across, min(across) + _LEAST_SPREAD)), named, title, axes[1])


def curves_over_doublings(lines: Mapping[str, Sequence[Point]], title: str, axes: tuple[str, str]) -> ET.Element:
    """Draw the same over a logarithmic axis labelled with powers of two; points at or below zero are left out."""
    exponents = {name: [(math.log2(x), y) for x, y in _finite(points) if x > 0] for name, points in lines.items()}
    named = _named(exponents)
    if not named:
        return _sentence(title, "Nothing was measured.")
    across = [x for line in named for x, _ in line.points]
    return _lines_over(_doublings(axes[0], math.floor(min(across)), math.ceil(max(across))), named, title, axes[1])


def _lines_over(x: _Axis, lines: Sequence[_Line], title: str, y: str) -> ET.Element:
    """Draw named lines over an axis, without marks."""
    values = _axis_around(y, [value for line in lines for _, value in line.points], marked=False)
    return _curves(_Frame(title, x, values, _RIGHT_WITH_LABELS), lines, [])


def length_bars(counts: Sequence[int], title: str) -> ET.Element:
    """Draw the lengths of documents: counts[k] of them have from 2^k to 2^(k+1) - 1 tokens."""
    filled = [k for k, count in enumerate(counts) if count]
    if not filled:
        return _sentence(title, "There is no document.")
    low, high = filled[0], filled[-1] + 1
    lengths = _doublings("tokens", low, high)
    frame = _Frame(title, lengths, _axis("documents", 0.0, max(3.0, *counts)), _RIGHT)
    root = frame.picture()
    group = ET.SubElement(root, "g", {"class": "first"})
    for k in filled:
        (left, top), (right, bottom) = frame.at((k + 0.06, counts[k])), frame.at((k + 0.94, 0.0))
        size = {"width": f"{right - left:.1f}", "height": f"{bottom - top:.1f}"}
        ET.SubElement(group, "rect", {"class": "bar", "x": f"{left:.1f}", "y": f"{top:.1f}", **size})
    return root


@dataclass(frozen=True)
class _Axis:
    """A range of values with ticks.

    title: its name and unit.
    low: where it begins.
    high: where it ends.
    step: ticks are at its multiples.
    """

    title: str
    low: float
    high: float
    step: float

    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step - _ROUNDING)
        last = math.floor(self.high / self.step + _ROUNDING)
        return [i * self.step for i in range(first, last + 1)]

    def label(self, value: float) -> str:
        """Format a value with as many decimals as the ticks need."""
        decimals = max(0, -math.floor(math.log10(self.step) + _ROUNDING))
        return f"{value:,.{decimals}f}"

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


class _Doublings(_Axis):
    """An axis of exponents, labelled with powers of two."""

    def label(self, value: float) -> str:
        """Format the power of two."""
        return f"{2**value:,.0f}"


def _doublings(title: str, low: int, high: int) -> _Doublings:
    """Make an axis from 2^low to 2^high, of at least one doubling."""
    high = max(high, low + 1)
    return _Doublings(title, low, high, 1 if high - low <= _TICKS_UP_TO else 2)


def _axis(title: str, low: float, high: float) -> _Axis:
    """Make an axis of 4 to 6 ticks that begins at the last tick below `low` and ends at `high`."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 6))
    for step in (factor * unit for factor in _FACTORS):
        start = math.floor(low / step + _ROUNDING) * step
        if (high - start) / step + _ROUNDING < 6:
            break
    return _Axis(title, start, high, step)


def _axis_around(title: str, values: Sequence[float], *, marked: bool) -> _Axis:
    """Make an axis with all values well inside, and room for a mark below them."""
    low, high = min(values), max(values)
    low -= _ROOM_FOR_MARK * (high - low) * marked
    spread = max(high - low, _LEAST_SPREAD * max(abs(low), abs(high), 1.0))
    middle = (low + high) / 2
    return _axis(title, middle - 0.5 * spread, middle + 0.54 * spread)


@dataclass(frozen=True)
class _Line:
    """Points to connect.

    label: shown at their end, or empty.
    points: from left to right.
    style: a class of the style sheet.
    """

    label: str
    points: list[Point]
    style: str


def _named(lines: Mapping[str, list[Point]]) -> list[_Line]:
    """Make lines of different styles; those without points are left out."""
    styled = zip(lines.items(), _STYLES, strict=False)
    return [_Line(f"{name} {points[-1][1]:.3f}", points, style) for (name, points), style in styled if points]


@dataclass(frozen=True)
class _Mark:
    """A point to draw a ring around.

    point: where it is.
    text: shown below it, or empty.
    style: a class of the style sheet.
    """

    point: Point
    text: str
    style: str


@dataclass(frozen=True)
class _Frame:
    """Two axes in a picture.

    title: the picture's.
    x: the horizontal axis.
    y: the vertical axis.
    right: where the horizontal one ends, in pixels.
    """

    title: str
    x: _Axis
    y: _Axis
    right: int

    def at(self, point: Point) -> Point:
        """Where a point lies in the picture, in pixels from the top left."""
        x, y = self.x.share(point[0]), self.y.share(point[1])
        return _LEFT + x * (self.right - _LEFT), _BOTTOM - y * (_BOTTOM - _TOP)

    def picture(self) -> ET.Element:
        """Draw the axes alone."""
        root = _picture(self.title)
        for tick in self.y.ticks():
            _, y = self.at((self.x.low, tick))
            _stroke(root, "grid", (_LEFT, y), (self.right, y))
            _text(root, self.y.label(tick), (_LEFT - 12, y + 4), "quiet", "end")
        for tick in self.x.ticks():
            x, _ = self.at((tick, self.y.low))
            _stroke(root, "axis", (x, _BOTTOM), (x, _BOTTOM + 5))
            _text(root, self.x.label(tick), (x, _BOTTOM + 20), "quiet", "middle")
        _stroke(root, "axis", (_LEFT, _BOTTOM), (self.right, _BOTTOM))
        _text(root, self.y.title, (24, _TOP - 22), "quiet", "start")
        _text(root, self.x.title, ((_LEFT + self.right) / 2, _BOTTOM + 44), "quiet", "middle")
        return root


def _curves(frame: _Frame, lines: Sequence[_Line], marks: Sequence[_Mark]) -> ET.Element:
    root = frame.picture()
    for line, label_at in zip(lines, _label_heights(frame, lines), strict=True):
        _draw_line(root, frame, line, label_at)
    for mark in marks:
        _draw_mark(root, frame, mark)
    return root


def _label_heights(frame: _Frame, lines: Sequence[_Line]) -> list[float]:
    """Place the lines' labels at their ends, pushed upwards until none covers another."""
    ends = [frame.at(line.points[-1])[1] for line in lines]
    heights, limit = ends.copy(), math.inf
    for i in sorted(range(len(ends)), key=lambda i: -ends[i]):
        heights[i] = min(ends[i], limit)
        limit = heights[i] - _LABEL_HEIGHT
    return heights


def _draw_line(root: ET.Element, frame: _Frame, line: _Line, label_at: float) -> None:
    group = ET.SubElement(root, "g", {"class": line.style})
    places = [frame.at(point) for point in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    ET.SubElement(group, "polyline", {"class": "line", "points": path})
    for place in places if len(places) <= _DOTS_UP_TO else places[-1:]:
        _circle(group, "dot", place, 3)
    if line.label:
        _text(group, line.label, (frame.right + 12, label_at + 4), "label", "start")


def _draw_mark(root: ET.Element, frame: _Frame, mark: _Mark) -> None:
    group = ET.SubElement(root, "g", {"class": mark.style})
    x, y = frame.at(mark.point)
    _circle(group, "ring", (x, y), 6)
    if mark.text:
        share = frame.x.share(mark.point[0])
        anchor = "start" if share < 0.15 else "end" if share > 0.85 else "middle"
        _text(group, mark.text, (x, y + 24), "label", anchor)


def _sentence(title: str, sentence: str) -> ET.Element:
    root = _picture(title)
    _text(root, sentence, (_WIDTH / 2, _HEIGHT / 2), "quiet", "middle")
    return root


def _picture(title: str) -> ET.Element:
    """Make an empty picture with its background and its title."""
    title = " ".join(printable(word) for word in title.split())
    root = _empty(title, _HEIGHT)
    ET.SubElement(root, "rect", {"class": "paper", "rx": "8", "width": str(_WIDTH), "height": str(_HEIGHT)})
    shown = title if len(title) <= _TITLE_CHARACTERS else title[: _TITLE_CHARACTERS - 1] + "…"
    _text(root, shown, (24, 36), "title", "start")
    return root


def _empty(title: str, height: int) -> ET.Element:
    """Make a picture with nothing but a title for screen readers."""
    size = {"width": str(_WIDTH), "height": str(height), "viewBox": f"0 0 {_WIDTH} {height}"}
    root = ET.Element("svg", {**size, "class": "ssd-chart", "role": "img"})
    ET.SubElement(root, "title").text = title
    return root


def _text(parent: ET.Element, text: str, place: Point, style: str, anchor: str) -> None:
    attributes = {"x": f"{place[0]:.1f}", "y": f"{place[1]:.1f}", "class": style, "text-anchor": anchor}
    ET.SubElement(parent, "text", attributes).text = text


def _stroke(parent: ET.Element, style: str, start: Point, end: Point) -> None:
    (x1, y1), (x2, y2) = start, end
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    ET.SubElement(parent, "line", {"class": style, **ends})


def _circle(parent: ET.Element, style: str, place: Point, radius: int) -> None:
    centre = {"cx": f"{place[0]:.1f}", "cy": f"{place[1]:.1f}", "r": str(radius)}
    ET.SubElement(parent, "circle", {"class": style, **centre})


def _finite(points: Iterable[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
