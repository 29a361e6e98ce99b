from __future__ import annotations

import math
from typing import Any

from benchmarks.lib.spreads import spreads


def line(side: str, **sums: list[float]) -> dict[str, Any]:
    return {"side": side, "tokens": [4, 6], "bytes": [20, 30], "sums": sums}


def test_ways_that_differ_between_trainings_get_a_mean_and_a_range_over_those_that_have_them():
    found = [
        line("a", core=[10.0, 20.0], small=[8.0, 12.0]),
        line("b", core=[1.0, 1.0]),
        line("a", core=[10.0, 20.0], small=[10.0, 20.0], adapter=[5.0, 5.0]),
        line("a", core=[10.0, 20.0], adapter=[5.0, 7.0]),
    ]
    (text,) = spreads(found)
    assert "## a:" in text
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()[4:]]
    bits = [nats / math.log(2) / 50 for nats in (25.0, 20.0, 30.0)]
    shown = "{:.4f} ({:.4f} to {:.4f})".format(*bits)
    assert rows == [
        ["small", "2", "2.5000 (2.0000 to 3.0000)", shown],
        ["adapter", "2", "1.1000 (1.0000 to 1.2000)", rows[1][3]],
    ]
