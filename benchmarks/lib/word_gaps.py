"""Gaps between the words of held-out documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssdcli.engine.noise import CounterNoise
from ssdcli.text.codec import Codec

LONGEST = 8  # tokens of a gap
_SIDES = (64, 40)  # tokens that are known before and behind a gap
_JUDGED = 24  # tokens behind a gap, at least


@dataclass(frozen=True)
class Gap:
    """A gap in a document, as ids: the known text before it, its own and the known text behind it."""

    before: tuple[int, ...]
    own: tuple[int, ...]
    behind: tuple[int, ...]


def gaps_of(texts: Sequence[str], codec: Codec, count: int) -> list[Gap]:
    """One gap of 1, 2, ... tokens in each document that has one between words which are encoded alike when apart."""
    found: list[Gap] = []
    for key, text in enumerate(texts):
        ids = codec.encode(text)
        length = 1 + len(found) % LONGEST
        starts = [s for s in range(_SIDES[0], len(ids) - length - _JUDGED) if _fits(gap_at(ids, s, length), codec)]
        if starts and len(found) < count:
            place = int(float(CounterNoise([key]).uniform(1)) * len(starts))
            found.append(gap_at(ids, starts[place], length))
    return found


def gap_at(ids: Sequence[int], start: int, length: int) -> Gap:
    """The gap of so many tokens at a place of a document."""
    stop = start + length
    return Gap(tuple(ids[start - _SIDES[0] : start]), tuple(ids[start:stop]), tuple(ids[stop : stop + _SIDES[1]]))


def _fits(gap: Gap, codec: Codec) -> bool:
    """Whether a gap begins and ends between words, and each part is encoded alone as in the document."""
    parts = [gap.before, gap.own, gap.behind]
    before, own, behind = texts = [codec.decode(part) for part in parts]
    apart = (
        before[-1:] not in ("", " ") and own[:1] == " " == behind[:1] and own.strip() and "__" not in before + behind
    )
    return bool(apart) and all(tuple(codec.encode(text)) == part for text, part in zip(texts, parts, strict=True))
