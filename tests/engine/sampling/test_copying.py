"""A limit on copies excludes tokens at the leftmost hidden position of each row, and nothing elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ssdcli.engine.sampling.copying import without_copies

V = 5


class Forbids:
    """Forbids the successor of the last written token."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def forbidden(self, written: Sequence[int]) -> list[int]:
        self.asked.append(list(written))
        return [written[-1] + 1] if written and written[-1] + 1 < V else []


def test_only_the_leftmost_hidden_token_of_a_row_is_limited() -> None:
    log_p = torch.log_softmax(torch.randn(3, 3, V, generator=torch.Generator().manual_seed(0)), -1)
    canvas = torch.tensor([[1, 0, 0], [0, 0, 3], [1, 2, 3]])
    shown = torch.tensor([[True, False, False], [False, False, True], [True, True, True]])
    limit = Forbids()
    changed = without_copies(log_p, canvas, shown, torch.tensor([[9], [2], [9]]), [limit] * 3)
    assert limit.asked == [[9, 1], [2]]
    for row, place, id in ((0, 1, 2), (1, 0, 3)):
        expected = log_p[row, place].exp()
        expected[id] = 0
        assert changed[row, place, id] == -math.inf
        torch.testing.assert_close(changed[row, place].exp(), expected / expected.sum())
        log_p[row, place] = changed[row, place]
    assert torch.equal(changed, log_p)


def test_what_nobody_forbids_stays_bit_for_bit() -> None:
    log_p = torch.log_softmax(torch.randn(1, 2, V, generator=torch.Generator().manual_seed(0)), -1)
    canvas, shown = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.bool)
    assert torch.equal(without_copies(log_p, canvas, shown, torch.zeros(1, 0, dtype=torch.long), [Forbids()]), log_p)
