"""Curves over doublings of a setting, in the style of the reports' charts."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from ssdcli.reports.drawing import (
    RIGHT_WITH_LABELS,
    Frame,
    Point,
    axis_around,
    doublings,
    draw,
    finite,
    sentence_alone,
    styled_lines,
)


def curves_over_doublings(lines: Mapping[str, Sequence[Point]], title: str, axes: tuple[str, str]) -> ET.Element:
    """Draw up to three named lines over a logarithmic axis that is labelled with powers of two.

    Points that are not finite, or at or below zero on that axis, are left out.
    """
    exponents = {name: [(math.log2(x), y) for x, y in finite(points) if x > 0] for name, points in lines.items()}
    named = styled_lines(exponents)
    if not named:
        return sentence_alone(title, "Nothing was measured.")
    across = [x for line in named for x, _ in line.points]
    below = doublings(axes[0], math.floor(min(across)), math.ceil(max(across)))
    beside = axis_around(axes[1], [y for line in named for _, y in line.points], marked=False)
    return draw(Frame(title, below, beside, RIGHT_WITH_LABELS), named, [])
