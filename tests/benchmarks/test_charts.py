from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest

from benchmarks.lib.charts import curves_over_doublings

Lines = dict[str, list[tuple[float, float]]]


def drawn(lines: Lines, title: str = "") -> ET.Element:
    return curves_over_doublings(lines, title, ("steps", "perplexity"))


def texts(picture: ET.Element) -> list[str]:
    return [element.text or "" for element in picture.iter("text")]


def polylines(picture: ET.Element) -> list[list[tuple[float, ...]]]:
    lines = picture.iter("polyline")
    return [[tuple(map(float, place.split(","))) for place in line.get("points", "").split()] for line in lines]


def test_lines_are_named_with_their_last_values_over_named_axes() -> None:
    picture = drawn({"fast": [(4, 9.0), (16, 8.0)], "slow": [(4, 7.0), (16, 6.5)]})
    assert {"fast 8.000", "slow 6.500", "perplexity", "steps"} <= set(texts(picture))
    fast, slow = polylines(picture)
    assert [x for x, _ in fast] == [x for x, _ in slow]
    assert all(y < other for (_, y), (_, other) in zip(fast, slow, strict=True))  # a higher value is higher


def test_one_point_is_enough_and_none_is_a_sentence() -> None:
    assert "one 3.000" in texts(drawn({"one": [(8, 3.0)]}))
    assert "Nothing was measured." in texts(drawn({"one": [(8, math.nan)]}, "notes"))


def test_every_doubling_is_as_far_as_the_next() -> None:
    (line,) = polylines(drawn({"": [(1, 1.0), (2, 1.0), (4, 1.0), (8, 1.0)]}))
    steps = [b[0] - a[0] for a, b in itertools.pairwise(line)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.11)


def test_the_doublings_go_around_all_points_and_what_has_no_logarithm_is_left_out() -> None:
    picture = drawn({"one": [(0, 2.0), (-3, 2.0), (5, 2.0), (1000, 3.0)]})
    assert [text for text in texts(picture) if text in ("2", "4", "1,024", "2,048")] == ["4", "1,024"]
    assert [len(line) for line in polylines(picture)] == [2]
