"""The page that shows a training: what it says, and that nothing in it comes from or goes to anywhere else."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ssdcli.reports.description import Sample, interval, number
from ssdcli.reports.rendering import model_card, report
from tests.reports.descriptions import ADAPTED, CORE, DESCRIPTION, EXACT, UNMEASURED, UNWEIGHED, modelled

VOID = ("meta",)
NASTY = "</p></style></svg><script>alert(1)</script>&amp;\"'<!-- ]]> \x00\x1b[2J \u202e 日記 👩‍👩‍👧"
BAD = replace(
    DESCRIPTION,
    history=[{"step": 1, "loss": math.inf, "seconds": 1.0, "heldout": math.nan}],
    quality=replace(
        DESCRIPTION.quality,
        nats_per_token={"small": math.inf},
        bits_per_byte={"small": math.nan},
        by_level={"small": [math.nan] * 9 + [math.inf]},
    ),
)
VARIANTS = pytest.mark.parametrize(
    "description",
    [
        pytest.param(DESCRIPTION, id="small"),
        pytest.param(CORE, id="core"),
        pytest.param(UNWEIGHED, id="no weight"),
        pytest.param(EXACT, id="code length"),
        pytest.param(replace(DESCRIPTION, history=[], samples=[], lengths=[], quality=UNMEASURED), id="nothing"),
        pytest.param(BAD, id="not finite"),
    ],
)


class Page(HTMLParser):
    """What a browser finds: elements with their texts, whose tags must balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.append((self.open[-1], data))

    def of(self, tag: str) -> list[str]:
        return [text for at, text in self.texts if at == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag != "style")


@VARIANTS
def test_tags_balance_and_headings_go_down_one_by_one(description):
    page = Page(report(description))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert page.tags[0] == ("html", {"lang": "en"})
    assert [tag for tag, _ in page.tags].count("title") == 1 + [tag for tag, _ in page.tags].count("svg")


@VARIANTS
def test_it_needs_nothing_from_elsewhere_and_runs_nothing(description):
    html = report(description)
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & {tag for tag, _ in page.tags}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {"src", "href", "action", "style"} & names
    assert not any(name.startswith("on") for name in names)
    assert not re.search(r"https?:|@import|@font-face|url\(", html)
    policy = next(attributes for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


@VARIANTS
def test_every_picture_has_a_name_and_its_numbers_in_a_table_and_every_table_says_what_its_cells_are(description):
    page = Page(report(description))
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    quality, weighed = description.quality, description.manifest.weight is not None
    assert len(pictures) == 2 + weighed + bool(quality.by_level) + bool(quality.reliability)
    assert all(attributes["role"] == "img" for attributes in pictures)
    tables = [tag for tag, _ in page.tags if tag == "table"]
    assert len(tables) == len(pictures) + 3
    assert [tag for tag, _ in page.tags].count("caption") == len(tables)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")


def test_an_adapter_of_a_causal_core_is_told_to_take_its_place():
    assert "notes takes the place of starter" in report(ADAPTED)
    assert "notes with its memory loses 1.500 ± 0.090" in report(ADAPTED)
    assert "takes the place" not in report(DESCRIPTION)


def test_it_knows_both_backgrounds_phones_and_paper():
    html = report(DESCRIPTION)
    assert html.count("prefers-color-scheme: dark") == 2
    assert "width=device-width" in html
    for medium in ("@media print", "@media (max-width"):
        assert medium in html


def test_whatever_the_text_holds_is_shown_and_not_obeyed():
    description = replace(
        modelled(name=NASTY, core=NASTY),
        device=NASTY,
        command=NASTY,
        data_lines=["read 1 document", f"skipped 1 file: {NASTY}"],
        settings={"data": NASTY},
        samples=[Sample(NASTY, NASTY, {"small": NASTY})],
    )
    html = report(description)
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    shown = NASTY.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert page.of("p").count(shown) == 3
    assert shown in page.of("h1")
    assert shown in page.of("pre")
    assert f"skipped 1 file: {shown}" in page.of("li")
    html.encode("utf-8")
    report(replace(DESCRIPTION, settings={"data": "caf\udce9"})).encode("utf-8")


def test_the_numbers_are_those_of_the_card():
    page, card = Page(report(DESCRIPTION)), model_card(DESCRIPTION)
    quality = DESCRIPTION.quality
    bits = [interval(value, quality.margins[who]) for who, value in quality.bits_per_byte.items()]
    assert bits[0] == "1.590 ± 0.110"
    assert page.of("dd")[:3] == bits
    assert all(f"| {value} |" in card for value in bits)
    for name, value in DESCRIPTION.makings():
        assert name in page.of("th")
        assert value in page.of("td")
    assert page.of("dd")[3:] == ["+0.090 ± 0.020", "0.3", "62.6", "412,000", "10.0"]


def test_the_weights_and_the_levels_are_told_one_by_one():
    cells = Page(report(DESCRIPTION)).texts
    told = [text for _, text in cells]
    for weight, bits in zip(DESCRIPTION.quality.weights, DESCRIPTION.quality.sweep, strict=True):
        place = told.index(f"{weight:g}", told.index("bits per byte"))
        assert told[place + 1] == number(bits)
    for level in range(10):
        place = told.index(f"{level / 10:.1f} to {(level + 1) / 10:.1f}")
        losses = [DESCRIPTION.quality.by_level[who][level] for who in ("core", "small", "ensemble")]
        assert told[place + 1 : place + 4] == [number(loss) for loss in losses]


def test_samples_stand_beside_what_they_try_to_be_and_missing_ones_are_told():
    page = Page(report(DESCRIPTION))
    told = " ".join(page.of("p"))
    first, second = DESCRIPTION.samples
    for text in (first.opening, first.real, *first.written.values(), second.opening):
        assert text.strip() in told
    assert page.of("h4").count("both together") == 1
    assert page.of("h4").count("notes alone") == 2
    assert "no time left" in Page(report(replace(DESCRIPTION, samples=[]))).text


def test_what_was_skipped_is_told_with_its_place_or_that_nothing_was():
    assert DESCRIPTION.data_lines[1] in Page(report(DESCRIPTION)).of("li")
    whole = Page(report(replace(DESCRIPTION, data_lines=DESCRIPTION.data_lines[:1])))
    assert "Nothing was skipped." in whole.text
    assert whole.of("li") == []


def test_a_core_has_no_weight_and_a_small_model_without_one_is_told_why():
    assert not any("weight" in heading for heading in Page(report(CORE)).of("h2"))
    page = Page(report(UNWEIGHED))
    assert "The weight beside starter" in page.of("h2")
    assert "for lack of time or of held-out texts" in page.text
    assert "None" not in page.text


def test_what_was_trained_is_named():
    for description, said in (
        (DESCRIPTION, "notes is a small diffusion model for the core starter: "),
        (modelled(kind="adapter", base="mail"), "notes is an adapter to mail for the core starter: "),
        (modelled(kind="adapter", base="starter"), "notes is an adapter to the core starter: "),
    ):
        assert said in report(description)


def test_the_step_whose_weights_were_kept_is_told():
    step = int(DESCRIPTION.history[24]["step"])
    page = Page(report(replace(DESCRIPTION, kept=step)))
    assert f"The weights that were kept are those of step {step}." in page.text
    assert any(text.startswith("kept ") for text in page.of("text"))


@pytest.mark.parametrize(
    ("points", "told"), [(2, "went from 7.0"), (1, "was measured once: 7.0"), (0, "was not measured")]
)
def test_the_held_out_loss_is_told_as_often_as_it_was_measured(points, told):
    history = [{"step": 1, "loss": 8.0}, *[{"step": 2, "loss": 7.5, "heldout": 7.0}] * points]
    assert f"The held-out loss {told}" in Page(report(replace(DESCRIPTION, history=history))).text


def test_losses_that_are_not_numbers_are_told_so():
    page = Page(report(BAD))
    assert "infinite" in page.of("td")
    assert "nan" not in page.text
    assert "inf " not in page.text


def test_how_often_tokens_are_right_is_drawn_and_told_where_it_was_measured() -> None:
    page = report(EXACT)
    assert "How sure, and how often right" in page
    assert '<th scope="row">confidence</th><td>0.510</td><td>0.500</td><td>10</td>' in page
    assert "How sure, and how often right" not in report(DESCRIPTION)
