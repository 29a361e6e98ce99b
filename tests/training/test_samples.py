"""Texts that a finished model writes for its report."""

from __future__ import annotations

import math
import time

import pytest

from ssdcli.engine import sampler
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import make_process
from ssdcli.evaluation.scored_text import ScoredText, scored_text
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.training import samples as subject
from ssdcli.training.samples import write_samples
from tests.tiny import BLOCK, CONSTANTS, TEXT, VOCABULARY, loaded, tiny_backbone, tiny_tokenizer

END = 0
FOREVER = math.inf


@pytest.fixture(autouse=True)
def _short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_LENGTH", 2 * BLOCK)


def author(process: str = "masked", *seeds: int, ends: tuple[int, ...] = (END,)) -> list[Member[LoadedModel]]:
    made = make_process(process, VOCABULARY, CONSTANTS[process])
    models = [loaded(Denoiser(tiny_backbone(seed, process=process), made), ends=ends) for seed in seeds or (0,)]
    return [Member(str(place), model, Constant(1 / len(models))) for place, model in enumerate(models)]


def documents(*texts: str) -> list[ScoredText]:
    return [scored_text(text, tiny_tokenizer(), END) for text in texts]


@pytest.mark.parametrize("process", ["simplex", "masked", "uniform"])
def test_every_author_goes_on_from_the_beginnings_of_three_documents(process):
    texts = [f"{number} {TEXT * 4}" for number in range(5)]
    authors = {"small": author(process), "ensemble": author(process, 0, 1)}
    samples = write_samples(authors, documents(*texts), tiny_tokenizer(), FOREVER)
    assert len(samples) == 3
    for sample, text in zip(samples, texts, strict=False):
        assert sample.opening
        assert text.startswith(sample.opening + sample.real)
        assert len(sample.real) > BLOCK
        assert list(sample.written) == ["small", "ensemble"]
    if process != "uniform":  # whose noise decides nearly alone what these models write
        assert all(sample.written["small"] != sample.written["ensemble"] for sample in samples)


def test_samples_repeat_themselves_and_each_document_has_noise_of_its_own():
    heldout = documents(TEXT, TEXT)
    first, again = (write_samples({"small": author()}, heldout, tiny_tokenizer(), FOREVER) for _ in range(2))
    assert first == again
    assert first[0].written != first[1].written


def test_a_short_document_is_read_to_its_half_and_a_shorter_one_not_at_all():
    heldout = [ScoredText([END, *range(20, 30)], 10), ScoredText([END, *range(20, 24)], 4)]
    (sample,) = write_samples({"small": author()}, heldout, tiny_tokenizer(), FOREVER)
    assert sample.opening == tiny_tokenizer().decode(list(range(20, 25)))
    assert sample.real == tiny_tokenizer().decode(list(range(25, 30)))
    assert write_samples({"small": author()}, heldout[1:], tiny_tokenizer(), FOREVER) == []


@pytest.mark.parametrize("others", [(), (END,)])
def test_a_text_stops_at_any_of_its_ends(others):
    """A model of weights drawn by chance writes no end of its own: a token that it does write is made one."""
    heldout, one = documents(TEXT), author()
    whole = subject._go_on(one, [heldout[0].tokens[1:13]], FOREVER)[0]
    end = whole[5]
    (text,) = subject._go_on(author(ends=(*others, end)), [heldout[0].tokens[1:13]], FOREVER)
    assert text == whole[: whole.index(end)]


def test_without_time_nothing_is_written():
    assert write_samples({"small": author()}, documents(TEXT), tiny_tokenizer(), time.monotonic() - 1) == []


def test_where_the_time_ends_the_texts_are_shorter_and_the_last_author_is_missing(monkeypatch):
    now = [0.0]

    def ticking(*given):
        for step in sampler.sample(*given):
            now[0] += step.last  # a second for each block
            yield step

    monkeypatch.setattr(subject.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(subject, "sample", ticking)
    authors = {"small": author(), "ensemble": author("masked", 0, 1)}
    (short,) = write_samples(authors, documents(TEXT), tiny_tokenizer(), 0.5)
    now[0] = 0.0
    (whole,) = write_samples(authors, documents(TEXT), tiny_tokenizer(), FOREVER)
    assert list(short.written) == ["small"]
    assert 0 < len(short.written["small"]) < len(whole.written["small"])
    assert whole.written["small"].startswith(short.written["small"])
