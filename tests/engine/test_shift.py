from __future__ import annotations

import torch

from ssdcli.engine.packed import Packed
from ssdcli.engine.shift import following, preceding, predicting
from tests.packed import plain

T, BLOCK = 11, 4


def named(columns: int) -> torch.Tensor:
    """Hidden states that are the numbers of their columns: (1, columns, 1)."""
    return torch.arange(columns, dtype=torch.float32)[None, :, None]


def sources(packed: Packed) -> list[int]:
    """Which column of [noised ; clean] predicts each noised one."""
    columns: list[int] = predicting(named(2 * packed.length), packed)[0, :, 0].long().tolist()
    return columns


def test_a_noised_column_follows_the_noised_one_in_its_block_and_the_clean_one_before_it():
    text = Packed.plain(torch.zeros(1, T, dtype=torch.int64), torch.arange(T)[None] // BLOCK)
    assert sources(text) == [0, 0, 1, 2, T + 3, 4, 5, 6, T + 7, 8, 9]


def test_no_text_follows_its_neighbour():
    rows = plain(torch.zeros(1, T, dtype=torch.int64), BLOCK, 1)
    alone = sources(rows)
    both = sources(Packed.joined([rows, rows]))
    assert both == [s if s < T else s + T for s in alone] + [s + T if s < T else s + 2 * T for s in alone]


def test_what_is_read_later_or_never_known_predicts_nothing():
    """The text after a gap is read before what fills it."""
    tokens, positions = torch.zeros(1, 6, dtype=torch.int64), torch.arange(6)[None]
    blocks, known = torch.tensor([[0, 0, 2, 2, 1, 1]]), torch.tensor([[True, True, True, True, True, True]])
    packed = Packed(tokens, blocks, positions, torch.zeros_like(tokens), known, known)
    assert sources(packed) == [0, 0, 6 + 1, 2, 4, 4]
    unknown = Packed(tokens, blocks, positions, torch.zeros_like(tokens), positions != 1, known)
    assert sources(unknown)[2] == 2


def test_columns_in_any_order_are_preceded_in_the_text():
    positions = torch.tensor([[0, 1, 4, 5, 2, 3]])
    assert preceding(named(6), positions)[0, :, 0].tolist() == [0, 0, 5, 2, 1, 4]


def test_a_canvas_follows_what_was_read_last_at_the_place_before_it():
    tail = (named(5) + 10, torch.tensor([[0, 0, 1, 6, 7]]))
    assert following(named(3), torch.tensor([[2, 3, 4]]), tail)[0, :, 0].tolist() == [12, 0, 1]
