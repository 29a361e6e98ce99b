from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssdcli.registry.manifest import NELBO, READER, Manifest
from ssdcli.registry.store import Entry
from ssdcli.reports.overview import Overview, overview
from tests.reports.descriptions import MANIFEST

METRICS = {"core bits per byte": 2.8, "small bits per byte": 3.0, "ensemble bits per byte": 2.6}


def told(*, is_default: bool = False, bundled: bool = False, **changes: Any) -> Overview:
    manifest = Manifest(**{**vars(MANIFEST), **changes})
    return overview(Entry(manifest.name, Path("/nowhere"), manifest, bundled), is_default=is_default)


def test_every_figure_has_its_interval_its_measure_and_its_text() -> None:
    margins = {f"{name} margin": 0.25 for name in METRICS}
    found = told(metrics=METRICS | margins | {"held-out documents": 11}, measure=NELBO, weight=0.4)
    assert found.figures == [
        ("starter alone", "2.800 ± 0.250"),
        ("notes alone", "3.000 ± 0.250"),
        ("both together, at a weight of 0.4", "2.600 ± 0.250"),
    ]
    assert "11 held-out documents" in found.measured
    for part in ("NELBO", "95% confidence intervals", "chose the weight"):
        assert part in found.caveat


def test_a_figure_without_an_interval_says_so_and_a_model_without_figures_how_to_get_them() -> None:
    old = told(metrics=METRICS)
    assert old.figures[0] == ("starter alone", "2.800")
    assert "denoising loss" in old.caveat
    assert "without a confidence interval" in old.caveat
    new = told(metrics={})
    assert (new.figures, new.caveat) == ([], "")
    assert "'ssd eval TEXT --with notes'" in new.measured


@pytest.mark.parametrize(
    ("changes", "title", "origin"),
    [
        ({"base": "old"}, "notes: a small diffusion model for the core starter, 5.01M", "begun from old"),
        ({"attention": "autoregressive"}, "notes: a small causal model for the core starter, 5.01M", ""),
        (
            {"attention": "autoregressive", "architecture": READER},
            "notes: a small model that reads the hidden states of the core starter, 5.01M",
            "",
        ),
        ({"kind": "adapter", "base": "big"}, "notes: an adapter to big for the core starter", "begun from big"),
        ({"kind": "adapter", "base": "starter"}, "notes: an adapter to the core starter, 5.01M", "begun from starter"),
        (
            {"kind": "adapter", "base": "starter", "attention": "autoregressive"},
            "notes: an adapter to the core starter, in whose place it writes, 5.01M",
            "begun from starter",
        ),
        ({"kind": "core", "core": None, "source": f"them/it@{'ab' * 20}"}, "notes: a core", "them/it@abababababab on"),
        ({"kind": "core", "core": None, "source": f"a@b.gguf@sha256:{'ab' * 32}"}, "notes: a core", "from a@b.gguf on"),
        ({"kind": "core", "core": None, "bundled": True}, "notes: a core", "it comes with ssd"),
        ({"text": {"documents": 3, "tokens": 90}}, "notes: a small diffusion model", "3 documents with 90 tokens;"),
        (
            {"text": {"documents": 3, "conversations": 2, "tokens": 90}},
            "notes",
            "3 documents, 2 of them conversations,",
        ),
    ],
)
def test_the_first_lines_say_what_it_is_and_what_it_was_made_from(changes: dict[str, Any], title: str, origin: str):
    found = told(**changes)
    assert found.title.startswith(title)
    assert origin in found.origin


def test_the_default_core_is_named_as_such_and_needs_no_flag() -> None:
    core = {"kind": "core", "core": None}
    assert told(**core).commands[0] == 'ssd generate "Dear reader," --core notes'
    default = told(**core, is_default=True)
    assert default.title.endswith("the default core")
    assert default.commands[0] == 'ssd generate "Dear reader,"'


@pytest.mark.parametrize(
    ("format", "kind"), [("plain", "small"), ("turns", "small"), ("chat", "core"), ("plain", "core")]
)
def test_it_says_whether_a_prompt_is_continued_or_answered(format: str, kind: str) -> None:
    told_of = told(format=format, kind=kind).prompts
    assert told_of.startswith("continued as text" if format == "plain" else "answered")
    assert ("--plain" in told_of) == (format != "plain")
