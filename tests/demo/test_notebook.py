"""The bundled notebook: enough to train on, and honest to measure with."""

from __future__ import annotations

import json

import pytest

from ssdcli.demo.story import NOTEBOOK, read_notebook

CLOZE = [json.loads(line) for line in (NOTEBOOK / "cloze.jsonl").read_text(encoding="utf-8").splitlines()]


def texts(part):
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((NOTEBOOK / part).glob("*.md"))}


def spoken(text):
    """The text without its line ends and its capitals."""
    return " ".join(text.split()).casefold()


def paragraphs(part):
    return {spoken(piece) for text in texts(part).values() for piece in text.split("\n\n") if len(piece) > 60}


def test_there_is_enough_to_train_on():
    notes = texts("notes")
    assert 60 <= len(notes) <= 100
    assert sum(len(text.encode()) for text in notes.values()) >= 80_000


def test_the_heldout_notes_are_others():
    notes, heldout = texts("notes"), texts("heldout")
    assert len(heldout) >= 10
    assert not set(map(spoken, notes.values())) & set(map(spoken, heldout.values()))
    assert not paragraphs("notes") & paragraphs("heldout")


@pytest.mark.parametrize("fact", CLOZE, ids=[fact["id"] for fact in CLOZE])
def test_a_fact_is_in_its_note_and_not_in_its_question(fact):
    assert spoken(fact["answer"]) in spoken((NOTEBOOK / fact["source"]).read_text(encoding="utf-8"))
    assert spoken(fact["answer"]) not in spoken(fact["prompt"])


def test_the_notebook_is_read_whole():
    notebook = read_notebook()
    assert [fact.id for fact in notebook.facts] == [fact["id"] for fact in CLOZE]
    assert len({fact.id for fact in notebook.facts}) == len(CLOZE) >= 30
    assert len(notebook.prompts) == 3
    assert notebook.notes.is_dir()
    assert notebook.heldout.is_dir()


def test_no_prompt_is_answered_in_the_notes_word_for_word():
    everything = " ".join(spoken(text) for part in ("notes", "heldout") for text in texts(part).values())
    assert not [prompt for prompt in read_notebook().prompts if spoken(prompt) in everything]
