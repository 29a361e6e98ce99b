from __future__ import annotations

import math

import pytest
import torch

from benchmarks.lib.ngram import NGram
from benchmarks.lib.smoothing import CHOSEN, DEEPEST, WAYS, YARDSTICK, Discounts, smoothed
from ssdcli.engine.process.masked import Masked
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
from ssdcli.models.memory.memory_files import Memory
from ssdcli.models.memory.text_index import Index

NOTES = [[1, 2, 3, 4, 1, 2, 3, 5, 1, 2], [3, 1, 2, 6, 6, 1, 2, 3, 4]]
TEXT = [1, 2, 3, 1, 2, 3, 4, 9, 1, 2, 3, 1, 2, 3, 4]
VOCABULARY = 12


def said(notes=NOTES, text=TEXT):
    chosen = torch.ones(len(text), dtype=torch.bool)
    return smoothed([text], [Index.of(notes, DEEPEST)], VOCABULARY, chosen)


def test_the_yardstick_is_the_n_gram_of_the_other_benchmarks():
    nats = NGram(NOTES, VOCABULARY).nats([0, *TEXT])
    place = list(WAYS).index(YARDSTICK)
    # The n-gram knows no beginnings of texts, which only the first tokens see.
    assert (-said().log_p[5:, place]).tolist() == pytest.approx(nats[5:])


def test_the_chosen_way_is_what_the_engine_does():
    # The mask id is no text to the engine, and an id like any other here.
    process = Masked(VOCABULARY, VOCABULARY - 1)
    denoiser = MemoryDenoiser(Memory(Index.of(NOTES), ()), process, 4)
    log_p = torch.stack(list(denoiser.conditionals(TEXT, range(len(TEXT)))))
    own = log_p[torch.arange(len(TEXT)), torch.tensor(TEXT)]
    found = said().log_p[:, list(WAYS).index(CHOSEN)]
    seen = torch.tensor(TEXT) != 9  # what the notes lack has a uniform probability, over one id more or less
    torch.testing.assert_close(own.double()[seen], found[seen], atol=0.03, rtol=0)


def test_entropies_are_those_of_distributions():
    found = said()
    assert found.entropies.shape == (len(TEXT), len(WAYS))
    assert float(found.entropies.min()) > 0
    assert float(found.entropies.max()) <= math.log(VOCABULARY)


def test_a_run_that_is_always_followed_by_the_same_token_is_discounted_little():
    often = Index.of([[1, 2] * 40, [3, 4] * 40, [5, 6], [7, 8]], DEEPEST)
    discounts = Discounts.estimated(often, 1)
    assert 0 < discounts.one < 1
    assert discounts.taken(torch.tensor([1, 2, 3, 9]).numpy()).tolist() == pytest.approx(
        [discounts.one, discounts.two, discounts.more, discounts.more]
    )


def test_only_chosen_tokens_are_measured():
    chosen = torch.tensor([place % 3 == 0 for place in range(len(TEXT))])
    some = smoothed([TEXT], [Index.of(NOTES, DEEPEST)], VOCABULARY, chosen)
    torch.testing.assert_close(some.log_p, said().log_p[chosen])
