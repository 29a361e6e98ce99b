from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ssdcli.engine.sampling.unmasking import lowest, within_bound

EIGHTHS = st.integers(0, 16).map(lambda n: n / 8)  # sums of them are exact, so that the bound itself is met
ENTROPIES = st.lists(EIGHTHS, min_size=1, max_size=8)


@given(entropies=ENTROPIES, bound=EIGHTHS)
@example(entropies=[2.0, 2.0, 2.0], bound=0.0)
@example(entropies=[0.5, 0.25, 0.5, 0.5], bound=0.75)
def test_as_many_of_the_surest_positions_go_together_as_the_bound_allows(entropies, bound):
    chosen = within_bound(torch.tensor([entropies]), bound)[0]
    ordered = sorted(Fraction(entropy) for entropy in entropies)
    count = max(n for n in range(1, len(ordered) + 1) if sum(ordered[: n - 1]) <= bound)
    assert int(chosen.sum()) == count
    assert sorted(torch.tensor(entropies)[chosen].tolist()) == ordered[:count]


@given(entropies=ENTROPIES, bound=EIGHTHS)
def test_of_equally_sure_positions_the_earlier_ones_go_first(entropies, bound):
    chosen = within_bound(torch.tensor([entropies]), bound)[0].tolist()
    for entropy in set(entropies):
        among = [taken for taken, other in zip(chosen, entropies, strict=True) if other == entropy]
        assert among == sorted(among, reverse=True)


@given(entropies=ENTROPIES, bound=EIGHTHS, absent=st.integers(0, 3))
def test_a_position_of_infinite_entropy_takes_no_part(entropies, bound, absent):
    alone = within_bound(torch.tensor([entropies]), bound)
    among = within_bound(torch.tensor([[*entropies, *[torch.inf] * absent]]), bound)
    assert torch.equal(among[:, : len(entropies)], alone)
    assert not among[:, len(entropies) :].any()


def test_a_row_is_judged_by_its_own_entropies():
    rows = torch.tensor([[0.0, 0.1, 0.2], [3.0, 2.0, 1.0], [torch.inf, torch.inf, torch.inf]])
    assert within_bound(rows, 0.15).tolist() == [[True, True, True], [False, False, True], [False] * 3]


def test_the_lowest_scores_are_picked_row_by_row_among_those_that_take_part():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0]] * 4)
    among = torch.tensor([[True, True, True, False]] * 4)
    picked = lowest(scores, among, torch.tensor([-1, 1, 2, 9]))
    assert picked.tolist() == [
        [False] * 4,
        [False, True, False, False],
        [False, True, True, False],
        [True, True, True, False],
    ]
