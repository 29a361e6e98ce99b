from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest

from ssdcli.reports import charts
from tests.reports.descriptions import BITS, WEIGHTS, history

SVG = "{http://www.w3.org/2000/svg}"
LEVELS = {"core": [3.2 + 0.3 * i for i in range(10)], "small": [2.8 + 0.2 * i for i in range(10)]}


def loss_curve_svg(points: list[dict[str, float]], title: str, kept: int | None = None) -> str:
    return charts.to_svg(charts.loss_curve(points, kept, title))


def sweep_svg(weights: list[float], bits: list[float], title: str) -> str:
    return charts.to_svg(charts.weight_sweep(weights, bits, title))


def levels_svg(by_member: dict[str, list[float]], title: str = "") -> str:
    return charts.to_svg(charts.level_losses(by_member, title))


def bars_svg(counts: list[int], title: str = "") -> str:
    return charts.to_svg(charts.length_bars(counts, title))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def ticks(svg: str, anchor: str) -> list[float]:
    """The numbers on one axis: "middle" for x, "end" for y."""
    elements = ET.fromstring(svg).iter(f"{SVG}text")
    labels = [element.text or "" for element in elements if element.get("text-anchor") == anchor]
    return [float(label.replace(",", "")) for label in labels if re.fullmatch(r"-?[\d,.]+", label)]


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    lines = ET.fromstring(svg).iter(f"{SVG}polyline")
    return [[tuple(map(float, place.split(","))) for place in line.get("points", "").split()] for line in lines]


class TestPictures:
    PICTURES = (
        lambda title: loss_curve_svg(history(40), title),
        lambda title: loss_curve_svg([], title),
        lambda title: sweep_svg(WEIGHTS, WEIGHTS, title),
        lambda title: sweep_svg([], [], title),
        lambda title: levels_svg(LEVELS, title),
        lambda title: levels_svg({}, title),
        lambda title: bars_svg([0, 3, 40, 7], title),
        lambda title: bars_svg([], title),
    )

    @pytest.mark.parametrize("picture", PICTURES)
    @pytest.mark.parametrize("title", ["", "a < b & \"c\" 'd' ]]> -->", "日記 🙂", "x\x00\x1b\ud800\ufffey", "t" * 500])
    def test_any_title_gives_valid_xml_of_one_size(self, picture, title):
        svg = picture(title)
        root = ET.fromstring(svg.encode("utf-8"))
        assert (root.get("width"), root.get("height")) == ("720", "400")
        if title.isprintable():
            assert (root.findtext(f"{SVG}title") or "") == title

    @pytest.mark.parametrize("picture", PICTURES)
    def test_a_picture_needs_nothing_from_outside_and_knows_both_backgrounds(self, picture):
        svg = picture("notes")
        assert "prefers-color-scheme: dark" in svg
        assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
        assert not re.search(r"<script|@import|@font-face|url\(|href", svg)

    @pytest.mark.parametrize("picture", PICTURES)
    def test_every_colour_has_its_counterpart_for_the_dark(self, picture):
        light, dark = picture("notes").split("@media (prefers-color-scheme: dark)")
        colours = re.compile(r"(\.ssd-chart \.\w+) \{ (?:fill|stroke|color): #")
        assert colours.findall(light)
        assert colours.findall(light) == colours.findall(dark)

    @pytest.mark.parametrize("low", [-1.0, 0.0, 0.003, 1.0, 3.99, 812.5])
    @pytest.mark.parametrize("spread", [0.0, 1e-9, 0.013, 0.3, 1.0, 2.71, 5.0, 6.0, 77.0, 12345.0])
    def test_an_axis_has_four_to_six_round_and_even_ticks_around_the_values(self, low, spread):
        svg = loss_curve_svg([{"step": 1, "loss": low}, {"step": 9, "loss": low + spread}], "")
        found = ticks(svg, "end")
        step = (found[-1] - found[0]) / (len(found) - 1)
        assert 4 <= len(found) <= 6
        assert found == pytest.approx([found[0] + i * step for i in range(len(found))])
        assert f"{step:.3e}"[:5] in ("1.000", "2.000", "4.000", "5.000")
        assert found[0] <= low
        assert low + spread < found[-1] + step

    @pytest.mark.parametrize("last", [1, 2, 3, 7, 60, 99, 1000, 1684, 24_999, 1_000_000])
    def test_the_axis_of_steps_begins_at_zero_and_counts_whole_steps(self, last):
        found = ticks(loss_curve_svg([{"step": last, "loss": 1.0}], ""), "middle")
        assert 4 <= len(found) <= 6
        assert found[0] == 0
        assert all(tick.is_integer() for tick in found)


class TestLossCurve:
    def test_both_losses_are_drawn_and_labelled_with_their_last_values(self):
        points = history(40)
        svg = loss_curve_svg(points, "notes")
        assert [len(line) for line in polylines(svg)] == [40, 8]
        assert {f"training {points[-1]['loss']:.3f}", f"held-out {points[-1]['heldout']:.3f}"} <= set(texts(svg))
        assert {"step", "nats per token"} <= set(texts(svg))

    def test_without_held_out_text_there_is_one_line(self):
        svg = loss_curve_svg(history(4), "notes")
        assert len(polylines(svg)) == 1
        assert "held-out" not in svg

    def test_a_lower_loss_is_lower_and_a_later_step_further_right(self):
        (line,) = polylines(loss_curve_svg(history(4), "notes"))
        assert line == sorted(line)
        assert [y for _, y in line] == sorted(y for _, y in line)

    def test_everything_lies_inside_the_picture(self):
        for line in polylines(loss_curve_svg(history(40), "notes")):
            assert all(64 <= x <= 720 and 60 <= y <= 340 for x, y in line)

    def test_equal_ends_have_labels_that_do_not_cover_each_other(self):
        svg = loss_curve_svg([{"step": 1, "loss": 2.0, "heldout": 2.0}], "notes")
        labels = [e for e in ET.fromstring(svg).iter(f"{SVG}text") if e.get("class") == "label"]
        heights = [float(label.get("y", "nan")) for label in labels]
        assert len(heights) == 2
        assert abs(heights[0] - heights[1]) >= 14

    def test_one_point_is_visible(self):
        svg = loss_curve_svg([{"step": 5, "loss": 2.5}], "notes")
        assert len(list(ET.fromstring(svg).iter(f"{SVG}circle"))) == 1
        assert "training 2.500" in texts(svg)

    def test_no_point_is_a_sentence(self):
        assert texts(loss_curve_svg([], "notes")) == ["notes", "No loss was recorded."]

    def test_points_that_are_not_finite_are_left_out(self):
        points = [*history(4), {"step": 99, "loss": math.nan, "heldout": math.inf}]
        assert polylines(loss_curve_svg(points, "")) == polylines(loss_curve_svg(history(4), ""))

    def test_the_step_whose_weights_were_kept_is_marked_on_the_held_out_curve(self):
        points = history(40)
        svg = loss_curve_svg(points, "notes", kept=points[24]["step"])
        (ring,) = (e for e in ET.fromstring(svg).iter(f"{SVG}circle") if e.get("class") == "ring")
        _, heldout = polylines(svg)
        assert (float(ring.get("cx", "nan")), float(ring.get("cy", "nan"))) == heldout[4]
        assert f"kept {points[24]['heldout']:.3f} at step {points[24]['step']}" in texts(svg)
        assert "ring" not in loss_curve_svg(points, "notes").partition("</style>")[2]

    def test_the_mark_is_written_where_the_training_loss_is_not(self):
        def label(off: float) -> float:
            points = [point | {"heldout": point["loss"] + off} for point in history(40)]
            root = ET.fromstring(loss_curve_svg(points, "notes", kept=points[24]["step"]))
            (ring,) = (e for e in root.iter(f"{SVG}circle") if e.get("class") == "ring")
            (text,) = (e for e in root.iter(f"{SVG}text") if (e.text or "").startswith("kept"))
            return float(text.get("y", "nan")) - float(ring.get("cy", "nan"))

        assert label(0.5) < 0 < label(-0.5)


class TestSweep:
    def test_the_minimum_is_marked_where_it_is(self):
        svg = sweep_svg(WEIGHTS, BITS, "notes")
        (ring,) = (e for e in ET.fromstring(svg).iter(f"{SVG}circle") if e.get("class") == "ring")
        (line,) = polylines(svg)
        assert (float(ring.get("cx", "nan")), float(ring.get("cy", "nan"))) == line[3]
        assert "minimum 1.500 at weight 0.3" in texts(svg)
        assert "bits per byte" in texts(svg)

    def test_the_order_of_the_weights_does_not_matter(self):
        assert sweep_svg(WEIGHTS[::-1], BITS[::-1], "notes") == sweep_svg(WEIGHTS, BITS, "notes")

    @pytest.mark.parametrize(("weight", "anchor"), [(0.0, "start"), (0.5, "middle"), (1.0, "end")])
    def test_the_mark_at_an_end_is_written_inwards(self, weight, anchor):
        svg = sweep_svg(WEIGHTS, [2 + abs(w - weight) for w in WEIGHTS], "notes")
        (label,) = (e for e in ET.fromstring(svg).iter(f"{SVG}text") if e.get("class") == "label")
        assert label.get("text-anchor") == anchor

    def test_one_weight_and_none(self):
        assert "minimum 2.000 at weight 0.5" in texts(sweep_svg([0.5], [2.0], "notes"))
        assert texts(sweep_svg([], [], "notes")) == ["notes", "No weight was measured."]

    def test_lists_of_different_lengths_are_refused(self):
        with pytest.raises(ValueError, match="shorter"):
            sweep_svg([0.1, 0.2], [1.0], "notes")


class TestLevels:
    def test_every_member_is_a_line_over_the_middles_of_its_levels(self):
        svg = levels_svg(LEVELS)
        core, small = polylines(svg)
        assert len(core) == len(small) == 10
        steps = [b[0] - a[0] for a, b in itertools.pairwise(core)]
        assert steps == pytest.approx([steps[0]] * 9, abs=0.11)
        assert {"core 5.900", "small 4.600", "nats per token"} <= set(texts(svg))
        assert all(y > other for (_, y), (_, other) in zip(small, core, strict=True))  # a lower loss is lower

    def test_levels_without_a_loss_are_left_out_and_a_member_without_any_too(self):
        holes = [math.nan, *LEVELS["core"][1:8], math.inf, 9.0]
        svg = levels_svg({"small": [math.nan] * 10, "core": holes})
        (line,) = polylines(svg)
        assert len(line) == 8
        assert "small" not in " ".join(texts(svg))
        assert texts(levels_svg({"core": [math.nan] * 10}, "notes")) == [
            "notes",
            "Too little was measured to draw losses by noise level.",
        ]

    def test_a_band_shows_the_interval_and_what_has_none_is_not_drawn(self):
        margins = {"core": [math.nan, *[0.2] * 9], "small": [math.nan] * 10}
        svg = charts.to_svg(charts.level_losses(LEVELS, "", margins))
        (line,) = polylines(svg)
        (outline,) = [polygon.get("points", "").split() for polygon in ET.fromstring(svg).iter(f"{SVG}polygon")]
        assert (len(line), len(outline)) == (9, 18)
        upper, lower = (float(place.split(",")[1]) for place in (outline[0], outline[-1]))
        assert line[0][1] - upper == pytest.approx(lower - line[0][1], abs=0.11)
        assert upper < line[0][1]

    def test_a_member_looks_the_same_whoever_else_has_losses(self):
        styles = [
            [g.get("class") for g in ET.fromstring(levels_svg(members)).iter(f"{SVG}g")]
            for members in (LEVELS, {**LEVELS, "core": [math.nan] * 10})
        ]
        assert styles == [["first", "second"], ["second"]]


class TestBars:
    def bars(self, counts: list[int]) -> list[dict[str, float]]:
        rects = ET.fromstring(bars_svg(counts)).iter(f"{SVG}rect")
        return [{key: float(r.get(key, "nan")) for key in ("x", "y", "width", "height")} for r in rects if r.get("x")]

    def test_a_bar_is_as_high_as_there_are_documents_and_stands_on_the_axis(self):
        bars = self.bars([0, 0, 10, 0, 40, 20])
        assert [bar["height"] / bars[0]["height"] for bar in bars] == pytest.approx([1, 4, 2], rel=0.01)
        assert {round(bar["y"] + bar["height"]) for bar in bars} == {338}
        assert len({bar["width"] for bar in bars}) == 1

    @pytest.mark.parametrize("counts", [[1], [0, 0, 3], [5] * 9, [7] * 18, [0] * 16 + [2]])
    def test_the_axis_goes_over_the_lengths_that_there_are_in_powers_of_two(self, counts):
        svg = bars_svg(counts)
        found = ticks(svg, "middle")
        low = next(k for k, count in enumerate(counts) if count)
        assert 2 <= len(found) <= 10
        assert found[0] == 2**low
        assert {b / a for a, b in itertools.pairwise(found)} in ({2}, {4})
        assert all(bar["x"] >= 64 and bar["x"] + bar["width"] <= 688 for bar in self.bars(counts))

    def test_no_document_is_a_sentence(self):
        assert texts(bars_svg([], "notes")) == ["notes", "There is no document."]


SWEEPS = {"mix": [(0.1, 2.0), (0.5, 1.5), (1.0, 1.8)], "average": [(0.1, 1.9), (1.0, 1.8)]}


def test_each_ensembles_minimum_is_ringed_and_written_at_its_line():
    picture = charts.weight_sweeps(SWEEPS, "Both")
    assert len(list(picture.iter("polyline"))) == 2
    assert len([one for one in picture.iter("circle") if one.get("class") == "ring"]) == 2
    labels = [one.text for one in picture.iter("text") if one.get("class") == "label"]
    assert labels == ["mix 1.500 at 0.5", "average 1.800 at 1"]


def test_an_ensemble_without_a_finite_point_is_left_out_and_without_any_a_sentence_says_so():
    picture = charts.weight_sweeps({"mix": [(0.1, float("nan"))], "average": SWEEPS["average"]}, "One")
    assert [one.text for one in picture.iter("text") if one.get("class") == "label"] == ["average 1.800 at 1"]
    assert "No weight was measured." in charts.to_svg(charts.weight_sweeps({}, "None"))


def test_stacked_pictures_stand_one_below_the_other_in_one_file():
    pictures = [charts.weight_sweeps(SWEEPS, title) for title in ("first", "second")]
    root = ET.fromstring(charts.to_svg(charts.stacked(pictures, "all")))
    inner = [one for one in root if one.tag.endswith("svg")]
    assert [int(one.get("y")) for one in inner] == [0, int(inner[0].get("height"))]
    assert int(root.get("height")) == 2 * int(inner[0].get("height"))


def test_reliability_is_drawn_beside_the_line_on_which_confidence_is_right() -> None:
    svg = charts.to_svg(charts.reliability({"core": [(0.1, 0.2), (0.9, 0.5)], "ensemble": [(0.5, 0.5)]}, "Calibrated"))
    ideal, core, ensemble = polylines(svg)
    assert {"core", "ensemble", "confidence", "share that is right"} <= set(texts(svg))
    assert ticks(svg, "middle") == ticks(svg, "end") == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    ((left, bottom), (right, top)), ((x, y),) = ideal, ensemble
    assert ((x - left) / (right - left), (y - bottom) / (top - bottom)) == pytest.approx((0.5, 0.5), abs=0.01)
    assert core[1][1] > top + 0.4 * (bottom - top)  # less often right than it says


@pytest.mark.parametrize("name", ["mix", "a-name-that-is-far-too-long-for-a-picture"])
def test_labels_of_lines_fit_into_the_picture_also_in_the_type_for_narrow_screens(name):
    (label,) = (
        one for one in charts.level_losses({name: LEVELS["core"]}, "").iter("text") if one.get("class") == "label"
    )
    assert float(label.get("x", "nan")) + 12.3 * len(label.text or "") <= 720


def test_an_author_without_bins_takes_no_other_authors_name():
    picture = charts.reliability({"core": [], "small": [(0.2, 0.1), (0.8, 0.9)]}, "")
    assert [one.text for one in picture.iter("text") if one.get("class") == "label"] == ["small"]
