"""A model's card as Markdown: what travels with the model, so nothing in it comes out of its owner's text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ssdcli.data.documents import counted
from ssdcli.data.readers.formats import printable
from ssdcli.reports.description import Facts, Quality, number

_LIMITS = """\
- Its weights carry what it was trained on: share it as you would share the text.
- It can repeat passages of that text, and what it writes can be fluent and wrong.
- It works only with models of the same tokenizer and the same noise process."""


def model_card(facts: Facts) -> str:
    """The Markdown model card, with front matter in the form of the Hugging Face hub."""
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        _identity(facts),
        "## Use",
        _use(facts),
        "## How it was made",
        _fenced(facts.command),
        _table(("what", "value"), facts.makings()),
        "What it was trained on:",
        "\n".join(f"- {_plain(_without_place(line))}" for line in facts.data_lines),
        "## How well it predicts",
        _quality(facts.quality),
        "## Limits and privacy",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts) -> str:
    licenses = [] if facts.license is None else [f"license: {json.dumps(facts.license)}"]
    return "\n".join(["---", *licenses, "library_name: ssd", "tags: [diffusion, ssd]", "---"])


def _identity(facts: Facts) -> str:
    if facts.kind == "core":
        return (
            f"`{facts.name}` is a core: a general diffusion language model that writes text by denoising "
            f"blocks of {counted(facts.block_size, 'token')}. Small models that were trained for it on "
            "someone's own text join in at every denoising step."
        )
    company = "a large general model" if facts.core is None else f"the core `{facts.core}`"
    what = "a small diffusion language model"
    if facts.kind == "adapter":
        what = f"an adapter to the diffusion language model `{facts.base}`, without which it cannot be loaded,"
    return (
        f"`{facts.name}` is {what} that was trained on its owner's text. "
        f"It writes together with {company}: at every denoising step both predict the same tokens, and "
        "`ssd` combines what they say."
    )


def _use(facts: Facts) -> str:
    if facts.kind == "core":
        return _fenced(f'ssd generate --core {facts.name} "Dear reader,"')
    advice = f"No weight was tuned for it; `--with {facts.name}=W` sets one."
    if facts.weight is not None:
        advice = f"Its tuned weight is {facts.weight:g}; `--with {facts.name}=W` sets another one."
    return _fenced(f'ssd generate "Dear reader," --with {facts.name}') + "\n\n" + advice


def _quality(quality: Quality) -> str:
    rows = quality.rows()
    if not rows:
        return "Nothing was measured."
    table = _table(("measure", "value"), [(name, number(value)) for name, value in rows.items()])
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
