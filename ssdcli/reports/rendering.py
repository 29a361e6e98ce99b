"""The Markdown card and the HTML report of a trained model, rendered from its description.

The card travels with the model, so nothing in it comes out of the training text. The report stays beside the model: it
shows the text, and needs nothing but itself.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssdcli.data.documents import printable
from ssdcli.data.token_store import SideInfo
from ssdcli.machine.units import counted, duration, in_parameters
from ssdcli.reports import charts
from ssdcli.reports.description import Description, Quality, interval, number
from ssdcli.reports.overview import explained, identity, predictors

Row = tuple[str, ...]

_UNFIT = ("Cc", "Cs")  # control characters and lone surrogates, which neither a file nor a page can hold


def model_card(description: Description) -> str:
    """The Markdown model card, whose front matter has the form of the Hugging Face hub's."""
    quality = description.quality
    losses = [(f"{who}, nats per token", number(value)) for who, value in quality.nats_per_token.items()]
    losses += [(f"{who}, bits per byte", told) for who, told in _bits(quality).items()]
    if math.isfinite(quality.gain):
        losses.append(("gain of the ensemble, bits per byte", interval(quality.gain, quality.gain_margin, "+")))
    return _markdown().get_template("card.md.j2").render(_shared(description) | {"losses": losses})


def pulled_card(name: str, title: str, facts: Mapping[str, str]) -> str:
    """The Markdown card of a core that was pulled from the hub.

    title: its family and size.
    facts: rows of the table, by what they tell.
    """
    return _markdown().get_template("pulled.md.j2").render(name=name, title=title, facts=facts)


def report(description: Description) -> str:
    """The text of `report.html`, in which the user's text is shown as it is and never interpreted."""
    quality, names, lengths = description.quality, predictors(description.manifest), description.lengths
    pictures = {
        "history": charts.loss_curve(description.history, description.kept, "Loss over the steps"),
        "sweep": charts.weight_sweep(quality.weights, quality.sweep, "Loss over the weight"),
        "levels": charts.level_losses(quality.by_level, "Loss over the noise level", quality.level_margins),
        "reliability": charts.reliability(
            {name: [(sure, right) for sure, right, _ in found] for name, found in quality.reliability.items()},
            "How often tokens are right",
        ),
        "lengths": charts.length_bars(lengths, "Lengths of the documents"),
    }
    shown = {
        "writers": names | {"ensemble": "both together"},  # samples are written without the memory
        "summary": _summary(description, names),
        "figures": _figures(description, names),
        "pictures": {name: _drawn(picture) for name, picture in pictures.items()},
        "chart_style": Markup(charts.STYLE),
        "history_rows": _history_rows(description.history),
        "sweep_rows": [(f"{w:g}", number(b)) for w, b in zip(quality.weights, quality.sweep, strict=True)],
        "level_header": ("noise level", *quality.by_level),
        "level_rows": _level_rows(quality),
        "reliability_rows": [
            (name, f"{sure:.3f}", f"{right:.3f}", f"{count:,}")
            for name, found in quality.reliability.items()
            for sure, right, count in found
        ],
        "side_rows": _side_rows(description.train, description.heldout),
        "length_rows": [(f"{2**k:,} to {2 ** (k + 1) - 1:,}", f"{n:,}") for k, n in enumerate(lengths) if n],
        "settings": list(description.settings.items()),
    }
    return _html().get_template("report.html.j2").render(_shared(description) | shown)


def _shared(description: Description) -> dict[str, object]:
    """What both templates see: the fields of the description, and its manifest as `model`."""
    chosen = description.chosen
    return vars(description) | {
        "model": description.manifest,
        "makings": description.makings(),
        "measure": explained(description.manifest.measure),
        "chosen": " and ".join([*([", ".join(chosen[:-1])] if chosen[:-1] else []), *chosen[-1:]]),
    }


def _markdown() -> Environment:
    environment = _environment(autoescape=False)
    filters = {"fenced": _fenced, "plain": _plain, "without_place": _without_place, "quoted": json.dumps}
    environment.filters.update(filters)
    return environment


def _html() -> Environment:
    environment = _environment(autoescape=True)
    environment.finalize = lambda value: value if isinstance(value, Markup) else _clean(str(value))
    return environment


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("ssdcli.reports"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"counted": counted, "grouped": "{:,}".format, "loss": number}
    return environment


def _drawn(picture: ET.Element) -> Markup:
    """A picture as HTML; the writer of XML escapes its texts."""
    return Markup(ET.tostring(picture, encoding="unicode", method="html"))


def _summary(description: Description, names: Mapping[str, str]) -> str:
    model, bits = description.manifest, _bits(description.quality)
    made = (
        f"{model.name} is {identity(model)}: {in_parameters(model.parameters)} parameters, trained for "
        f"{duration(description.seconds)} on {counted(description.train.tokens, 'token')} of text."
    )
    found = [f"{names[who]} loses {told}" for who, told in bits.items() if who != "ensemble"]
    if "ensemble" in bits and model.weight is not None:
        weight = f", at a weight of {model.weight:g}," if not model.gates else ""
        verb = "loses" if model.tunes_core and model.gates else "lose"
        found.append(f"{names['ensemble']}{weight} {verb} {bits['ensemble']}")
    return f"{made} On held-out text, in bits per byte ({model.measure}), {', '.join(found)}." if found else made


def _figures(description: Description, names: Mapping[str, str]) -> list[Row]:
    """The key figures at the top of the report."""
    quality, weight = description.quality, description.manifest.weight
    gain = interval(quality.gain, quality.gain_margin, "+")
    return [
        *((f"{names[who]}, bits per byte", told) for who, told in _bits(quality).items()),
        *([(f"gain of {names['ensemble']}", gain)] if weight is not None else []),
        *([("best weight", f"{weight:g}")] if weight is not None else []),
        ("minutes", f"{description.seconds / 60:.1f}"),
        ("tokens of text", f"{description.train.tokens:,}"),
        ("passes over the text", f"{description.passes:.1f}"),
    ]


def _history_rows(history: Sequence[Mapping[str, float]]) -> list[Row]:
    return [
        (f"{p['step']:,.0f}", f"{p.get('seconds', 0.0):,.0f}", number(p["loss"]), number(p.get("heldout", math.nan)))
        for p in history
    ]


def _bits(quality: Quality) -> dict[str, str]:
    """Bits per byte with their intervals, by what predicts."""
    return {who: interval(value, quality.margins.get(who, math.nan)) for who, value in quality.bits_per_byte.items()}


def _level_rows(quality: Quality) -> list[Row]:
    """The losses with their intervals, a row for each bin of levels."""
    columns = [
        [interval(*cell) for cell in zip(losses, quality.level_margins.get(who, [math.nan] * len(losses)), strict=True)]
        for who, losses in quality.by_level.items()
    ]
    levels = list(zip(*columns, strict=True))
    return [(f"{i / len(levels):.1f} to {(i + 1) / len(levels):.1f}", *row) for i, row in enumerate(levels)]


def _side_rows(*sides: SideInfo) -> list[Row]:
    """The two sides of the text, row by row."""
    return [
        ("documents", *(f"{side.documents:,}" for side in sides)),
        ("conversations among them", *(f"{side.conversations:,}" for side in sides)),
        ("tokens, with those between documents", *(f"{side.tokens:,}" for side in sides)),
        ("bytes", *(f"{side.bytes:,}" for side in sides)),
        ("characters", *(f"{side.characters:,}" for side in sides)),
        ("bytes per token", *(f"{side.bytes / max(1, side.tokens - side.documents - 1):.2f}" for side in sides)),
    ]


def _clean(text: str) -> str:
    """The text without what a file or a page could not hold."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _UNFIT else "\ufffd" for c in text)


def _fenced(command: str) -> str:
    """A Markdown block of code, whose fence no backticks in the command can close."""
    longest = max(map(len, re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = (printable(line) for line in command.splitlines())
    return "\n".join([f"{fence}sh", *lines, fence])


def _without_place(line: str) -> str:
    """A sentence of a ReadReport without its example, since names of files and fields belong to the data."""
    return line.partition(" (first: ")[0]


def _plain(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable(" ".join(text.split())))
