"""The benchmarks' facts: their texts answer them, and paraphrased ones in other words."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ssdcli.demo.story import NOTEBOOK

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
RUN = 5  # consecutive words that no paraphrased prompt shares with a text


def read(path):
    return path.read_text(encoding="utf-8")


def facts_of(path):
    return [json.loads(line) for line in read(path).splitlines()]


NOTEBOOK_FACTS = facts_of(DATA / "notebook_paraphrased.jsonl")
PRIVATE_FACTS = facts_of(DATA / "private_context.jsonl")
VERBATIM = [fact for fact in PRIVATE_FACTS if fact["kind"] == "verbatim"]
PARAPHRASED = [fact for fact in PRIVATE_FACTS if fact["kind"] == "paraphrased"]
CONTEXT = read(DATA / "private_context.md")
NOTES = {path.name: read(path) for path in sorted((NOTEBOOK / "notes").glob("*.md"))}
NOTEBOOK_TEXTS = [*NOTES.values(), *(read(path) for path in sorted((NOTEBOOK / "heldout").glob("*.md")))]
HELDOUT = {path.name: read(path) for path in sorted((DATA / "private_heldout").glob("*.md"))}


def named(facts):
    return pytest.mark.parametrize("fact", facts, ids=[fact["id"] for fact in facts])


def spoken(text):
    """The text without its line ends and its capitals."""
    return " ".join(text.split()).casefold()


def runs(text, length=RUN):
    """All runs of so many consecutive words, without punctuation."""
    words = re.findall(r"[\w']+", text.casefold())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def states(text, answer):
    """Whether the answer is in the text, as whole words that are spelled so; a sentence may begin with it."""
    capital = answer[0].upper() + answer[1:]
    return bool(re.search(rf"\b(?:{re.escape(answer)}|{re.escape(capital)})\b", " ".join(text.split())))


@pytest.mark.parametrize("facts", [NOTEBOOK_FACTS, PRIVATE_FACTS], ids=["notebook", "private"])
def test_forty_facts_are_all_different(facts):
    for field in ("id", "prompt", "answer"):
        assert len({spoken(fact[field]) for fact in facts}) == 40


@named([*NOTEBOOK_FACTS, *PRIVATE_FACTS])
def test_an_answer_is_short_and_not_in_its_prompt(fact):
    assert 1 <= len(fact["answer"].split()) <= 4
    assert spoken(fact["answer"]) not in spoken(fact["prompt"])
    assert fact["prompt"] == fact["prompt"].strip()


@named(NOTEBOOK_FACTS)
def test_a_note_states_the_fact_in_other_words(fact):
    assert states(NOTES[Path(fact["source"]).name], fact["answer"])
    assert not any(runs(fact["prompt"]) & runs(text) for text in NOTEBOOK_TEXTS)


def test_the_notebooks_facts_are_spread_and_not_those_of_its_cloze():
    assert len({fact["source"] for fact in NOTEBOOK_FACTS}) >= 30
    cloze = {spoken(fact["answer"]) for fact in facts_of(NOTEBOOK / "cloze.jsonl")}
    assert not cloze & {spoken(fact["answer"]) for fact in NOTEBOOK_FACTS}


def test_half_of_the_private_facts_are_verbatim():
    assert Counter(fact["kind"] for fact in PRIVATE_FACTS) == {"verbatim": 20, "paraphrased": 20}
    assert {fact["source"] for fact in PRIVATE_FACTS} == {"private_context.md"}


@named(VERBATIM)
def test_a_verbatim_fact_stands_once_in_the_document(fact):
    text = " ".join(CONTEXT.split())
    assert text.count(fact["prompt"]) == 1
    assert re.search(rf"{re.escape(fact['prompt'])} {re.escape(fact['answer'])}\b", text)


@named(PARAPHRASED)
def test_a_paraphrased_fact_stands_in_the_document_in_other_words(fact):
    assert states(CONTEXT, fact["answer"])
    assert not runs(fact["prompt"]) & runs(CONTEXT)


@named(PRIVATE_FACTS)
def test_the_notebook_knows_no_private_answer(fact):
    assert not any(states(text, fact["answer"]) for text in NOTEBOOK_TEXTS)


def test_the_document_and_its_heldout_texts_are_as_long_as_they_say():
    assert 1900 <= len(CONTEXT.split()) <= 2100
    assert len(HELDOUT) == 6
    assert all(150 <= len(text.split()) <= 250 for text in HELDOUT.values())


@pytest.mark.parametrize("name", HELDOUT)
def test_a_heldout_text_is_new_and_of_the_documents_world(name):
    paragraphs = {spoken(piece) for piece in CONTEXT.split("\n\n")}
    assert not paragraphs & {spoken(piece) for piece in HELDOUT[name].split("\n\n")}
    assert sum(states(HELDOUT[name], fact["answer"]) for fact in PRIVATE_FACTS) >= 3


ENTITIES = [json.loads(line) for line in read(DATA / "invented_entities.jsonl").splitlines()]


def test_thirty_things_have_five_facts_and_five_inferences_each():
    assert len({entity["name"] for entity in ENTITIES}) == len(ENTITIES) == 30
    assert all(len(entity[kind]) == 5 for entity in ENTITIES for kind in ("facts", "inferences"))
    prompts = [asked["prompt"] for entity in ENTITIES for kind in ("facts", "inferences") for asked in entity[kind]]
    assert len(set(prompts)) == len(prompts) == 300


@pytest.mark.parametrize("entity", ENTITIES, ids=[entity["name"] for entity in ENTITIES])
def test_definitions_state_facts_in_other_words_and_do_not_state_inferences(entity):
    definition, name = spoken(entity["definition"]), spoken(entity["name"])
    words = re.findall(r"[\w']+", definition)
    for asked in (*entity["facts"], *entity["inferences"]):
        assert not runs(spoken(asked["prompt"]).replace(name, "It"), RUN + 1) & runs(definition, RUN + 1)
    assert all(spoken(fact["answer"]) in definition for fact in entity["facts"])
    assert all(spoken(one["answer"]) not in words for one in entity["inferences"])
    assert all(spoken(one["answer"]) not in spoken(one["prompt"]).split() for one in entity["inferences"])
