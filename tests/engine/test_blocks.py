from __future__ import annotations

import math

import pytest
import torch

from ssdcli.engine.blocks import block_ids, block_levels, canvas_mask, prefix_mask, training_mask
from ssdcli.engine.noise import CounterNoise, GeneratorNoise


def test_blocks_are_numbered_from_a_first_one_that_may_be_short():
    ids = block_ids(7, 3, torch.tensor([0, 1, 2]))
    assert ids.tolist() == [[0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 2, 2], [0, 1, 1, 1, 2, 2, 2]]


def test_in_training_noise_sees_its_block_and_the_clean_blocks_before_and_no_more():
    blocks = block_ids(11, 4, torch.tensor([0, 1, 3]))
    mask = training_mask(blocks)
    assert mask.shape == (3, 1, 22, 22)
    for row, of in enumerate(blocks.tolist()):
        for query in range(22):
            for key in range(22):
                mine, other = of[query % 11], of[key % 11]
                noised_sees = mine == other if key < 11 else other < mine
                clean_sees = key >= 11 and other <= mine
                assert mask[row, 0, query, key] == (noised_sees if query < 11 else clean_sees)


def test_a_prefix_is_causal_by_blocks_that_end_with_it_and_never_sees_padding():
    lengths = [7, 3, 1]
    mask = prefix_mask(7, 3, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        for query in range(7):
            for key in range(7):
                block = [-((6 - i) // 3) for i in (query, key)]
                allowed = key >= 7 - length and block[1] <= block[0]
                assert mask[row, 0, query, key] == (allowed or query == key)


def test_a_prefix_and_the_training_blocks_that_end_with_it_see_alike():
    for length in range(1, 14):
        offset = torch.tensor([-length % 4])
        clean = training_mask(block_ids(length, 4, offset))[:, :, length:, length:]
        assert torch.equal(prefix_mask(length, 4, torch.tensor([length])), clean)


def test_a_canvas_sees_itself_and_all_of_its_prefix_but_the_padding():
    mask = canvas_mask(5, 2, torch.tensor([5, 2]))
    assert mask.shape == (2, 1, 2, 7)
    assert mask[0].all()
    assert mask[1, 0].tolist() == [[False] * 3 + [True] * 4] * 2


def test_every_position_sees_something():
    lengths = torch.arange(1, 10)
    assert prefix_mask(9, 4, lengths).any(-1).all()
    assert canvas_mask(9, 4, lengths).any(-1).all()
    assert training_mask(block_ids(9, 4, lengths % 4)).any(-1).all()


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
