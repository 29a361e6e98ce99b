from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from ssdcli.training.report import CardFacts, loss_curve_svg, metrics_lines, model_card, sweep_svg

SVG = "{http://www.w3.org/2000/svg}"
WEIGHTS = [i / 10 for i in range(11)]
FACTS = CardFacts(
    name="notes",
    kind="small",
    size="mini",
    parameters=5_012_480,
    body_parameters=1_769_472,
    process="simplex",
    constants={"K": 5.0, "s": 1e-4},
    block_size=32,
    context=512,
    vocabulary=8192,
    core="starter",
    weight=0.3,
    data_lines=["read 1,684 documents (1.8 M characters) from 12 files"],
    data_fingerprint="ab12cd",
    train_tokens=412_000,
    trained_tokens=4_120_000,
    steps=1700,
    seconds=3754.4,
    device="cpu",
    heldout={"small nats per token": 4.1512, "ensemble nats per token": 3.8},
    command="ssd train-small notes/ --for starter --name notes",
)


def history(points: int, heldout_every: int = 5) -> list[dict[str, float]]:
    curve = [{"step": 17 * i, "loss": 4 + 5 * math.exp(-i / 12), "seconds": 2.0 * i} for i in range(1, points + 1)]
    for point in curve[heldout_every - 1 :: heldout_every]:
        point["heldout"] = point["loss"] + 0.2
    return curve


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


def row(card: str, name: str) -> str:
    found = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.MULTILINE)
    assert found is not None, name
    return found[1]


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


class TestPictures:
    PICTURES = (
        lambda title: loss_curve_svg(history(40), title),
        lambda title: loss_curve_svg([], title),
        lambda title: sweep_svg(WEIGHTS, WEIGHTS, title),
        lambda title: sweep_svg([], [], title),
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
        light, dark = picture("notes").split("@media")
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


class TestSweep:
    def test_the_minimum_is_marked_where_it_is(self):
        svg = sweep_svg(WEIGHTS, [1.5 + (w - 0.3) ** 2 for w in WEIGHTS], "notes")
        (ring,) = (e for e in ET.fromstring(svg).iter(f"{SVG}circle") if e.get("class") == "ring")
        (line,) = polylines(svg)
        assert (float(ring.get("cx", "nan")), float(ring.get("cy", "nan"))) == line[3]
        assert "minimum 1.500 at weight 0.3" in texts(svg)
        assert "bits per byte" in texts(svg)

    def test_the_order_of_the_weights_does_not_matter(self):
        bits = [1.5 + (w - 0.3) ** 2 for w in WEIGHTS]
        assert sweep_svg(WEIGHTS[::-1], bits[::-1], "notes") == sweep_svg(WEIGHTS, bits, "notes")

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


class TestModelCard:
    def test_the_front_matter_names_a_license_only_if_it_is_known(self):
        unknown, known = model_card(FACTS), model_card(replace(FACTS, license="apache-2.0"))
        assert unknown.startswith("---\nlibrary_name: ssd\ntags: [diffusion, ssd]\n---\n\n# notes\n")
        assert known.startswith('---\nlicense: "apache-2.0"\nlibrary_name: ssd\n')

    def test_a_small_model_is_used_beside_its_core_and_a_core_by_itself(self):
        core = replace(FACTS, name="tiny", kind="core", size=None, core=None, weight=None)
        assert 'ssd generate "Dear reader," --with notes' in model_card(FACTS)
        assert "`starter`" in model_card(FACTS)
        assert "ssd generate --core tiny" in model_card(core)
        assert "--with" not in model_card(core)

    def test_the_tuned_weight_is_told_or_how_to_find_one(self):
        assert "tuned weight is 0.3" in model_card(FACTS)
        assert "`--with notes=W` sets one" in model_card(replace(FACTS, weight=None))

    def test_the_makings_are_all_there(self):
        card = model_card(FACTS)
        assert FACTS.command in card
        assert f"- {FACTS.data_lines[0]}\n" in card
        assert row(card, "parameters") == "5,012,480, of which 1,769,472 beyond the embeddings"
        assert row(card, "noise process") == "simplex (K = 5, s = 0.0001)"
        assert row(card, "seen in training") == "4,120,000 tokens, 10.0 passes"
        assert row(card, "time") == "1 h 2 min on cpu"
        expected = {"size": "mini", "made for": "starter", "block": "32 tokens", "context": "512 tokens"}
        expected |= {"vocabulary": "8,192 tokens", "training split": "412,000 tokens", "steps": "1,700"}
        expected |= {"data fingerprint": "ab12cd"}
        assert {name: row(card, name) for name in expected} == expected

    def test_what_is_not_known_is_left_out(self):
        card = model_card(replace(FACTS, size=None, core=None, constants={}, train_tokens=0))
        assert "| size |" not in card
        assert "| made for |" not in card
        assert row(card, "noise process") == "simplex"
        assert "passes" not in card
        assert "None" not in card

    def test_held_out_losses_are_a_table_or_a_sentence(self):
        assert row(model_card(FACTS), "small nats per token") == "4.151"
        assert row(model_card(FACTS), "ensemble nats per token") == "3.800"
        assert "Nothing was measured." in model_card(replace(FACTS, heldout={}))

    def test_the_privacy_of_the_weights_is_told(self):
        limits = model_card(FACTS).partition("## Limits and privacy")[2]
        assert "carry what it was trained on: share it as you would share the text" in limits

    def test_names_of_files_and_fields_do_not_leave_the_data(self):
        lines = [
            "skipped 2 files: empty (first: letters/divorce (draft).txt)",
            "skipped 1 row: no 'text', nor 'prompt' and 'response' (first: a.jsonl:1, fields: diagnosis)",
        ]
        card = model_card(replace(FACTS, data_lines=lines))
        assert "- skipped 2 files: empty\n" in card
        assert "divorce" not in card
        assert "diagnosis" not in card

    def test_odd_words_cannot_break_the_markdown(self):
        card = model_card(replace(FACTS, device="a|b <i>\n# c", command="ssd `x` ```\n\x1b[2J"))
        assert row(card, "time").endswith(r"on a\|b \<i\> # c")
        assert "````sh\nssd `x` ```\n\ufffd[2J\n````\n" in card

    @pytest.mark.parametrize(("seconds", "told"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (754, "12 min 34 s")])
    def test_times_are_told_as_people_say_them(self, seconds, told):
        assert row(model_card(replace(FACTS, seconds=seconds)), "time") == f"{told} on cpu"
