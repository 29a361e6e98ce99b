from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.engine.blocks import block_levels, padding_mask, prefix_mask, training_mask
from ssdcli.engine.noise import CounterNoise, GeneratorNoise
from ssdcli.engine.packed import Packed
from ssdcli.engine.prompt import PADDING, Prompt, reading_order
from tests.packed import block_ids


def test_blocks_are_numbered_from_a_first_one_that_may_be_short():
    ids = block_ids(7, 3, torch.tensor([0, 1, 2]))
    assert ids.tolist() == [[0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 2, 2], [0, 1, 1, 1, 2, 2, 2]]


def test_in_training_noise_sees_its_block_and_the_clean_blocks_before_and_no_more():
    blocks = block_ids(11, 4, torch.tensor([0, 1, 3]))
    mask = training_mask(Packed.plain(blocks, blocks))
    assert mask.shape == (3, 1, 22, 22)
    for row, of in enumerate(blocks.tolist()):
        for query in range(22):
            for key in range(22):
                mine, other = of[query % 11], of[key % 11]
                noised_sees = mine == other if key < 11 else other < mine
                clean_sees = key >= 11 and other <= mine
                assert mask[row, 0, query, key] == (noised_sees if query < 11 else clean_sees)


@given(st.lists(st.integers(-3, 3) | st.just(PADDING), min_size=1, max_size=12))
def test_a_prefix_sees_its_block_and_those_read_before_it_and_never_padding(ranks):
    mask = prefix_mask(torch.tensor([ranks]))
    assert mask.shape == (1, 1, len(ranks), len(ranks))
    for i, query in enumerate(ranks):
        for j, key in enumerate(ranks):
            assert mask[0, 0, i, j] == ((key != PADDING and key <= query) or i == j)


def test_a_prefix_and_the_training_blocks_that_end_with_it_see_alike():
    for length in range(1, 14):
        offset = torch.tensor([-length % 4])
        blocks = block_ids(length, 4, offset)
        clean = training_mask(Packed.plain(blocks, blocks))[:, :, length:, length:]
        ranks = reading_order(Prompt([1] * length), 4).ranks
        assert torch.equal(prefix_mask(torch.tensor([ranks])), clean)


def test_a_canvas_sees_everything_but_the_padding():
    real = torch.tensor([[True] * 5, [False, False, True, True, True]])
    mask = padding_mask(real, 2)
    assert mask.shape == (2, 1, 2, 5)
    assert mask[0].all()
    assert mask[1, 0].tolist() == [[False] * 2 + [True] * 3] * 2


@pytest.mark.parametrize("source", [CounterNoise, GeneratorNoise])
def test_the_levels_of_a_sequence_cover_the_interval_evenly(source):
    offsets = torch.arange(300) % 4
    blocks = block_ids(24, 4, offsets)
    t = block_levels(blocks, source(range(300)))
    assert t.shape == blocks.shape
    assert t.min() > 0
    assert t.max() <= 1
    orders = set()
    for row, of in zip(t, blocks, strict=True):
        count = int(of.max()) + 1
        levels = torch.stack([row[of == block][0] for block in range(count)])
        assert torch.equal(levels[of], row)
        torch.testing.assert_close(levels.sort().values.diff(), torch.full((count - 1,), 1 / count))
        orders.add(tuple(levels.argsort().tolist()))
    assert len(orders) > 200


def test_the_levels_of_a_sequence_do_not_depend_on_its_neighbours():
    blocks = block_ids(24, 4, torch.arange(4))
    together = block_levels(blocks, CounterNoise(range(4)))
    for row in range(4):
        alone = block_levels(blocks[row : row + 1], CounterNoise([row]))
        assert torch.equal(alone[0], together[row])


def test_the_level_of_every_block_is_uniform():
    count = 4000
    offsets = torch.arange(count) % 4
    t = block_levels(block_ids(24, 4, offsets), CounterNoise(range(count)))
    for place in (0, 7, 12, 23):
        level = t[:, place].double().sort().values
        distance = (level - (torch.arange(count) + 0.5) / count).abs().max() * math.sqrt(count)
        assert distance < 1.95
