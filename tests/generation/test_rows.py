"""Rows that are written together though they end differently, and that need not be written to their end."""

from __future__ import annotations

from ssdcli.api import Options, Request, load
from ssdcli.models.backbones.causal import CausalCore
from tests.pulled import add_causal
from tests.tiny import BLOCK


def test_rows_of_other_lengths_and_ends_are_written_together(family):
    """Each is the text that it is alone; one that is cut yields no more, and disturbs no other."""
    writer = load("big", ["notes"])
    asked = [Options(max_tokens=3), Options(max_tokens=30, stop=("a",)), Options(max_tokens=31), Options(max_tokens=60)]
    alone = [writer.generate("Dear", options, seed=7).text for options in asked]
    rows = [row for options in asked for row in writer.rows([Request("Dear", seed=7)], options)]
    texts = [""] * len(rows)
    for place, piece in writer.write(rows, asked[-1]):
        texts[place] += piece.text
        if place == 3 and texts[3]:
            rows[3].cut()
    assert texts[:3] == alone[:3]
    assert texts[3] == rows[3].text
    assert alone[3].startswith(texts[3])
    assert len(texts[3]) < len(alone[3])


def test_a_row_that_is_over_takes_no_further_part(monkeypatch):
    """A causal core reads nothing more for it once its block has ended."""
    add_causal("core")
    writer, read = load("core"), []
    options = Options(seed=1, max_tokens=6 * BLOCK, draft=0)
    monkeypatch.setattr(CausalCore, "write_each", _counting(CausalCore.write_each, read))
    for cuts in (False, True):
        rows = list(writer.rows([Request("Dear"), Request("Sir")], options))
        for place, _ in writer.write(rows, options):
            if place == 1 and cuts:
                rows[0].cut()
        read.append(0)
    both, one = (sum(part) for part in (read[: read.index(0)], read[read.index(0) + 1 :]))
    assert [row.tokens for row in rows] == [BLOCK, 6 * BLOCK]
    assert one <= both - 4 * BLOCK


def _counting(write_each, read):
    def spy(self, parts):
        if parts:
            read.append(len(parts))
        return write_each(self, parts)

    return spy
