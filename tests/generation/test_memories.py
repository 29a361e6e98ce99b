"""What ensembles write when a memory takes part: rows, copies, limits on them, and where the tokens stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.api import Blend, Options, Request, Writer, choose, load
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.errors import SsdError, UsageError
from ssdcli.models.memory.memory_files import load_memory
from ssdcli.models.memory.text_index import Index
from ssdcli.registry.archive import MEMORY_FILES, export_to_file, import_model
from ssdcli.registry.store import Registry
from tests.memories import CORE, GATES, add_notes, give_memory
from tests.pulled import add_causal
from tests.tiny import BLOCK, add_family, add_tiny, tiny_tokenizer

OPTIONS = Options(max_tokens=BLOCK + 3, seed=3)
GREEDY = replace(OPTIONS, temperature=0.0)
BEGINNING = "Dear landlord, the boiler"


@pytest.fixture(autouse=True)
def notes() -> None:
    add_notes()


def copying() -> Writer:
    """The core, and a memory that decides."""
    return load(CORE, {"notes:memory": 0.99})


def test_a_seed_gives_the_same_text_alone_in_a_batch_and_as_one_of_n() -> None:
    writer = load(None, ["notes"])
    requests = [Request(prompt) for prompt in (BEGINNING, "")]
    results = writer.generate_batch(requests, replace(OPTIONS, n=2))
    assert {one.name for one in results[0].members} == {CORE, "notes", "notes:memory"}
    for result in results:
        alone = writer.generate(result.prompt, OPTIONS, seed=result.seed)
        assert (alone.text, alone.members) == (result.text, result.members)


@pytest.mark.parametrize("blend", [Blend(), Blend("average"), Blend("mix"), Blend("average", "sandwich:0.5")])
def test_a_memory_changes_what_is_written_by_every_rule_and_no_memory_leaves_it_out(blend: Blend) -> None:
    own = load(None, ["notes"], blend=blend).generate(BEGINNING, GREEDY)
    without = load(None, ["notes"], blend=replace(blend, memory=False)).generate(BEGINNING, GREEDY)
    assert "notes:memory" in [one.name for one in own.members]
    assert "notes:memory" not in [one.name for one in without.members]
    assert own.text != without.text


def test_a_memory_continues_what_it_knows_word_for_word() -> None:
    assert copying().generate(BEGINNING, GREEDY).text.startswith(" is cold.\nThe stairs")


def test_a_memory_alone_writes() -> None:
    result = load("none", {"notes:memory": 1.0}).generate(BEGINNING, GREEDY)
    assert result.text.startswith(" is cold.\nThe stairs")
    assert [(one.name, one.role, one.flops) for one in result.members] == [("notes:memory", "memory", 0)]


def test_a_memory_joins_a_diffusion_core_where_it_is_named() -> None:
    add_family()
    add_notes("own", gates=(), core="big")
    assert load(None, {"own:memory": 0.99}).generate(BEGINNING, GREEDY, steps=BLOCK).text
    assert [one.name for one in load(None, ["own"]).members] == ["big", "own"]


@pytest.mark.parametrize("most", [1, 2, 4])
def test_at_most_so_many_tokens_in_a_row_are_copied(most: int) -> None:
    text = copying().generate(BEGINNING, GREEDY, max_copy=most).text
    held = Registry().find("notes")
    index: Index = load_memory(held.folder, "notes", held.manifest.vocabulary, held.manifest.tokenizer).index
    written = load("none", {"notes:memory": 1.0}).codec.encode(text)
    runs = [written[start : start + most + 1] for start in range(len(written) - most)]
    copied = [run for run in runs if any(index.tokens[place] == run[-1] for place in index.places_after(run[:-1]))]
    assert not copied
    assert text != copying().generate(BEGINNING, GREEDY).text


def test_there_must_be_a_memory_whose_copies_are_limited() -> None:
    with pytest.raises(UsageError, match=r"there is no memory whose text could be copied\. Omit --max-copy\."):
        load(CORE).generate(BEGINNING, OPTIONS, max_copy=3)


def test_an_explanation_names_the_file_and_the_line_of_each_copied_token() -> None:
    result = copying().generate(BEGINNING, GREEDY, explain=True)
    assert result.explain is not None
    first, _, second = "".join(token.text for token in result.explain).partition("\n")
    assert (first, second[:4]) == (" is cold.", "The ")
    lines = [token.source for token in result.explain]
    assert lines[0] == "0.md:1"
    assert lines[-1] == "0.md:2"
    assert lines == sorted(lines, key=str)
    shares = {name for token in result.explain for name in token.by}
    assert shares == {CORE, "notes:memory"}
    assert result.to_json()["explain"][0]["source"] == "0.md:1"


def test_a_token_that_stands_nowhere_has_no_source() -> None:
    result = load(CORE, {"notes:memory": 0.001}).generate("zzz", OPTIONS, explain=True)
    assert result.explain is not None
    assert None in [token.source for token in result.explain]


def test_without_a_memory_there_are_no_sources() -> None:
    explained = load(CORE).generate("Dear", OPTIONS, explain=True).explain
    assert explained is not None
    assert {token.source for token in explained} == {None}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What the core was given to read."""
    seen: list[list[int]] = []
    start = CausalDenoiser.start

    def spy(self, prompts):  # type: ignore[no-untyped-def]
        seen.extend(list(prompt.before) for prompt in prompts)
        return start(self, prompts)

    monkeypatch.setattr(CausalDenoiser, "start", spy)
    return seen


def test_a_private_context_is_looked_up_and_the_core_never_reads_it(asked: list[list[int]]) -> None:
    secret = "The boiler is dark, dark, dark."
    writer = choose(CORE, {"context:memory": 0.99}, context=True).open()
    told = writer.generate("The boiler", GREEDY, context=secret)
    assert told.text.startswith(" is dark, dark")
    assert asked == [[0, *tiny_tokenizer().encode("The boiler").ids]]
    assert writer.generate("The boiler", GREEDY).text != told.text


def test_where_no_context_is_given_its_memory_says_nothing() -> None:
    writer = choose(CORE, {"context:memory": 0.5}, context=True).open()
    assert writer.generate("The boiler", OPTIONS).text == load(CORE).generate("The boiler", OPTIONS).text


def test_each_row_of_a_batch_looks_up_its_own_context() -> None:
    writer = choose(CORE, {"context:memory": 0.99}, context=True).open()
    contexts = ("The boiler is dark.", "The boiler stairs again.")
    both = writer.generate_batch([Request("The boiler", context=one) for one in contexts], GREEDY)
    assert [one.text[:5] for one in both] == [" is d", " stai"]


@pytest.mark.parametrize("member", ["context", "context:memory"])
def test_a_context_that_takes_too_long_to_index_is_refused(member: str) -> None:
    writer = choose(CORE, {member: 0.5}, context=True).open()
    with pytest.raises(UsageError, match="is too much to index before each answer") as caught:
        writer.generate("The boiler", OPTIONS, context="word " * 2_000_000)
    assert "--memory-only" in str(caught.value)


def test_a_gap_is_filled_from_both_sides() -> None:
    text = copying().generate("Dear landlord, the ____ is cold.", GREEDY, infill=True, gap=4).text
    assert text.startswith("Dear landlord, the")
    assert text.endswith("is cold.")


def test_a_damaged_memory_is_refused_before_anything_is_written_unless_it_is_left_out() -> None:
    (Registry().find("notes").folder / MEMORY_FILES[1]).write_bytes(b"")
    with pytest.raises(SsdError, match="or leave it out"):
        load(None, ["notes"])
    assert load(None, ["notes"], blend=Blend(memory=False)).generate("Dear", OPTIONS).text


def test_a_memory_does_not_join_the_simplex_process() -> None:
    add_tiny("waves", 1, process="simplex")
    with pytest.raises(UsageError, match="the masked process alone, not the simplex process"):
        choose("waves", {"context:memory": 0.5}, context=True).open()


def test_a_memory_of_another_tokenizer_does_not_fit() -> None:
    add_causal("elsewhere")
    entry = Registry().find("elsewhere")
    changed = replace(entry.manifest, tokenizer="ab" * 32)
    (entry.folder / "ssd.json").write_text(changed.to_json())
    with pytest.raises(UsageError, match="tokenizer"):
        choose("elsewhere", ["notes:memory"])


def test_an_imported_model_has_no_memory_and_joins_by_its_own_gate(tmp_path: Path) -> None:
    export_to_file(Registry().find("notes"), tmp_path / "notes.tar")
    with (tmp_path / "notes.tar").open("rb") as stream:
        import_model(Registry(), stream, "notes.tar", "mine")
    assert not [file for file in MEMORY_FILES if (Registry().find("mine").folder / file).exists()]
    spec = choose(None, ["mine"])
    assert [member.name for member in spec.members] == [CORE, "mine"]
    assert spec.gate == GATES[1]
    assert spec.open().generate("Dear", OPTIONS).text
    with pytest.raises(UsageError, match="'mine' has no memory"):
        choose(None, ["mine:memory"])


def told(context: str = "The boiler is dark, dark, dark.\nThe lift is cold again.") -> tuple[Writer, str]:
    """The core, a memory of the private context that decides, and that context."""
    return choose(CORE, {"context:memory": 0.99}, context=True).open(), context


@pytest.mark.parametrize("most", [1, 3])
def test_at_most_so_many_tokens_in_a_row_are_copied_from_a_private_context(most: int) -> None:
    writer, context = told()
    free = writer.generate("The boiler", GREEDY, context=context).text
    bound = writer.generate("The boiler", GREEDY, context=context, max_copy=most).text
    known, written = (writer.codec.encode(text) for text in (context, bound))
    runs = {tuple(known[start : start + most + 1]) for start in range(len(known) - most)}
    assert not [start for start in range(len(written) - most) if tuple(written[start : start + most + 1]) in runs]
    assert bound != free


def test_the_copies_of_each_row_are_bounded_by_its_own_context() -> None:
    writer, context = told()
    requests = [Request("The boiler", context=one, seed=3) for one in (context, "", "The boiler stairs again.")]
    options = replace(GREEDY, max_copy=2)
    together = [one.text for one in writer.generate_batch(requests, options)]
    assert together == [writer.generate("The boiler", options, context=one.context).text for one in requests]


def test_an_explanation_names_the_line_of_the_private_context() -> None:
    writer, context = told()
    explained = writer.generate("again. The lift is", GREEDY, context=context, explain=True).explain
    assert explained is not None
    assert explained[0].source == "context:2"


def repeats(text: str, n: int = 8) -> bool:
    """Whether a continuation of BEGINNING writes n tokens in a row that occur before them."""
    ids = tiny_tokenizer().encode(BEGINNING + text).ids
    runs = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return len(set(runs)) < len(runs)


def test_greedy_text_with_a_memory_does_not_go_in_circles_unless_that_is_allowed() -> None:
    give_memory("notes", (BEGINNING + " is cold. " + BEGINNING + " is cold. " + BEGINNING + " is cold.",))
    greedy = replace(GREEDY, max_tokens=6 * BLOCK)
    writer = copying()
    assert not repeats(writer.generate(BEGINNING, greedy).text)
    assert repeats(writer.generate(BEGINNING, greedy, no_repeat=0).text)
    assert writer.generate(BEGINNING, greedy).text == writer.generate(BEGINNING, greedy, no_repeat=8).text


def test_text_that_is_drawn_gaps_and_a_core_alone_may_repeat_themselves() -> None:
    writer = copying()
    assert [writer.no_repeat(one) for one in (OPTIONS, GREEDY, replace(GREEDY, infill=True))] == [0, 8, 0]
    assert load(CORE).no_repeat(GREEDY) == 0
    assert writer.no_repeat(replace(OPTIONS, no_repeat=5)) == 5
