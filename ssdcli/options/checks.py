"""What a value must be: the one form of bounds and choices, for settings, manifests and the catalogue's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any


@dataclass(frozen=True)
class Check:
    """What a value must be.

    expected: completes the sentence "it must be", or a function that does.
    holds: whether a value passes.
    example: a value that passes, or a function that gives one, for errors about a setting that has no default.
    of_each: whether a value is a sequence, and each of its elements must pass.
    """

    expected: str | Callable[[], str]
    holds: Callable[[Any], bool]
    example: Any = None
    of_each: bool = False

    def __str__(self) -> str:
        return self.expected() if callable(self.expected) else self.expected

    def misfits(self, value: Any) -> list[Any]:
        """The value, or those of its elements, that do not pass."""
        return [one for one in (value if self.of_each else [value]) if not self.holds(one)]

    def shown_example(self) -> Any:
        """A value that passes; None if the check has no example."""
        return self.example() if callable(self.example) else self.example


def at_least(least: float, *, below: float = math.inf) -> Check:
    """A finite number of at least this, perhaps below another."""
    end = "" if below == math.inf else f" and below {below:g}"
    return Check(f"at least {least:g}{end}", lambda value: least <= value < below, least)


def above(bound: float, *, most: float = math.inf) -> Check:
    """A finite number above this, perhaps of at most another."""
    if most == math.inf:
        return Check(f"above {bound:g}", lambda value: bound < value < math.inf, bound + 1)
    return Check(f"above {bound:g} and at most {most:g}", lambda value: bound < value <= most, most)


def between(least: float, most: float) -> Check:
    """A number in a range that includes both ends."""
    return Check(f"between {least:g} and {most:g}", lambda value: least <= value <= most, most)


def whole(check: Check) -> Check:
    """A whole number that passes a check."""
    return replace(
        check, expected=f"a whole number of {check}", holds=lambda value: check.holds(value) and value % 1 == 0
    )


def multiple_of(factor: int) -> Check:
    """A positive multiple."""
    return Check(f"a multiple of {factor}", lambda value: value > 0 and value % factor == 0, factor)


def one_of(choices: Sequence[str] | Callable[[], Sequence[str]]) -> Check:
    """One of several names; a function that lists them is called only when a value is checked."""

    def names() -> Sequence[str]:
        return choices() if callable(choices) else choices

    return Check(lambda: f"one of {', '.join(names())}", lambda value: value in names(), lambda: names()[0])


def each(check: Check) -> Check:
    """A sequence, each element of which passes a check."""
    return replace(check, of_each=True)


def seed_word(seed: int) -> int:
    """A seed of any sign and size as the 32 bits that every library takes; what has them already is itself."""
    if 0 <= seed < 1 << 32:
        return seed
    return int.from_bytes(blake2b(str(seed).encode("ascii"), digest_size=4).digest(), "big")
