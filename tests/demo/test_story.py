"""The demo's parts: what it trains, writes and measures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest

from ssdcli.api import Options, load
from ssdcli.demo.story import (
    AUTHORS,
    MEMORY,
    NAME,
    Fact,
    hits,
    open_cast,
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
from tests.pulled import add_causal
from tests.tiny import add_family

QUICK = Options(max_tokens=8, temperature=0.8)
GREEDY = Options(max_tokens=16, steps=2, temperature=0, seed=0)


@pytest.fixture
def notebook(tmp_path):
    return tiny_notebook(tmp_path / "notebook")


@pytest.fixture
def cast():
    add_family()
    return open_cast("big", "notes")


@pytest.fixture
def core():
    add_family()


def test_the_cast_is_the_core_the_small_model_and_both_at_the_tuned_weight(cast):
    members = {author: {one.name: one.weight for one in writer.members} for author, writer in cast.writers.items()}
    assert members == {"core": {"big": 1}, "small": {"notes": 1}, "ensemble": {"big": 0.7, "notes": 0.3}}
    assert cast.weight == 0.3


def test_samples_are_what_each_writes_from_one_seed(cast):
    prompts = ["Dear landlord,", "the stairs"]
    lineups = {"core": ("big", None), "small": ("none", ["notes"]), "ensemble": ("big", ["notes"])}
    for sample, prompt in zip(write_all(cast, prompts, QUICK), prompts, strict=True):
        assert sample.prompt == prompt
        for author, lineup in lineups.items():
            assert sample.texts[author] == load(*lineup).generate(prompt, QUICK, seed=sample.seed).text


def test_the_gain_is_over_the_core(cast, notebook):
    found = predict(cast, notebook.heldout)
    bits = {author: estimate.value for author, estimate in found.bits_per_byte.items()}
    assert found.documents == 3
    assert found.gain.value == pytest.approx(bits["core"] - bits["ensemble"])
    assert found.gain.margin > 0


def test_beside_a_causal_core_the_memory_writes_and_is_measured(notebook):
    add_causal("causal")
    train(replace(tiny_training(notebook, "causal"), name="mine"), Watcher())
    cast = open_cast("causal", "mine")
    assert list(cast.writers) == list(AUTHORS)
    assert list(cast.members) == ["causal", "mine", "mine:memory"]
    assert set(predict(cast, notebook.heldout).bits_per_byte) == set(AUTHORS)
    assert recall(cast, notebook.facts, replace(GREEDY, steps=None))[0].texts[MEMORY]


def test_a_fact_is_known_when_its_answer_is_said_in_whatever_case(cast):
    question = Fact("boiler", "the boiler is", "")
    said = recall(cast, [question], GREEDY)[0].texts
    facts = [Fact(author, question.prompt, text.strip().upper()) for author, text in said.items()]
    facts.append(Fact("never", question.prompt, "zzz zzz zzz"))
    found = recall(cast, facts, GREEDY)
    assert all(one.hits[one.fact.id] for one in found[:3])
    assert not any(found[3].hits.values())
    assert all(0 < count < len(facts) for count in hits(found).values())


def test_on_a_slow_machine_fewer_facts_are_asked(cast, notebook):
    times = count(step=10.0)
    found = recall(cast, [notebook.facts[0]] * 40, GREEDY, seconds=15, clock=lambda: next(times))
    assert len(found) == 16


def test_an_ensemble_that_is_the_small_model_alone_is_compared_with_the_core(notebook):
    add_family()
    Registry().set_weight("notes", 1.0)
    lone = open_cast("big", "notes")
    bits = predict(lone, notebook.heldout).bits_per_byte
    assert bits["ensemble"] == bits["small"] != bits["core"]


def test_training_replaces_an_earlier_model_and_an_unfinished_training(core, notebook):
    settings = tiny_training(notebook)
    train(settings, Watcher())
    with pytest.raises(Interrupted):
        train(settings, Watcher(wants_stop=lambda: True))
    assert saved_settings(Registry(), NAME) is not None
    prepared = []
    trained = train(settings, Watcher(on_prepared=lambda _, what: prepared.append(what)))
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
