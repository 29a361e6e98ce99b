"""The report of a training: one HTML file that stays beside the model, with pictures, tables and samples."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from ssdcli.data.documents import counted, short_number
from ssdcli.data.token_store import SideInfo
from ssdcli.reports.charts import length_bars, level_losses, loss_curve, weight_sweep
from ssdcli.reports.description import Facts, Quality, Sample, duration, number
from ssdcli.reports.page import figure, node, page, paragraph, section, table

_PRIVATE = (
    "This page shows your own text and the names of your files. It stays beside the model on this machine: "
    "'ssd models export' leaves it out."
)
_BARS = "Both parts together; a bar begins at twice the length that the one before it begins at."
_NO_SAMPLE = "No text was written: there was no time left for it, or no held-out document that is long enough."


def report(facts: Facts) -> str:
    """The text of `report.html`; it needs nothing but itself, and the user's text is shown as it is."""
    return page(
        f"{facts.name}: training report",
        node("header", {}, node("h1", {}, facts.name), paragraph(_summary(facts)), _key_figures(facts)),
        section("Loss during training", *_curve(facts)),
        *_weight(facts),
        section("Loss by noise level", *_levels(facts.quality)),
        section("Samples", *_samples(facts)),
        section("The text", *_data(facts)),
        section("What was skipped", *_skipped(facts.data_lines)),
        section("How it was made", *_settings(facts)),
        node("footer", {}, paragraph(_PRIVATE)),
    )


def _names(facts: Facts) -> dict[str, str]:
    """What those who predict are called here, by their words in `Quality`."""
    if facts.kind == "core":
        return {"core": facts.name}
    return {"core": f"{facts.core} alone", "small": f"{facts.name} alone", "ensemble": "both together"}


def _identity(facts: Facts) -> str:
    if facts.kind == "core":
        return "a core"
    if facts.kind == "adapter" and facts.base == facts.core:
        return f"an adapter to the core {facts.core}"
    what = f"an adapter to {facts.base}" if facts.kind == "adapter" else "a small model"
    return f"{what} for the core {facts.core}"


def _summary(facts: Facts) -> str:
    made = (
        f"{facts.name} is {_identity(facts)}: {short_number(facts.parameters)} parameters, trained for "
        f"{duration(facts.seconds)} on {counted(facts.train.tokens, 'token')} of text."
    )
    names, bits = _names(facts), facts.quality.bits_per_byte
    found = [f"{names[who]} loses {number(value)}" for who, value in bits.items() if who != "ensemble"]
    if "ensemble" in bits and facts.weight is not None:
        found.append(f"both together, at a weight of {facts.weight:g}, lose {number(bits['ensemble'])}")
    return f"{made} On held-out text, in bits per byte, {', '.join(found)}." if found else made


def _key_figures(facts: Facts) -> ET.Element:
    names = _names(facts)
    figures = [(f"{names[who]}, bits per byte", number(bits)) for who, bits in facts.quality.bits_per_byte.items()]
    if facts.weight is not None:
        figures.append(("best weight", f"{facts.weight:g}"))
    figures += [
        ("minutes", f"{facts.seconds / 60:.1f}"),
        ("tokens of text", f"{facts.train.tokens:,}"),
        ("passes over the text", f"{facts.passes:.1f}"),
    ]
    cells = [node("div", {}, node("dt", {}, name), node("dd", {}, value)) for name, value in figures]
    return node("dl", {"class": "figures"}, *cells)


def _curve(facts: Facts) -> list[ET.Element]:
    heldout = [point["heldout"] for point in facts.history if "heldout" in point]
    caption = "No held-out loss was measured on the way."
    if heldout:
        caption = f"The held-out loss went from {number(heldout[0])} to {number(heldout[-1])} nats per token."
    if facts.kept is not None:
        caption += f" The weights that were kept are those of step {facts.kept:,}."
    rows = [
        (f"{p['step']:,.0f}", f"{p.get('seconds', 0.0):,.0f}", number(p["loss"]), number(p.get("heldout", math.nan)))
        for p in facts.history
    ]
    numbers = table("Nats per token", ("step", "seconds", "training", "held-out"), rows)
    picture = figure(loss_curve(facts.history, facts.kept, "Loss over the steps"), caption)
    return [picture, node("details", {}, node("summary", {}, "The numbers"), numbers)]


def _weight(facts: Facts) -> list[ET.Element]:
    """The section about the small model's weight; a core has none."""
    if facts.kind == "core":
        return []
    heading, quality = f"The weight beside {facts.core}", facts.quality
    if quality.weight is None:
        return [section(heading, paragraph("It was not measured, for lack of time or of held-out texts."))]
    caption = f"Of the weights above 0 that were tried, both together lose least at {quality.weight:g}."
    picture = figure(weight_sweep(quality.weights, quality.sweep, "Loss over the weight"), caption)
    pairs = zip(quality.weights, quality.sweep, strict=True)
    rows = [(f"{weight:g}", number(bits)) for weight, bits in pairs]
    return [section(heading, picture, table("Held-out text", ("weight", "bits per byte"), rows))]


def _levels(quality: Quality) -> list[ET.Element]:
    measured = f"{counted(quality.documents, 'held-out document')} ({counted(quality.tokens, 'token')})"
    caption = f"Measured on {measured}. The more noise there is, the more must be guessed from the text before."
    levels = list(zip(*quality.by_level.values(), strict=True))
    rows = [
        (f"{i / len(levels):.1f} to {(i + 1) / len(levels):.1f}", *map(number, losses))
        for i, losses in enumerate(levels)
    ]
    picture = figure(level_losses(quality.by_level, "Loss over the noise level"), caption)
    return [picture, table("Nats per token", ("noise level", *quality.by_level), rows)]


def _samples(facts: Facts) -> list[ET.Element]:
    if not facts.samples:
        return [paragraph(_NO_SAMPLE)]
    names = _names(facts)
    intro = paragraph(
        "Held-out documents, how they really go on, and how the models go on from the same beginning. A sample shows "
        "the style that was learned, and is no measure."
    )
    return [intro, *(_sample(sample, names) for sample in facts.samples)]


def _sample(sample: Sample, names: Mapping[str, str]) -> ET.Element:
    texts = {"the document itself": sample.real} | {names[who]: text for who, text in sample.written.items()}
    columns = [node("div", {}, node("h4", {}, name), _text(text)) for name, text in texts.items()]
    beside = node("div", {"class": "beside"}, *columns)
    return node("article", {}, node("h3", {}, "beginning"), _text(sample.opening), beside)


def _text(text: str) -> ET.Element:
    """A text of the user's or of a model's, its lines kept and its direction its own."""
    return node("p", {"class": "text", "dir": "auto"}, text.strip())


def _data(facts: Facts) -> list[ET.Element]:
    sides = (facts.train, facts.heldout)
    rows = [
        ("documents", *(f"{side.documents:,}" for side in sides)),
        ("conversations among them", *(f"{side.conversations:,}" for side in sides)),
        ("tokens, with those between documents", *(f"{side.tokens:,}" for side in sides)),
        ("bytes", *(f"{side.bytes:,}" for side in sides)),
        ("characters", *(f"{side.characters:,}" for side in sides)),
        ("bytes per token", *(f"{_bytes_per_token(side):.2f}" for side in sides)),
    ]
    lengths = [(f"{2**k:,} to {2 ** (k + 1) - 1:,}", f"{count:,}") for k, count in enumerate(facts.lengths) if count]
    return [
        table("After duplicates were dropped and long documents cut", ("", "training", "held out"), rows),
        figure(length_bars(facts.lengths, "Lengths of the documents"), _BARS),
        table("Documents by length", ("tokens", "documents"), lengths),
    ]


def _bytes_per_token(side: SideInfo) -> float:
    return side.bytes / max(1, side.tokens - side.documents - 1)


def _skipped(lines: Sequence[str]) -> list[ET.Element]:
    read, *others = lines
    items = [node("li", {}, line) for line in others]
    return [paragraph(f"In all: {read}."), node("ul", {}, *items) if items else paragraph("Nothing was skipped.")]


def _settings(facts: Facts) -> list[ET.Element]:
    return [
        node("pre", {}, facts.command),
        table("The model", (), facts.makings()),
        table("The settings", (), list(facts.settings.items())),
    ]
