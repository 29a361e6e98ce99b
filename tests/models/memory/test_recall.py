"""Recall: how places of a text are scored, what is kept of them on disk, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ssdcli.models.memory import recall
from ssdcli.models.memory.memory_files import Memory, Origin, remember
from ssdcli.models.memory.recall import Metric, PlaceScores, Recall, load_recall, save_recall
from ssdcli.models.memory.text_index import BORDER
from ssdcli.training import recalling

V, H, D = 12, 6, 4
LONG = 96  # dimensions of keys that are compared by the first of them
TEXTS = [[0, 1, 2, 3], [4, 1, 2, 5, 6], [7, 8]]
WORDS = ["a", "b", "c", "d", "e", "", "f", "a", "g", "h", "i", "j"]  # 0 and 7 are one word; 5 is none


def metric(seed: int = 0) -> Metric:
    random = torch.Generator().manual_seed(seed)
    return Metric((1, 3), torch.randn(H, generator=random), torch.randn(H, D, generator=random), 0.1)


def held(texts: list[list[int]] = TEXTS, *, without: int | None = None) -> Memory:
    """A memory with keys for all of its tokens, or for all but one text's."""
    memory = remember(texts, [Origin(f"{number}.md") for number in range(len(texts))])
    places = np.flatnonzero(memory.index.tokens != BORDER)
    if without is not None:
        places = places[np.searchsorted(memory.index.borders, places) - 1 != without]
    keys = functional.normalize(torch.randn(len(places), D, generator=torch.Generator().manual_seed(1)), dim=-1)
    return Memory(memory.index, memory.origins, Recall(metric(), places, keys.bfloat16()))


def scores(memory: Memory) -> PlaceScores:
    assert memory.recall is not None
    return PlaceScores(memory.index, memory.recall, WORDS.__getitem__)


def one(places: PlaceScores, query: torch.Tensor, before: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    (found,) = places.best(query[None], [before])
    return found


def chances(memory: Memory, query: torch.Tensor, before: list[int]) -> torch.Tensor:
    """What the best places say: a softmax of their scores."""
    found, tokens = one(scores(memory), query, before)
    return torch.zeros(V).index_add_(0, tokens, torch.softmax(found, dim=0))


def test_a_metric_projects_the_last_of_the_states_that_are_read() -> None:
    states = torch.randn(2, 3 * H, dtype=torch.bfloat16)
    own = states[:, 2 * H :].float()
    own = own / (own.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() - metric().mean
    expected = functional.normalize(own @ metric().projection, dim=-1)
    assert torch.allclose(metric()(states), expected, atol=1e-6)


def test_scores_are_cosines_shared_words_and_matches() -> None:
    memory, query = held(), functional.normalize(torch.randn(D), dim=0)
    own = memory.recall
    assert own is not None
    before = [4, 1, 2]  # "e", "b" and "c", of which only "e" is rare: all others stand near half of the places or more
    cosines = (own.keys @ query.bfloat16()).float()
    tokens = memory.index.tokens[own.places].tolist()
    near = torch.tensor([0.0] * 4 + [1.0] * 5 + [0.0] * 2)  # the text that holds 4
    matches = torch.tensor([0, 0, 0, 2, 0, 1, 2, 3, 0, 0, 0.0])  # before the "3", "1", "2", "5" that follow as here
    matches[5] = 0  # "4" alone is no end of `before`
    matches[6] = 0
    expected = (cosines + near + 0.06 * matches) / (1.2 * 0.1)
    found, places = one(scores(memory), query, before)
    assert torch.allclose(found, expected, atol=1e-5)
    assert places.tolist() == tokens


@pytest.mark.parametrize("together", [1, recall._PART])
def test_words_are_near_on_both_sides_but_not_in_another_text_whichever_id_writes_them(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "_PART", together)
    texts = [*TEXTS, [8, 9, 10, 11] * 3]
    shared = scores(held(texts))._shared_words([7])  # 7 writes the word of 0, which stands in the first text
    assert shared.tolist() == [1.0] * 4 + [0.0] * 5 + [1.0] * 2 + [0.0] * 12
    assert scores(held(texts))._shared_words([5]).tolist() == [0.0] * 23  # no word


def test_what_was_asked_before_changes_nothing() -> None:
    texts = [[i % V for i in range(start, start + 9)] for start in range(6)]
    queries = functional.normalize(torch.randn(8, D), dim=-1)
    used = scores(held(texts))
    asked = [[(3 * i + j) % V for j in range(i)] for i in range(8)]
    for query, before in zip(queries, asked, strict=True):
        assert torch.equal(one(used, query, before)[0], one(scores(held(texts)), query, before)[0])


def test_of_many_places_the_best_by_the_first_dimensions_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, query = held(), functional.normalize(torch.randn(D), dim=0)
    every, tokens = one(scores(memory), query, [4, 1])
    monkeypatch.setattr(recall, "_COARSE", D)
    monkeypatch.setattr(recall, "_CANDIDATES", 5)
    found, chosen = one(scores(memory), query, [4, 1])
    order = every.argsort(descending=True)[:5]
    assert sorted(zip(found.tolist(), chosen.tolist(), strict=True)) == sorted(
        zip(every[order].tolist(), tokens[order].tolist(), strict=True)
    )


def many() -> Memory:
    """A memory of 1,003 tokens, each of which stands once and has a long key."""
    memory = remember([list(range(1003))], [Origin("many.md")])
    keys = functional.normalize(torch.randn(1003, LONG, generator=torch.Generator().manual_seed(2)), dim=-1)
    return Memory(memory.index, memory.origins, Recall(metric(), np.arange(1, 1004), keys.bfloat16()))


def wordless(memory: Memory) -> PlaceScores:
    assert memory.recall is not None
    return PlaceScores(memory.index, memory.recall, lambda _: "")


def test_the_best_by_the_first_dimensions_are_found_but_for_the_rounding_to_8_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recall, "_CANDIDATES", 100)
    memory, queries = many(), functional.normalize(torch.randn(8, LONG), dim=-1)
    assert memory.recall is not None
    keys, exact = memory.recall.keys.float(), queries.bfloat16().float()
    for found, query in zip(wordless(memory).best(queries, [[]] * 8), exact, strict=True):
        scores, rows = found
        coarse = keys[:, : recall._COARSE] @ query[: recall._COARSE]
        bound = coarse.topk(100).values[-1]
        assert len(rows) == 100
        assert set((coarse > bound + 0.005).nonzero()[:, 0].tolist()) <= set(rows.tolist())
        assert float(coarse[rows].min()) > bound - 0.005
        torch.testing.assert_close(scores, keys[rows] @ query / (1.2 * 0.1), atol=0.05, rtol=0.01)


@pytest.mark.parametrize("beside", range(2, 10))
def test_a_query_finds_bit_for_bit_the_same_beside_others(beside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "_CANDIDATES", 100)
    places, queries = wordless(many()), functional.normalize(torch.randn(beside, LONG), dim=-1)
    for together, query in zip(places.best(queries, [[]] * beside), queries, strict=True):
        assert all(map(torch.equal, together, one(places, query, [])))


@pytest.mark.parametrize("count", [1, 40, 64, 400])
def test_the_largest_scores_are_found_among_few_and_many(count: int) -> None:
    scores = np.random.default_rng(count).standard_normal(4096, np.float32)
    assert sorted(recall._largest(scores, count)) == sorted(scores.argsort()[-count:])


def test_the_largest_scores_are_found_where_a_sample_misleads() -> None:
    scores = np.zeros(4096, np.float32)
    scores[:: recall._SAMPLED] = 1 + np.arange(128)
    assert sorted(scores[recall._largest(scores, 100)].tolist()) == [29.0 + i for i in range(100)]


def test_several_queries_are_answered_as_each_alone() -> None:
    queries = functional.normalize(torch.randn(3, D), dim=-1)
    befores = [[4, 1], [4, 1, 2], [0]]
    together = scores(held()).best(queries, befores)
    for found, query, before in zip(together, queries, befores, strict=True):
        assert torch.equal(found[0], one(scores(held()), query, before)[0])


def test_the_surprise_of_a_windows_words_can_be_summed_in_the_largest_memory() -> None:
    most = round(math.log(recalling._MOST_PLACES) * recall._STEPS)
    assert recall.WINDOW * most <= np.iinfo(recall._SUM).max


def test_a_memory_without_some_texts_recalls_none_of_their_places() -> None:
    memory = held()
    left = memory.without([TEXTS[1]])
    assert memory.recall is not None
    assert left.recall is not None
    tokens = left.index.tokens[left.recall.places].tolist()
    assert tokens == [*TEXTS[0], *TEXTS[2]]
    assert torch.equal(left.recall.keys, memory.recall.keys[[0, 1, 2, 3, 9, 10]])


def test_places_without_keys_are_never_recalled() -> None:
    p = chances(held(without=2), torch.ones(D), [0])
    assert p[7] == p[8] == 0
    assert math.isclose(float(p.sum()), 1, rel_tol=1e-5)


def test_a_recall_is_read_as_it_was_written(tmp_path: Path) -> None:
    memory = held()
    assert memory.recall is not None
    save_recall(tmp_path / "recall", memory.recall)
    again = load_recall(tmp_path / "recall", memory.index)
    assert again.metric.taps == (1, 3)
    assert again.metric.temperature == 0.1
    assert np.array_equal(again.places, memory.recall.places)
    assert torch.equal(again.keys, memory.recall.keys)
    assert torch.equal(again.metric.projection, memory.recall.metric.projection)


@pytest.mark.parametrize("texts", [[[0, 1]], [[0, 1, 2], [3, 4], [1, 2, 5, 6], [7, 8]]], ids=["shorter", "other"])
def test_a_recall_of_another_text_is_refused(tmp_path: Path, texts: list[list[int]]) -> None:
    own = held().recall
    assert own is not None
    save_recall(tmp_path / "recall", own)
    with pytest.raises(ValueError, match="not that of its text"):
        load_recall(tmp_path / "recall", held(texts).index)
