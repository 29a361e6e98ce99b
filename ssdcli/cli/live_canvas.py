"""A text that is being written, live at a terminal: each token where it is decided, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from ssdcli.cli import console
from ssdcli.cli.explanation import COLOURS
from ssdcli.options.declare import option
from ssdcli.text.codec import whole_characters

if TYPE_CHECKING:
    from rich.text import Text

    from ssdcli.generation.row import Row
    from ssdcli.generation.trace import Glimpse
    from ssdcli.generation.writer import Writer

WATCH: bool = option(False, "Show the text while it is denoised, if standard error is a terminal.")
NOISE = "░"  # stands for a position whose token is not decided

Part = tuple[str, int | None]  # a piece of text, and the place of the member that it owes most to, if that is known


@contextmanager
def watching(writer: Writer, row: Row, *, wanted: bool = True) -> Iterator[bool]:
    """Show a row on standard error while it is written, if that is a terminal; yields whether it does.

    What was shown is erased at the end. Nothing else may be written to the terminal before.
    """
    if not (wanted and console.is_lively()):
        if wanted:
            console.warn("--watch shows nothing, since standard error is not a terminal.")
        yield False
        return
    from rich.live import Live

    screen = console.terminal()
    others = len(writer.authors) - len(writer.members)

    def show(glimpse: Glimpse) -> None:
        parts = [*_written(row, writer.authors), *on_canvas(glimpse, writer.codec.decode, others)]
        live.update(_fitting(parts, screen.width, screen.height), refresh=True)

    with Live(console=screen, transient=True, auto_refresh=False) as live:
        row.watch = show
        yield True


def on_canvas(glimpse: Glimpse, decode: Callable[[Sequence[int]], str], others: int = 0) -> Iterator[Part]:
    """The parts of a canvas, from the left; others: the authors before the members."""
    places = range(len(glimpse.tokens))
    for hidden, run in groupby(places, lambda place: glimpse.tokens[place] is None):
        if hidden:
            yield NOISE * len(list(run)), None
            continue
        ids, text = list[int](), ""
        for place in run:
            ids.append(int(glimpse.tokens[place] or 0))
            longer = whole_characters(decode(ids))
            yield longer[len(text) :], _author([0.0] * others + [*glimpse.shares[place]]) if glimpse.shares else None
            text = longer


def _written(row: Row, names: Sequence[str]) -> Iterator[Part]:
    """The parts of the text that is certain."""
    place = 0
    for token in row.explained:
        yield token.text, _author([token.by.get(name, 0.0) for name in names])
        place += len(token.text)
    yield row.text[place:], None


def _author(shares: Sequence[float]) -> int | None:
    """The place of the largest share; None if there is none yet."""
    return None if any(map(math.isnan, shares)) else max(range(len(shares)), key=shares.__getitem__)


def _fitting(parts: Sequence[Part], width: int, height: int) -> Text:
    """As many of the last lines as a terminal holds."""
    from rich.text import Text

    text = Text()
    for part, author in parts:
        dim = "dim" if NOISE in part and author is None else ""
        text.append(part, dim if author is None else f"color({COLOURS[author % len(COLOURS)] - 30})")
    lines = text.wrap(console.terminal(), width)
    return Text("\n").join(lines[-max(1, height - 1) :])
