from __future__ import annotations

import torch

from ssdcli.engine.blocks import training_mask
from ssdcli.engine.packed import Packed


def text(*blocks: int, known: int | None = None) -> Packed:
    """A text of one token a column in these blocks, the first `known` columns of which are clean text."""
    tokens = torch.arange(10, 10 + len(blocks))[None]
    packed = Packed.plain(tokens, torch.tensor([blocks]))
    if known is not None:
        packed.known[:, known:] = False
    return packed


def test_texts_side_by_side_have_blocks_numbered_on_and_positions_of_their_own():
    packed = Packed.joined([text(0, 0, 1), text(0, 1, 2), Packed.padding(2)])
    assert packed.blocks.tolist() == [[0, 0, 1, 2, 3, 4, 5, 5]]
    assert packed.texts.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert packed.scored.tolist() == [[True] * 6 + [False] * 2]


def test_a_part_of_a_text_is_a_text():
    part = text(0, 0, 1, 1, 2).cut(1, 4)
    assert part.tokens.tolist() == [[11, 12, 13]]
    assert part.blocks.tolist() == [[0, 1, 1]]
    assert part.positions.tolist() == [[0, 1, 2]]


def test_who_sees_whom():
    packed = Packed.joined([text(0, 1, 1), text(0, 0)])
    mask = training_mask(packed)[0, 0].int().tolist()
    noised, clean = mask[:5], mask[5:]
    assert noised == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0, 0, 0, 0],
    ]
    assert clean == [
        [0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]


def test_what_is_not_known_is_seen_on_its_canvas_and_by_itself_alone():
    mask = training_mask(text(0, 0, 1, known=1))[0, 0].int().tolist()
    assert mask[:3] == [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert mask[3:] == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 1]]
