"""Passages that are picked from a private context: the laws of the choice, and what is written with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ssdcli.api import Options, Request, Writer, choose
from ssdcli.errors import UsageError
from ssdcli.generation.picking import pick
from ssdcli.generation.private_context import ContextFile, Kept, kept_of
from ssdcli.text.passages import TextPassage, ranked_passages
from tests.memories import CORE, add_notes
from tests.pulled import add_causal
from tests.tiny import BLOCK, add_tiny

CONTEXT = "The boiler is dark.\n\nThe lift is cold\nand dark again.\n\nDear landlord, the stairs are cold."
GREEDY = Options(max_tokens=BLOCK, temperature=0.0, seed=3, pick=True)
PASSAGES = tuple(TextPassage(place, f"passage {place}", place, place) for place in range(5))


def worth(topics: Sequence[frozenset[int]], passages: Sequence[TextPassage]) -> float:
    """Ten nats for each topic that is covered, less a tenth for each passage."""
    covered = frozenset[int]().union(*(topics[one.place] for one in passages))
    return 10.0 * len(covered) - 0.1 * len(passages)


TOPICS = [
    [frozenset(), frozenset(), frozenset(), frozenset(), frozenset()],
    [frozenset({1}), frozenset({1}), frozenset({2}), frozenset(), frozenset({3})],
    [frozenset({1, 2, 3}), frozenset({1}), frozenset({2}), frozenset({3}), frozenset({4})],
    [frozenset({1, 2, 3}), frozenset({1, 2, 4}), frozenset({3, 4}), frozenset(), frozenset()],
]


@pytest.mark.parametrize("topics", TOPICS)
def test_what_is_picked_covers_all_that_helps_and_nothing_can_be_left_out(topics: list[frozenset[int]]) -> None:
    def value(passages: Sequence[TextPassage]) -> float:
        return worth(topics, passages)

    kept = pick(PASSAGES, value)
    assert kept == pick(PASSAGES, value)
    assert set(kept) <= set(PASSAGES)
    assert len(set(kept)) == len(kept)
    assert value(kept) >= value([])
    assert frozenset().union(*topics) == frozenset().union(*(topics[one.place] for one in kept))
    assert all(value([other for other in kept if other != one]) < value(kept) for one in kept)


def test_a_passage_that_others_made_needless_is_taken_out() -> None:
    assert [one.place for one in pick(PASSAGES, lambda kept: worth(TOPICS[3], kept))] in ([0, 1], [1, 2])


def test_nothing_is_kept_where_nothing_helps() -> None:
    assert pick(PASSAGES, lambda kept: -float(len(kept))) == []
    assert pick((), lambda kept: 0.0) == []


def test_passages_are_found_in_their_files_and_what_is_behind_these_is_counted_anew() -> None:
    files = (ContextFile("a.md", 4), ContextFile("b.md", 2, 10))
    assert kept_of("x", 3, 4, files) == Kept("a.md", 3, 4, "x")
    assert kept_of("x", 6, 7, files) == Kept("b.md", 10, 11, "x")
    assert kept_of("x", 9, 9, files) == Kept("context", 1, 1, "x")
    assert (str(Kept("a.md", 3, 4, "x")), str(Kept("a.md", 3, 3, "x"))) == ("a.md:3-4", "a.md:3")


def writer() -> Writer:
    """The core that reads the context apart, and a memory of it."""
    add_causal(CORE)
    return choose(CORE, context=True).open()


PROMPTS = ("The lift is cold", "The boiler is", "Dear landlord, the", "")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_text_is_what_the_picked_passages_alone_would_give(prompt: str) -> None:
    own = writer()
    found = own.generate(prompt, GREEDY, context=CONTEXT)
    assert found.picked is not None
    texts = [one.text for one in found.picked.passages]
    assert texts == [one.text for one in sorted(ranked_passages(CONTEXT, prompt)) if one.text in texts]
    lines = CONTEXT.split("\n")
    assert [" ".join(lines[one.first - 1 : one.last]) for one in found.picked.passages] == texts
    alone = own.generate(prompt, replace(GREEDY, pick=False), context="\n\n".join(texts))
    assert found.text == alone.text
    assert 0 <= found.picked.share <= 1


def test_prompts_pick_their_own_passages_alone_and_in_a_batch() -> None:
    own = writer()
    both = own.generate_batch([Request(prompt, context=CONTEXT) for prompt in PROMPTS], GREEDY)
    alone = [
        own.generate(prompt, GREEDY, context=CONTEXT, seed=one.seed) for prompt, one in zip(PROMPTS, both, strict=True)
    ]
    assert [one.picked for one in both] == [one.picked for one in alone]
    assert [one.text for one in both] == [one.text for one in alone]
    assert len({one.picked for one in both}) > 1
    assert both[-1].picked is not None
    assert both[-1].picked.passages == ()  # an empty prompt asks for nothing
    assert str(both[-1].picked) == "kept nothing of the context"


def test_without_a_context_or_the_option_nothing_is_told() -> None:
    own = writer()
    assert own.generate("The lift", GREEDY).picked is None
    told = own.generate("The lift", replace(GREEDY, pick=False), context=CONTEXT)
    assert told.picked is None
    assert "picked" not in told.to_json()


def test_sources_are_told_in_the_files_that_passages_are_kept_of() -> None:
    add_causal(CORE)
    own = choose(CORE, {"context:memory": 0.99}, context=True).open()
    files = (ContextFile("me.md", 6, 11),)
    request = Request("The lift is cold", context=CONTEXT, files=files)
    (found,) = own.generate_batch([request], replace(GREEDY, explain=True))
    assert found.picked is not None
    places = {f"{one.file}:{one.first}" for one in found.picked.passages}
    sources = {token.source for token in found.explain or ()} - {None}
    assert sources
    assert sources <= places


def test_passages_are_picked_beside_causal_cores_alone() -> None:
    add_notes()
    add_tiny("diffusion", 2)
    add_tiny("small", 3, kind="small", core="diffusion")
    with pytest.raises(UsageError, match="picked by a causal language model"):
        choose("diffusion", ["small"]).open().generate("The", GREEDY, context=CONTEXT)
