"""The parts of a picture: axes with ticks, lines with bands around them, marks and texts, as SVG."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ssdcli.data.documents import printable

Point = tuple[float, float]

_WIDTH, HEIGHT = 720, 400
_LEFT, _TOP, _BOTTOM = 72, 84, 338
RIGHT = 688
_LABEL_HEIGHT = 22
_CHARACTER = 12.4  # pixels of a bold one in the size for narrow screens
_TITLE_CHARACTERS, _NAME_CHARACTERS = 54, 16
_DOTS_UP_TO = 30  # more points than these are close enough to be read as a line
_TICKS_UP_TO = 9  # of doublings; where there are more, every second is written

_FACTORS = (1, 2, 4, 5, 10, 20)  # at most doubling, so that one of them gives 4 to 6 ticks
_ROUNDING = 1e-9
LEAST_SPREAD = 0.01  # an axis spans at least this share of its values: no difference looks larger than it is
_ROOM_FOR_MARK = 0.15  # of the spread, below the lowest value

_STYLES = ("first", "second", "third")


@dataclass(frozen=True)
class Axis:
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
        """Where the ticks are."""
        first = math.ceil(self.low / self.step - _ROUNDING)
        last = math.floor(self.high / self.step + _ROUNDING)
        return [i * self.step for i in range(first, last + 1)]

    def label(self, value: float) -> str:
        """Format a value with as many decimals as the ticks need."""
        decimals = max(0, -math.floor(math.log10(self.step) + _ROUNDING))
        return f"{value:,.{decimals}f}"

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


class Doublings(Axis):
    """An axis of exponents, labelled with powers of two."""

    def label(self, value: float) -> str:
        """Format the power of two."""
        return f"{2**value:,.0f}"


def doublings(title: str, low: int, high: int) -> Doublings:
    """Make an axis from 2^low to 2^high, of at least one doubling."""
    high = max(high, low + 1)
    return Doublings(title, low, high, 1 if high - low <= _TICKS_UP_TO else 2)


def axis_from(title: str, low: float, high: float) -> Axis:
    """Make an axis of 4 to 6 ticks that begins at the last tick below `low` and ends at `high`."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 6))
    for step in (factor * unit for factor in _FACTORS):
        start = math.floor(low / step + _ROUNDING) * step
        if (high - start) / step + _ROUNDING < 6:
            break
    return Axis(title, start, high, step)


def axis_around(title: str, values: Sequence[float], *, marked: bool) -> Axis:
    """Make an axis with all values well inside, and room for a mark below them."""
    low, high = min(values), max(values)
    low -= _ROOM_FOR_MARK * (high - low) * marked
    spread = max(high - low, LEAST_SPREAD * max(abs(low), abs(high), 1.0))
    middle = (low + high) / 2
    return axis_from(title, middle - 0.5 * spread, middle + 0.54 * spread)


@dataclass(frozen=True)
class Line:
    """Points to connect.

    label: shown at their end, or empty.
    points: from left to right.
    style: a class of the style sheet.
    margins: half the heights of a band around the points, or none.
    """

    label: str
    points: list[Point]
    style: str
    margins: tuple[float, ...] = ()

    @property
    def band(self) -> list[Point]:
        """The outline of the band: its upper edge from left to right, then its lower edge back."""
        edges = list(zip(self.points, self.margins, strict=bool(self.margins)))
        return [*((x, y + m) for (x, y), m in edges), *((x, y - m) for (x, y), m in reversed(edges))]

    @property
    def values(self) -> list[float]:
        """The heights of all that is drawn."""
        return [y for _, y in [*self.points, *self.band]]


def styled_lines(lines: Mapping[str, list[Point]], *, valued: bool = True) -> list[Line]:
    """Make lines of different styles, labelled with their names and last values; those without points are left out."""
    styled = zip(lines.items(), _STYLES, strict=False)
    return [
        Line(_cut(name, _NAME_CHARACTERS) + f" {points[-1][1]:.3f}" * valued, points, style)
        for (name, points), style in styled
        if points
    ]


def right_of(lines: Sequence[Line]) -> int:
    """Where a horizontal axis ends so that there is room for the labels of lines, in the largest type."""
    longest = max((len(line.label) for line in lines), default=0)
    return min(RIGHT, _WIDTH - 24 - round(_CHARACTER * longest))


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


@dataclass(frozen=True)
class Mark:
    """A point to draw a ring around.

    point: where it is.
    text: shown below it, or empty.
    style: a class of the style sheet.
    above: whether the text is shown above it.
    """

    point: Point
    text: str
    style: str
    above: bool = False


@dataclass(frozen=True)
class Frame:
    """Two axes in a picture.

    title: the picture's.
    x: the horizontal axis.
    y: the vertical axis.
    right: where the horizontal one ends, in pixels.
    """

    title: str
    x: Axis
    y: Axis
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


def draw(frame: Frame, lines: Sequence[Line], marks: Sequence[Mark]) -> ET.Element:
    """Draw axes, lines with their labels, and marks."""
    root = frame.picture()
    for line, label_at in zip(lines, _label_heights(frame, lines), strict=True):
        _draw_line(root, frame, line, label_at)
    for mark in marks:
        _draw_mark(root, frame, mark)
    return root


def _label_heights(frame: Frame, lines: Sequence[Line]) -> list[float]:
    """Place the labels at the ends of their lines, moved up until none covers another."""
    ends = [frame.at(line.points[-1])[1] for line in lines]
    heights, limit = ends.copy(), math.inf
    for i in sorted(range(len(ends)), key=lambda i: -ends[i]):
        heights[i] = min(ends[i], limit)
        limit = heights[i] - _LABEL_HEIGHT
    return heights


def _draw_line(root: ET.Element, frame: Frame, line: Line, label_at: float) -> None:
    group = ET.SubElement(root, "g", {"class": line.style})
    places = [frame.at(point) for point in line.points]
    if line.band:
        ET.SubElement(group, "polygon", {"class": "band", "points": _path([frame.at(point) for point in line.band])})
    ET.SubElement(group, "polyline", {"class": "line", "points": _path(places)})
    for place in places if len(places) <= _DOTS_UP_TO else places[-1:]:
        _circle(group, "dot", place, 3)
    if line.label:
        _text(group, line.label, (frame.right + 12, label_at + 4), "label", "start")


def _path(places: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _draw_mark(root: ET.Element, frame: Frame, mark: Mark) -> None:
    group = ET.SubElement(root, "g", {"class": mark.style})
    x, y = frame.at(mark.point)
    _circle(group, "ring", (x, y), 6)
    if mark.text:
        share = frame.x.share(mark.point[0])
        anchor = "start" if share < 0.15 else "end" if share > 0.85 else "middle"
        if mark.above and share < 0.6:  # curves of losses fall, so that there is room to the right
            anchor = "start"
        _text(group, mark.text, (x, y - 14 if mark.above else y + 24), "label", anchor)


def sentence_alone(title: str, sentence: str) -> ET.Element:
    """Draw a sentence in place of a chart."""
    root = _picture(title)
    _text(root, sentence, (_WIDTH / 2, HEIGHT / 2), "quiet", "middle")
    return root


def _picture(title: str) -> ET.Element:
    """Make an empty picture with its background and its title."""
    title = " ".join(printable(word) for word in title.split())
    root = empty_picture(title, HEIGHT)
    ET.SubElement(root, "rect", {"class": "paper", "rx": "8", "width": str(_WIDTH), "height": str(HEIGHT)})
    _text(root, _cut(title, _TITLE_CHARACTERS), (24, 36), "title", "start")
    return root


def empty_picture(title: str, height: int) -> ET.Element:
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


def finite(points: Iterable[Point]) -> list[Point]:
    """The points that are finite; no axis has a place for others."""
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
