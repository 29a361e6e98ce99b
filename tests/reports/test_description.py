from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.resources import files

import pytest

from ssdcli.machine.units import duration
from ssdcli.reports.description import length_counts, metrics_lines, number
from ssdcli.reports.rendering import model_card, report
from tests.reports.descriptions import CORE, DESCRIPTION, history, modelled


class TestMetricsLines:
    def test_each_point_is_a_json_line(self):
        points = history(7)
        assert [json.loads(line) for line in metrics_lines(points).splitlines()] == points

    def test_an_infinite_loss_is_null_and_the_line_still_json(self):
        line = metrics_lines([{"step": 1, "loss": math.inf, "heldout": math.nan}])
        assert "Infinity" not in line
        assert json.loads(line) == {"step": 1, "loss": None, "heldout": None}

    def test_no_history_is_no_line(self):
        assert metrics_lines([]) == ""


def test_lengths_are_counted_by_doublings():
    assert length_counts([1, 2, 3, 4, 7, 8, 1000]) == [1, 2, 2, 1, 0, 0, 0, 0, 0, 1]
    assert length_counts([]) == []


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (754, "12 min 34 s")])
def test_times_are_told_as_people_say_them(seconds, told):
    assert duration(seconds) == told
    assert duration(seconds + 36000).startswith("10 h ")


def test_a_loss_that_is_no_number_is_told_so():
    assert [number(value) for value in (1.23456, math.inf, math.nan)] == ["1.235", "infinite", "–"]


GATE = {"bias": 0.0, "level": 0.0, "core": 0.0, "small": 0.0}
UNSEEN = [{"step": 1, "loss": 2.0, "seconds": 1.0}]


@pytest.mark.parametrize(
    ("description", "told"),
    [
        (DESCRIPTION, "the step whose weights were kept and the weight"),
        (modelled(gate=GATE), "the step whose weights were kept, the weight and the gate"),
        (replace(DESCRIPTION, settings={"patience": "0"}), "the weight"),
        (replace(DESCRIPTION, history=UNSEEN), "the weight"),
        (CORE, "the step whose weights were kept"),
    ],
)
def test_card_and_report_say_what_the_held_out_text_decided(description, told):
    assert f"The same text also chose {told}. Expect" in model_card(description)
    assert f"The same text also chose {told}: expect" in report(description)


def test_a_held_out_text_that_decided_nothing_is_said_to_have_decided_nothing():
    undecided = replace(CORE, settings={"patience": "0"})
    assert "also chose" not in model_card(undecided) + report(undecided)


def test_the_templates_are_part_of_the_package():
    for name in ("card.md.j2", "report.html.j2", "report.css"):
        assert (files("ssdcli.reports") / "templates" / name).is_file()
