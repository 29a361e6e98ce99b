"""What is written beside a trained model: curves as SVG, its card as Markdown, metrics as JSON lines."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ssdcli.training.documents import counted
from ssdcli.training.formats import printable

Point = tuple[float, float]

_WIDTH, _HEIGHT = 720, 400
_LEFT, _TOP, _BOTTOM = 64, 84, 338
_RIGHT, _RIGHT_WITH_LABELS = 688, 584
_LABEL_HEIGHT = 18
_TITLE_CHARACTERS = 72
_DOTS_UP_TO = 30  # more points than these are close enough to be read as a line

_FACTORS = (1, 2, 4, 5, 10, 20)  # at most doubling, so that one of them gives 4 to 6 ticks
_ROUNDING = 1e-9
_LEAST_SPREAD = 0.01  # an axis spans at least this share of its values: no difference looks larger than it is

_STYLE = """
.ssd-chart { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
.ssd-chart .paper { fill: #ffffff; }
.ssd-chart .title { fill: #1a1f27; font-size: 17px; font-weight: 600; }
.ssd-chart .quiet { fill: #5d6673; }
.ssd-chart .grid { stroke: #e7eaee; }
.ssd-chart .axis { stroke: #aab2bd; }
.ssd-chart .first { color: #2459d3; }
.ssd-chart .second { color: #b8520a; }
.ssd-chart .line, .ssd-chart .ring { fill: none; stroke: currentColor; stroke-width: 2; }
.ssd-chart .dot, .ssd-chart .label { fill: currentColor; font-weight: 600; }
@media (prefers-color-scheme: dark) {
.ssd-chart .paper { fill: #12161c; }
.ssd-chart .title { fill: #eef1f5; }
.ssd-chart .quiet { fill: #a3adba; }
.ssd-chart .grid { stroke: #272e38; }
.ssd-chart .axis { stroke: #566070; }
.ssd-chart .first { color: #84aaff; }
.ssd-chart .second { color: #ffb066; }
}
"""
_LIMITS = """\
- Its weights carry what it was trained on: share it as you would share the text.
- It can repeat passages of that text, and what it writes can be fluent and wrong.
- It works only with models of the same tokenizer and the same noise process."""


def metrics_lines(history: Sequence[Mapping[str, float]]) -> str:
    """One JSON object a line for each point of the history; null where a value is not finite."""
    points = ({name: value if math.isfinite(value) else None for name, value in p.items()} for p in history)
    return "".join(json.dumps(point) + "\n" for point in points)


def loss_curve_svg(history: Sequence[Mapping[str, float]], title: str) -> str:
    """A picture of the training loss and the held-out loss over the steps.

    history: points {"step", "loss", and perhaps "heldout"}, losses in nats per token.
    """
    training = _finite((p["step"], p["loss"]) for p in history)
    heldout = _finite((p["step"], p["heldout"]) for p in history if "heldout" in p)
    lines = [_Line("training", training, "first"), _Line("held-out", heldout, "second")]
    points = [*training, *heldout]
    if not points:
        return _sentence_svg(title, "No loss was recorded.")
    steps = _axis("step", 0.0, max(3.0, *(x for x, _ in points)))
    nats = _axis_around("nats per token", [y for _, y in points])
    return _Chart(title, steps, nats, [line for line in lines if line.points]).svg()


def sweep_svg(weights: Sequence[float], bits_per_byte: Sequence[float], title: str) -> str:
    """A picture of an ensemble's bits per byte over the small model's weight, its minimum marked."""
    points = sorted(_finite(zip(weights, bits_per_byte, strict=True)))
    if not points:
        return _sentence_svg(title, "No weight was measured.")
    lowest, highest = min(y for _, y in points), max(y for _, y in points)
    room_for_mark = lowest - 0.15 * (highest - lowest)
    weight = _axis("weight of the small model (0: the core alone, 1: the small model alone)", 0.0, 1.0)
    bits = _axis_around("bits per byte", [room_for_mark, highest])
    best = min(points, key=lambda point: point[1])
    return _Chart(title, weight, bits, [_Line("", points, "first")], best).svg()


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card says; nothing in it comes out of the text that the model was trained on.

    kind: "core" or "small". parameters: count; body_parameters: those beyond the embeddings.
    block_size, context, train_tokens (the training split), trained_tokens (seen in training): tokens.
    data_lines: sentences of a ReadReport. heldout: losses by the words that name them.
    command: what was typed. license: an identifier such as "apache-2.0", if it is known.
    """

    name: str
    kind: str
    size: str | None = None
    parameters: int
    body_parameters: int
    process: str
    constants: Mapping[str, float]
    block_size: int
    context: int
    vocabulary: int
    core: str | None = None
    weight: float | None = None
    data_lines: Sequence[str]
    data_fingerprint: str
    train_tokens: int
    trained_tokens: int
    steps: int
    seconds: float
    device: str
    heldout: Mapping[str, float]
    command: str
    license: str | None = None


def model_card(facts: CardFacts) -> str:
    """The Markdown model card, with front matter in the form of the Hugging Face hub."""
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        _identity(facts),
        "## Use",
        _use(facts),
        "## How it was made",
        _fenced(facts.command),
        _table(("what", "value"), _makings(facts)),
        "What it was trained on:",
        "\n".join(f"- {_plain(_without_place(line))}" for line in facts.data_lines),
        "## How well it predicts",
        _quality(facts.heldout),
        "## Limits and privacy",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: CardFacts) -> str:
    licenses = [] if facts.license is None else [f"license: {json.dumps(facts.license)}"]
    return "\n".join(["---", *licenses, "library_name: ssd", "tags: [diffusion, ssd]", "---"])


def _identity(facts: CardFacts) -> str:
    if facts.kind == "core":
        return (
            f"`{facts.name}` is a core: a general diffusion language model that writes text by denoising "
            f"blocks of {counted(facts.block_size, 'token')}. Small models that were trained for it on "
            "someone's own text join in at every denoising step."
        )
    company = "a large general model" if facts.core is None else f"the core `{facts.core}`"
    return (
        f"`{facts.name}` is a small diffusion language model that was trained on its owner's text. "
        f"It writes together with {company}: at every denoising step both predict the same tokens, and "
        "`ssd` combines what they say."
    )


def _use(facts: CardFacts) -> str:
    if facts.kind == "core":
        return _fenced(f'ssd generate --core {facts.name} "Dear reader,"')
    advice = f"No weight was tuned for it; `--with {facts.name}=W` sets one."
    if facts.weight is not None:
        advice = f"Its tuned weight is {facts.weight:g}; `--with {facts.name}=W` sets another one."
    return _fenced(f'ssd generate "Dear reader," --with {facts.name}') + "\n\n" + advice


def _makings(facts: CardFacts) -> list[tuple[str, str]]:
    constants = ", ".join(f"{name} = {value:.12g}" for name, value in facts.constants.items())
    passes = f", {facts.trained_tokens / facts.train_tokens:.1f} passes" if facts.train_tokens else ""
    rows = [
        ("size", facts.size or ""),
        ("made for", facts.core or ""),
        ("parameters", f"{facts.parameters:,}, of which {facts.body_parameters:,} beyond the embeddings"),
        ("noise process", f"{facts.process} ({constants})" if constants else facts.process),
        ("block", counted(facts.block_size, "token")),
        ("context", counted(facts.context, "token")),
        ("vocabulary", counted(facts.vocabulary, "token")),
        ("training split", counted(facts.train_tokens, "token")),
        ("seen in training", f"{counted(facts.trained_tokens, 'token')}{passes}"),
        ("steps", f"{facts.steps:,}"),
        ("time", f"{_duration(facts.seconds)} on {facts.device}"),
        ("data fingerprint", facts.data_fingerprint),
    ]
    return [row for row in rows if row[1]]


def _quality(heldout: Mapping[str, float]) -> str:
    if not heldout:
        return "Nothing was measured."
    table = _table(("measure", "value"), [(name, f"{value:.3f}") for name, value in heldout.items()])
    return "On text that was held out of the training; lower is better.\n\n" + table


def _table(header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    cells = [header, *((_plain(name), _plain(value)) for name, value in rows)]
    first, *others = (f"| {name} | {value} |" for name, value in cells)
    return "\n".join([first, "| --- | --- |", *others])


def _fenced(command: str) -> str:
    """A block of code whose fence no backticks in the command can close."""
    longest = max(map(len, re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = (printable(line) for line in command.splitlines())
    return "\n".join([f"{fence}sh", *lines, fence])


def _without_place(line: str) -> str:
    """A report's sentence without its example, since the names of files and fields belong to the data."""
    return line.partition(" (first: ")[0]


def _plain(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable(" ".join(text.split())))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class _Axis:
    """A range of values and the distance between its ticks, which lie at multiples of it."""

    title: str
    low: float
    high: float
    step: float

    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step - _ROUNDING)
        last = math.floor(self.high / self.step + _ROUNDING)
        return [i * self.step for i in range(first, last + 1)]

    def label(self, value: float) -> str:
        """A value with as many decimals as the ticks need."""
        decimals = max(0, -math.floor(math.log10(self.step) + _ROUNDING))
        return f"{value:,.{decimals}f}"

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def _axis(title: str, low: float, high: float) -> _Axis:
    """An axis of 4 to 6 ticks that begins on the last tick below `low` and ends at `high`."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 6))
    for step in (factor * unit for factor in _FACTORS):
        start = math.floor(low / step + _ROUNDING) * step
        if (high - start) / step + _ROUNDING < 6:
            break
    return _Axis(title, start, high, step)


def _axis_around(title: str, values: Sequence[float]) -> _Axis:
    """An axis with all the values well inside."""
    low, high = min(values), max(values)
    spread = max(high - low, _LEAST_SPREAD * max(abs(low), abs(high), 1.0))
    middle = (low + high) / 2
    return _axis(title, middle - 0.5 * spread, middle + 0.54 * spread)


@dataclass(frozen=True)
class _Line:
    """Points to connect, a name to write at their end (or none), and a class of the style sheet."""

    name: str
    points: list[Point]
    style: str


@dataclass(frozen=True)
class _Chart:
    """Lines over two axes, and perhaps one point of the first line marked as the minimum."""

    title: str
    x: _Axis
    y: _Axis
    lines: list[_Line]
    minimum: Point | None = None

    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        root = _picture(self.title)
        self._draw_axes(root)
        labels = self._label_heights()
        for line, label_at in zip(self.lines, labels, strict=True):
            self._draw_line(root, line, label_at)
        if self.minimum is not None:
            self._draw_minimum(root, self.minimum)
        return _markup(root)

    @property
    def _right(self) -> int:
        return _RIGHT_WITH_LABELS if any(line.name for line in self.lines) else _RIGHT

    def _at(self, point: Point) -> Point:
        """Where in the picture a point lies, in pixels from the top left."""
        x, y = self.x.share(point[0]), self.y.share(point[1])
        return _LEFT + x * (self._right - _LEFT), _BOTTOM - y * (_BOTTOM - _TOP)

    def _draw_axes(self, root: ET.Element) -> None:
        for tick in self.y.ticks():
            _, y = self._at((self.x.low, tick))
            _stroke(root, "grid", (_LEFT, y), (self._right, y))
            _text(root, self.y.label(tick), (_LEFT - 12, y + 4), "quiet", "end")
        for tick in self.x.ticks():
            x, _ = self._at((tick, self.y.low))
            _stroke(root, "axis", (x, _BOTTOM), (x, _BOTTOM + 5))
            _text(root, self.x.label(tick), (x, _BOTTOM + 20), "quiet", "middle")
        _stroke(root, "axis", (_LEFT, _BOTTOM), (self._right, _BOTTOM))
        _text(root, self.y.title, (24, _TOP - 22), "quiet", "start")
        _text(root, self.x.title, ((_LEFT + self._right) / 2, _BOTTOM + 44), "quiet", "middle")

    def _label_heights(self) -> list[float]:
        """Where the lines' labels go: at their ends, pushed upwards until none covers another."""
        ends = [self._at(line.points[-1])[1] for line in self.lines]
        heights, limit = ends.copy(), math.inf
        for i in sorted(range(len(ends)), key=lambda i: -ends[i]):
            heights[i] = min(ends[i], limit)
            limit = heights[i] - _LABEL_HEIGHT
        return heights

    def _draw_line(self, root: ET.Element, line: _Line, label_at: float) -> None:
        group = ET.SubElement(root, "g", {"class": line.style})
        places = [self._at(point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        ET.SubElement(group, "polyline", {"class": "line", "points": path})
        for place in places if len(places) <= _DOTS_UP_TO else places[-1:]:
            _circle(group, "dot", place, 3)
        if line.name:
            text = f"{line.name} {line.points[-1][1]:.3f}"
            _text(group, text, (self._right + 12, label_at + 4), "label", "start")

    def _draw_minimum(self, root: ET.Element, minimum: Point) -> None:
        group = ET.SubElement(root, "g", {"class": "first"})
        x, y = self._at(minimum)
        _circle(group, "ring", (x, y), 6)
        share = self.x.share(minimum[0])
        anchor = "start" if share < 0.15 else "end" if share > 0.85 else "middle"
        text = f"minimum {minimum[1]:.3f} at weight {minimum[0]:g}"
        _text(group, text, (x, y + 24), "label", anchor)


def _sentence_svg(title: str, sentence: str) -> str:
    root = _picture(title)
    _text(root, sentence, (_WIDTH / 2, _HEIGHT / 2), "quiet", "middle")
    return _markup(root)


def _picture(title: str) -> ET.Element:
    """An empty picture with its style, its background and its title."""
    title = " ".join(printable(word) for word in title.split())
    size = {"width": str(_WIDTH), "height": str(_HEIGHT)}
    attributes = {"class": "ssd-chart", "role": "img", "viewBox": f"0 0 {_WIDTH} {_HEIGHT}"}
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, **attributes})
    ET.SubElement(root, "title").text = title
    ET.SubElement(root, "style").text = _STYLE
    ET.SubElement(root, "rect", {"class": "paper", "rx": "8", **size})
    shown = title if len(title) <= _TITLE_CHARACTERS else title[: _TITLE_CHARACTERS - 1] + "…"
    _text(root, shown, (24, 36), "title", "start")
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


def _markup(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _finite(points: Iterable[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
