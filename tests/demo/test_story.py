"""The demo's parts: what it trains, writes and measures."""

from __future__ import annotations

import json

import pytest

from ssdcli.api import Options, load
from ssdcli.demo import story
from ssdcli.demo.story import (
    AUTHORS,
    NAME,
    Fact,
    _chosen,
    hits,
    open_trio,
    predict,
    read_notebook,
    recall,
    settings_for,
    train,
    write_all,
)
from ssdcli.errors import Interrupted, UsageError
from ssdcli.registry.store import Registry
from ssdcli.training.job import Watcher
from ssdcli.training.unfinished import saved_settings
from tests.notebooks import tiny_notebook, tiny_training
from tests.tiny import add_family

QUICK = Options(max_tokens=8, temperature=0.8)
GREEDY = Options(max_tokens=16, steps=2, temperature=0, seed=0)


@pytest.fixture
def notebook(tmp_path):
    return tiny_notebook(tmp_path / "notebook")


@pytest.fixture
def trio():
    add_family()
    return open_trio("big", "notes")


@pytest.fixture
def core():
    add_family()


def test_the_cast_is_the_core_the_small_model_and_both_at_the_tuned_weight(trio):
    members = {author: {one.name: one.weight for one in writer.members} for author, writer in trio.writers.items()}
    assert members == {"core": {"big": 1}, "small": {"notes": 1}, "ensemble": {"big": 0.7, "notes": 0.3}}
    assert trio.weight == 0.3


def test_samples_are_what_each_writes_from_one_seed(trio):
    prompts = ["Dear landlord,", "the stairs"]
    lineups = {"core": ("big", None), "small": ("none", ["notes"]), "ensemble": ("big", ["notes"])}
    for sample, prompt in zip(write_all(trio, prompts, QUICK), prompts, strict=True):
        assert sample.prompt == prompt
        for author, lineup in lineups.items():
            assert sample.texts[author] == load(*lineup).generate(prompt, QUICK, seed=sample.seed).text


def test_the_gain_is_over_the_better_member(trio, notebook):
    found = predict(trio, notebook.heldout)
    bits = {author: estimate.value for author, estimate in found.bits_per_byte.items()}
    assert found.documents == 3
    assert bits[found.better] == min(bits["core"], bits["small"])
    assert found.gain.value == pytest.approx(bits[found.better] - bits["ensemble"])
    assert found.gain.margin > 0


def test_a_fact_is_known_when_its_answer_is_said_in_whatever_case(trio):
    question = Fact("boiler", "the boiler is", "")
    said = recall(trio, [question], GREEDY)[0].texts
    facts = [Fact(author, question.prompt, said[author].strip().upper()) for author in AUTHORS]
    facts.append(Fact("never", question.prompt, "zzz zzz zzz"))
    found = recall(trio, facts, GREEDY)
    assert all(one.hits[one.fact.id] for one in found[:3])
    assert not any(found[3].hits.values())
    assert all(0 < count < len(facts) for count in hits(found).values())


def test_a_fact_is_told_apart_by_what_its_sentence_adds_to_its_answer(monkeypatch):
    """An answer that is likely after every sentence is not chosen unless its own makes it likelier still."""
    facts = [Fact("a", "a is", "one"), Fact("b", "b is", "often"), Fact("c", "c is", "three")]
    rows = [[-1.0, 5.0, -2.0], [-2.0, 6.0, -2.0], [-2.0, 5.0, -1.0]]  # after each sentence, of each answer
    never = [[-1.0, 5.0, -2.0]] * 3
    monkeypatch.setattr(story, "_scores", lambda trio, facts: {"core": never, "small": rows})
    chosen = _chosen(None, facts)
    assert chosen["small"] == ["one", "often", "three"]
    assert len(set(chosen["core"])) == 1


def test_an_ensemble_that_is_the_small_model_alone_is_compared_with_the_core(notebook):
    add_family()
    Registry().set_weight("notes", 1.0)
    lone = open_trio("big", "notes")
    bits = predict(lone, notebook.heldout).bits_per_byte
    assert bits["ensemble"] == bits["small"] != bits["core"]


def test_training_replaces_an_earlier_model_and_an_unfinished_training(core, notebook):
    settings = tiny_training(notebook)
    train(settings, Watcher())
    with pytest.raises(Interrupted):
        train(settings, Watcher(wants_stop=lambda: True))
    assert saved_settings(Registry(), NAME) is not None
    prepared = []
    trained = train(settings, Watcher(on_prepared=prepared.append))
    model = trained.description.manifest
    assert (model.name, model.core, trained.description.steps) == (NAME, "big", settings.steps)
    assert len(prepared) == 1
    assert saved_settings(Registry(), NAME) is None
    assert Registry().find(NAME).manifest.weight == trained.description.manifest.weight


def test_the_demo_trains_on_the_notes_and_not_on_the_heldout_ones():
    notebook = read_notebook()
    settings = settings_for(notebook, 2, "starter")
    assert settings.data == (str(notebook.folder / "notes"),)
    assert (settings.core, settings.name, settings.minutes) == ("starter", "demo-notebook", 2)


def test_no_time_is_refused():
    with pytest.raises(UsageError, match="minutes"):
        settings_for(read_notebook(), 0, "starter")


def test_a_notebook_is_what_its_files_say(notebook):
    about = json.loads((notebook.folder / "demo.json").read_text(encoding="utf-8"))
    assert read_notebook(notebook.folder) == notebook
    assert notebook.prompts == tuple(about["prompts"])
    assert notebook.facts[0] == Fact("boiler", "the boiler is", "cold")
