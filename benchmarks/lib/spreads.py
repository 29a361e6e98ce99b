"""Results of several trainings side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmarks.lib.experiment import Line
from benchmarks.lib.tables import mean, table


def spreads(lines: Sequence[Line]) -> Iterator[str]:
    """A table for each held-out side with several trainings: mean and range of the ways that differ between them."""
    for side, same in groupby(sorted(lines, key=lambda line: line["side"]), key=lambda line: line["side"]):
        own, rows = list(same), []
        for way in dict.fromkeys(way for line in own for way in line["sums"]):
            having = [line for line in own if way in line["sums"]]
            nats = [sum(line["sums"][way]) / sum(line["tokens"]) for line in having]
            bits = [sum(line["sums"][way]) / math.log(2) / sum(line["bytes"]) for line in having]
            if max(nats) > min(nats):
                rows.append([way, len(having), *map(_spread, (nats, bits))])
        if rows:
            header = ["way", "trainings", "nats per token", "bits per byte"]
            yield f"## {side}: mean and range over trainings\n\n{table(header, rows)}"


def _spread(numbers: Sequence[float]) -> str:
    return f"{mean(numbers):.4f} ({min(numbers):.4f} to {max(numbers):.4f})"
