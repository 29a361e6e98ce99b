"""`ssd eval` tells, document by document, what the members were trained on, and leaves it out."""

from __future__ import annotations

import json
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.cli import app, console
from ssdcli.data.documents import Document
from ssdcli.data.trained_documents import TrainedDocuments
from ssdcli.errors import UsageError
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.evaluate import evaluate
from ssdcli.evaluation.heldout_text import Training, read_heldout, union
from ssdcli.evaluation.measurement import TrainedDocument
from ssdcli.registry.archive import TRAINED_DOCUMENTS
from ssdcli.registry.manifest import write_manifest
from ssdcli.registry.store import Registry
from ssdcli.text.messages import Message
from ssdcli.training.job import train_small
from tests.tiny import add_tiny
from tests.trainings import tiny_settings

DRAW = random.Random(0)
WORDS = ["the", "boiler", "is", "cold", "again", "and", "dear", "landlord", "stairs", "are", "dark"]


def written(count):
    return [" ".join(DRAW.choices(WORDS, k=60)) for _ in range(count)]


def file_of(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The home of a model of 40 documents, and those that it was trained on and that it held out."""
    folder = tmp_path_factory.mktemp("trained")
    texts = written(40)
    settings = tiny_settings(file_of(folder / "own.jsonl", texts), name="notes", steps=1, heldout=0.2)
    registry = Registry(folder)
    train_small(settings, registry=registry)
    known = TrainedDocuments.read(registry.find("notes").folder)
    learned = [text for text in texts if known.spans(text)]
    return registry, learned, [text for text in texts if text not in learned]


def read(data, registry, names=("notes",), **settings):
    entries = [registry.find(name) for name in names]
    return read_heldout(data, entries[0], Training.of(entries, registry), EvalSettings(**settings))


def texts_of(found):
    return {document.text for document in found.documents}


def test_the_documents_on_the_training_side_are_known(trained):
    registry, learned, heldout = trained
    assert 25 < len(learned) < 39
    whole = read([str(registry.home / "own.jsonl")], registry)
    assert texts_of(whole) == set(heldout)
    assert "was trained on this text" in whole.remarks[-1]


def test_documents_that_a_member_was_trained_on_are_left_out_one_by_one(trained, tmp_path):
    registry, learned, heldout = trained
    new = written(5)
    data = file_of(tmp_path / "some.jsonl", [*learned[:3], *heldout[:2], *new])
    found = read([data], registry)
    assert texts_of(found) == {*heldout[:2], *new}
    places = [f"{data}:{line}" for line in (1, 2, 3)]
    assert [Path(one.document).name for one in found.trained.documents] == [Path(place).name for place in places]
    assert {(one.members, one.share) for one in found.trained.documents} == {(("notes",), 1.0)}
    assert found.remarks[0].startswith("3 of 10 documents hold text that 'notes' was trained on (first: ")


def test_they_are_measured_where_that_is_asked_for(trained, tmp_path):
    registry, learned, _ = trained
    texts = [*learned[:3], *written(5)]
    found = read([file_of(tmp_path / "some.jsonl", texts)], registry, include_trained=True)
    assert texts_of(found) == set(texts)
    assert found.trained.included
    assert len(found.trained.documents) == 3
    assert "figures are too good" in found.remarks[0]
    own = read([str(registry.home / "own.jsonl")], registry, include_trained=True)
    assert len(own.documents) == 40


def test_of_a_note_that_has_grown_the_new_part_is_measured(trained, tmp_path):
    registry, learned, _ = trained
    (added,) = written(1)
    found = read([file_of(tmp_path / "grown.jsonl", [f"{learned[0]}\n\n{added}"])], registry)
    assert [text.strip() for text in texts_of(found)] == [added]
    assert 0.4 < found.trained.documents[0].share < 0.6


def test_where_nothing_is_new_that_is_said(trained, tmp_path):
    registry, learned, _ = trained
    with pytest.raises(UsageError, match=r"trained on all of this text.*--include-trained"):
        read([file_of(tmp_path / "some.jsonl", learned[:3])], registry)


def test_a_model_knows_what_those_knew_that_it_was_continued_from(trained, tmp_path, monkeypatch):
    registry, learned, _ = trained
    monkeypatch.setenv("SSD_HOME", str(registry.home))
    add_tiny("later", kind="small", core="notes", base="notes")
    data = file_of(tmp_path / "some.jsonl", [learned[0], *written(2)])
    found = read([data], registry, ["later", "notes"])
    assert [one.members for one in found.trained.documents] == [("later", "notes")]
    assert len(found.documents) == 2


def test_a_model_that_kept_no_digests_is_named(tmp_path):
    add_tiny("imported", data="abc")
    folder = Registry().find("imported").folder
    (folder / "recipe.toml").write_text("seed = 0\nheldout = 0.05\n")
    found = read([file_of(tmp_path / "some.jsonl", written(2))], Registry(), ["imported"])
    assert found.trained.unknown == ("imported",)
    assert "'imported'" in found.remarks[0]
    write_manifest(folder, replace(Registry().find("imported").manifest, source="org/model@0123"))
    assert Training.of([Registry().find("imported"), Registry().find("starter")], Registry()).unknown == ()


@pytest.mark.parametrize(
    ("spans", "joined"),
    [([], []), ([(5, 9), (0, 5)], [(0, 9)]), ([(0, 9), (2, 4), (10, 12)], [(0, 9), (10, 12)])],
)
def test_spans_that_overlap_or_touch_are_one(spans, joined):
    assert union(spans) == joined


def test_a_conversation_counts_as_a_whole():
    turns = (Message("user", "Is the boiler cold again? " * 10), Message("assistant", "It is. " * 10))
    grown = Document.conversation((*turns, Message("user", "And the stairs?")), "talk.jsonl:1")
    known = TrainedDocuments()
    known.add(Document.conversation(turns, "talk.jsonl:1").text)
    assert Training({"notes": [known]}, ()).spans(grown) == {"notes": [(0, len(grown.text))]}


def test_an_evaluation_tells_of_them(trained, tmp_path):
    registry, learned, _ = trained
    data = file_of(tmp_path / "some.jsonl", [*learned[:2], *written(9)])
    found = evaluate([data], core="notes", registry=registry)
    assert found.documents == 9
    told = found.to_json()["trained"]
    assert (told["included"], told["unknown"]) == (False, ())
    assert [set(one) for one in told["documents"]] == [{"document", "members", "share"}] * 2
    assert found.trained.documents[0] == TrainedDocument(**told["documents"][0])


def test_the_command_leaves_them_out_or_includes_them(trained, tmp_path, monkeypatch, capfd):
    registry, learned, _ = trained
    monkeypatch.setenv("SSD_HOME", str(registry.home))
    data = file_of(tmp_path / "some.jsonl", [*learned[:2], *written(2)])
    for flags, documents in (((), 2), (("--include-trained",), 4)):
        assert app.main(["eval", data, "--core", "notes", "--json", *flags]) == 0
        answer, said = capfd.readouterr()
        assert json.loads(answer)["documents"] == documents
        assert said.startswith("ssd: warning: 2 of 4 documents hold text that 'notes' was trained on")
    console.configure(quiet=False, debug=False)


def test_the_digests_never_leave(trained, tmp_path, monkeypatch, capfd):
    registry, *_ = trained
    monkeypatch.setenv("SSD_HOME", str(registry.home))
    monkeypatch.chdir(tmp_path)
    assert TRAINED_DOCUMENTS in registry.find("notes").manifest.files
    assert registry.verify("notes") == []
    assert app.main(["models", "export", "notes"]) == 0
    capfd.readouterr()
    with tarfile.open("notes.tar") as archive:
        assert f"notes/{TRAINED_DOCUMENTS}" not in archive.getnames()
        assert TRAINED_DOCUMENTS not in archive.extractfile("notes/ssd.json").read().decode()
    console.configure(quiet=False, debug=False)
