"""A text in colours: each token in the colour of the member with the largest share in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ssdcli.cli import console
from ssdcli.generation.types import Result, TokenShares

COLOURS = (36, 33, 35, 32, 34, 31)  # ANSI foregrounds; further members begin again with the first


def shown(result: Result) -> str:
    """The text as it is printed: in colours if there is an attribution and a terminal can show them."""
    if result.explain is None or not _colourful():
        return result.text
    names = [member.name for member in result.members]
    written = "".join(token.text for token in result.explain)
    if not result.text.startswith(written):  # gaps were filled, and the text around them is not any member's
        return result.text
    return painted(result.text, result.explain, names)


def painted(text: str, tokens: Sequence[TokenShares], names: Sequence[str], start: int = 0) -> str:
    """A text from the character `start` on, its tokens in colours if a terminal can show them."""
    place, parts = 0, []
    for token in tokens if _colourful() else ():
        end = place + len(token.text)
        parts.append(_painted(text[max(place, start) : end], names.index(_first_author(token))))
        place = end
    return "".join(parts) + text[max(place, start) :]


def warn_if_colourless() -> None:
    """Warn that an attribution asked for as colours will not be seen on this standard output."""
    if _colourful():
        return
    why = "standard output is not a terminal"
    if sys.stdout.isatty():
        why = "NO_COLOR is set" if os.environ.get("NO_COLOR") else "TERM is dumb"
    console.warn(f"--explain shows no colours, since {why}; add --json for the numbers.")


def tell_colours(explain: Sequence[TokenShares], names: Sequence[str]) -> None:
    """Write each member's colour and mean share to standard error, if that is a terminal."""
    means = {name: _mean([token.by.get(name, 0.0) for token in explain]) for name in names}
    legend = [
        f"{_painted(name, place) if _colourful() else name}: {share:.0%}"
        for place, (name, share) in enumerate(means.items())
    ]
    console.note(f"attribution: {', '.join(legend)}")


def _first_author(token: TokenShares) -> str:
    """The member with the largest share in a token."""
    return max(token.by, key=lambda name: token.by[name])


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares)


def _painted(text: str, place: int) -> str:
    return f"\x1b[{COLOURS[place % len(COLOURS)]}m{text}\x1b[0m" if text else ""


def _colourful() -> bool:
    return console.takes_escapes(sys.stdout)
