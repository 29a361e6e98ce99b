"""An audit finds what a model has memorised, notes it, and refuses what it cannot judge by."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssdcli.data.canaries import FILE
from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.evaluation.audit.audit import _Auditor, audit
from ssdcli.evaluation.audit.findings import Audit
from ssdcli.evaluation.audit.training_text import Excerpts, find_training_text
from ssdcli.evaluation.audit.verdict import ADVANTAGE, EXPOSURE, VERBATIM, judge
from ssdcli.evaluation.eval_settings import AuditSettings
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.writer import Writer
from ssdcli.registry.store import Registry
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_causal, add_core
from tests.tiny import add_tiny
from tests.trainings import tiny_settings

QUICK = AuditSettings(minutes=1e-6)  # one round of each measure
WORDS = tuple(f"{first}{second}" for first in ("ba", "ko", "mi", "tu", "re") for second in ("na", "lo", "ri", "su"))


def write_documents(path: Path, count: int, words: int = 50) -> str:
    """Short documents of random words, one a line of JSON."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def train(home: Path, data: str, **changes) -> Registry:
    registry = Registry(home)
    train_small(tiny_settings(data, **{"name": "notes", "checkpoint_seconds": 600.0, **changes}), registry=registry)
    return registry


@pytest.fixture
def _brief(monkeypatch):
    """Less to compute in each round."""
    monkeypatch.setattr("ssdcli.evaluation.audit.audit._CANDIDATES", 127)
    monkeypatch.setattr("ssdcli.evaluation.audit.audit._TEXT_TOKENS", 24)


@pytest.fixture(scope="module")
def memorised(tmp_path_factory) -> tuple[Registry, str]:
    """A model that has seen a few documents and four canaries very often."""
    folder = tmp_path_factory.mktemp("memorised")
    data = write_documents(folder / "notes.jsonl", 50)
    shape = {"hidden": 96, "batch_tokens": 768, "learning_rate": 1e-2, "gap_share": 0.0, "patience": 0}
    return train(folder, data, steps=60, heldout=0.5, canaries=4, process="masked", **shape), data


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> tuple[Registry, str]:
    """A model that has hardly learned anything."""
    folder = tmp_path_factory.mktemp("untrained")
    data = write_documents(folder / "notes.jsonl", 60)
    return train(folder, data, steps=1, heldout=0.5, canaries=8), data


@pytest.fixture(scope="module")
def leaky(memorised) -> Audit:
    registry, data = memorised
    return audit("notes", [data], AuditSettings(minutes=0.05), registry=registry)


def test_what_a_model_has_memorised_is_found(leaky):
    assert leaky.exposure is not None
    assert leaky.exposure.by_times()[8] >= leaky.exposure.most - 1
    assert leaky.membership is not None
    assert leaky.membership.loss.advantage > 0.6
    assert leaky.verdict() == judge("notes", leaky.metrics())
    assert leaky.to_json()["level"] == "high"


@pytest.mark.usefixtures("_brief")
def test_a_model_that_has_learned_nothing_gives_nothing_away(untrained):
    registry, data = untrained
    found = audit("notes", [data], QUICK, registry=registry)
    assert found.exposure is not None
    assert found.exposure.mean < 1.44 + 4.5 * 1.44 / 8**0.5
    assert found.membership is not None
    assert abs(found.membership.loss.advantage) < 4.5 * found.membership.loss.advantage_error
    assert found.verbatim is not None
    assert found.verbatim.worst in (None, 0.0)


def test_the_results_are_noted_in_the_manifest_and_the_text_is_not(leaky, memorised):
    registry, data = memorised
    manifest = registry.find("notes").manifest
    assert leaky.metrics().items() <= manifest.metrics.items()
    assert {EXPOSURE, VERBATIM, ADVANTAGE} <= leaky.metrics().keys()
    assert "core bits per byte" in manifest.metrics
    assert registry.verify("notes") == []
    words = json.loads(Path(data).read_text().splitlines()[0])["text"].split()[:4]
    assert not any(" ".join(words).encode() in path.read_bytes() for path in registry.find("notes").folder.iterdir())


@pytest.mark.usefixtures("_brief")
def test_the_same_seed_finds_the_same(untrained):
    registry, data = untrained
    once, again = (audit("notes", [data], replace(QUICK, seed=3), registry=registry).metrics() for _ in range(2))
    assert once == again


@pytest.mark.usefixtures("_brief")
def test_text_that_the_model_copies_is_all_copied(untrained, monkeypatch):
    registry, data = untrained
    found = audit_of_writing(_trained_on(registry, data), registry, data, monkeypatch)
    assert found.verbatim is not None
    assert (found.verbatim.unprompted, found.verbatim.worst) == (1.0, 1.0)
    assert found.verdict() == judge("notes", {VERBATIM: 1.0})


def _trained_on(registry: Registry, data: str) -> str:
    text = find_training_text(registry.find("notes"), [data])
    return next(document for document, is_heldout in text.documents() if not is_heldout)


def audit_of_writing(text, registry, data, monkeypatch) -> Audit:
    """An audit of copied text alone, of a model that always writes this text."""

    def write(_writer, requests, _options):
        return [SimpleNamespace(text=text) for _ in requests]

    monkeypatch.setattr(Writer, "generate_batch", write)
    found = audit("notes", [data], QUICK, registry=registry)
    return replace(found, exposure=None, membership=None)


@pytest.mark.usefixtures("_brief")
def test_text_that_the_model_makes_up_is_not_copied(untrained, monkeypatch):
    registry, data = untrained
    found = audit_of_writing("something else entirely " * 5, registry, data, monkeypatch)
    assert found.verbatim is not None
    assert found.verbatim.worst == 0.0


@pytest.mark.usefixtures("_brief")
def test_what_also_stands_in_held_out_text_is_not_copied(tmp_path, monkeypatch):
    """A sentence of every document is no secret of the training text's."""
    phrase = "what everybody writes under a letter, yours sincerely and so on"
    path = tmp_path / "notes.jsonl"
    rows = [json.loads(line)["text"] for line in Path(write_documents(path, 60)).read_text().splitlines()]
    path.write_text("".join(json.dumps({"text": f"{text} {phrase}"}) + "\n" for text in rows))
    registry = train(tmp_path, str(path), steps=1, heldout=0.5)
    found = audit_of_writing(phrase, registry, str(path), monkeypatch)
    assert found.verbatim is not None
    assert found.verbatim.worst == 0.0
    assert 0 < found.verbatim.baseline < 0.1


def test_beside_the_core_members_are_those_that_the_model_knows_better_than_its_core():
    """How hard a document is tells nothing: the model's own loss alone guesses, less than the core's it is certain."""

    class Subject:
        """Loses what a document's difficulty says, less where it was trained on it."""

        backbone = SimpleNamespace(context=64)

        def encode(self, text):
            kind, difficulty = text.split()
            return ScoredText([0, int(difficulty), kind == "train", *[0] * 40], 99)

        def losses(self, heldout, core, seed, rounds):
            assert core is not None
            hard = [one_text.tokens[1] for one_text in heldout]
            own = [one_text.tokens[1] - one_text.tokens[2] for one_text in heldout]
            return np.array([hard, own], dtype=float).T

    draw = random.Random(0)
    train, heldout = ([f"{side} {draw.randrange(1000)}" for _ in range(100)] for side in ("train", "heldout"))
    auditor = _Auditor(Subject(), 0, 1.0, lambda *_: None)
    found = auditor.guess(Excerpts(train, heldout, (100, 100)), core=object())
    assert abs(found.loss.auc - 0.5) < 0.15
    assert (found.calibrated.auc, found.strongest) == (1.0, found.calibrated)


@pytest.mark.usefixtures("_brief")
def test_canaries_are_measured_without_the_text(untrained):
    registry, _ = untrained
    found = audit("notes", (), QUICK, registry=registry)
    assert found.exposure is not None
    assert (found.verbatim, found.membership) == (None, None)
    assert "name the text" in " ".join(found.remarks())


@pytest.mark.usefixtures("_brief")
def test_a_small_model_is_also_measured_beside_its_core(tmp_path):
    add_tiny("big", process="simplex")
    data = write_documents(tmp_path / "notes.jsonl", 60)
    changes = {"core": "big", "block_size": None, "vocabulary": 8192}
    registry = train(Registry().home, data, steps=1, heldout=0.5, **changes)
    found = audit("notes", [data], QUICK, registry=registry)
    assert found.exposure is None
    assert "--canaries" in " ".join(found.remarks())
    assert found.membership is not None
    assert found.membership.calibrated is not None
    registry.remove("big")
    found = audit("notes", [data], QUICK, registry=registry)
    assert found.membership is not None
    assert found.membership.calibrated is None


@pytest.mark.usefixtures("_brief")
def test_a_model_that_reads_its_core_is_measured_with_it_and_not_without(tmp_path):
    add_causal("core")
    data, registry = write_documents(tmp_path / "notes.jsonl", 60), Registry()
    fields = {"name": "notes", "core": "core", "steps": 1, "heldout": 0.5, "canaries": 2, "batch_tokens": 128}
    train_small(TrainSettings(data=(data,), **fields), registry=registry)
    found = audit("notes", [data], QUICK, registry=registry)
    assert None not in (found.exposure, found.verbatim, found.membership)
    assert found.membership.calibrated is not None
    add_core("core", attention="autoregressive", shift=True)  # in bfloat16, so that its weights are others
    with pytest.raises(UsageError, match="'notes' is a small model that reads another 'core' than the one here") as e:
        audit("notes", [data], QUICK, registry=registry)
    assert e.value.remedy.endswith("or train the small model again.")
    registry.remove("core")
    with pytest.raises(NoSuchModel, match="'notes' is a small model that reads 'core', and there is no model"):
        audit("notes", [data], QUICK, registry=registry)


@pytest.mark.usefixtures("_brief")
def test_too_few_documents_give_a_sentence_instead_of_a_number(tmp_path):
    data = write_documents(tmp_path / "notes.jsonl", 30)
    found = audit("notes", [data], QUICK, registry=train(tmp_path, data, steps=1, heldout=0.2))
    assert found.membership is None
    assert "it takes at least 20" in " ".join(found.remarks())
    assert ADVANTAGE not in found.metrics()


def test_other_text_is_refused_and_nothing_is_noted(untrained, tmp_path):
    registry, data = untrained
    before = registry.find("notes").manifest
    other = write_documents(tmp_path / "other.jsonl", 59)
    for wrong in ([other], [data, __file__]):
        with pytest.raises(UsageError, match="not the text that 'notes' was trained on"):
            audit("notes", wrong, QUICK, registry=registry)
    assert registry.find("notes").manifest == before


@pytest.mark.usefixtures("_brief")
def test_the_order_and_the_number_of_files_do_not_matter(untrained, tmp_path):
    registry, data = untrained
    lines = Path(data).read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[30:]))
    (tmp_path / "b.jsonl").write_text("".join(lines[:30]))
    assert audit("notes", [str(tmp_path)], QUICK, registry=registry).verbatim is not None


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (["-"], UsageError, "read twice"),
        (["nowhere.txt"], UsageError, "no file or folder 'nowhere.txt'"),
    ],
)
def test_text_that_cannot_be_read_is_refused(untrained, data, error, sentence):
    with pytest.raises(error, match=sentence):
        audit("notes", data, QUICK, registry=untrained[0])


@pytest.mark.parametrize("recipe", ["seed = ", 'seed = "a"', "heldout = 2.0", "colour = 1", None])
def test_a_recipe_that_tells_no_split_is_refused(tmp_path, recipe):
    add_tiny("notes", kind="small", core="starter", data="abc")
    if recipe is not None:
        (Registry().find("notes").folder / "recipe.toml").write_text(recipe)
    data = write_documents(tmp_path / "notes.jsonl", 3)
    with pytest.raises(SsdError, match="how 'notes' split its text cannot be read"):
        audit("notes", [data], QUICK)


def test_a_model_without_canaries_needs_its_text():
    add_tiny("notes", kind="small", core="starter", data="abc")
    with pytest.raises(UsageError, match=r"nothing to measure.*ssd audit notes DATA"):
        audit("notes")


def test_damaged_canaries_are_told_of():
    add_tiny("notes", kind="small", core="starter", data="abc")
    (Registry().find("notes").folder / FILE).write_text("{}")
    with pytest.raises(SsdError, match="canaries"):
        audit("notes")


def test_a_model_whose_text_is_unknown_here_is_refused():
    add_tiny("pulled", source="org/model@0123")
    for name, reason in (("pulled", "was pulled from org/model@0123"), ("starter", "comes with ssd")):
        with pytest.raises(UsageError, match=reason):
            audit(name, [__file__])
    add_tiny("old")
    with pytest.raises(SsdError, match="does not tell what it was trained on"):
        audit("old", [__file__])
    with pytest.raises(NoSuchModel):
        audit("nobody")


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("inf"), float("nan")])
def test_minutes_that_cannot_be_are_refused(minutes):
    with pytest.raises(UsageError, match="must be above 0"):
        AuditSettings(minutes)
