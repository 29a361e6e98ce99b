from __future__ import annotations

import numpy as np
import pytest

from benchmarks.lib.columns import Columns, collaborate


def columns(*rows: list[float]) -> Columns:
    sums = np.array(rows)
    return Columns(sums, np.full(len(sums), 2.0))


def test_a_document_has_no_say_in_the_column_that_it_is_judged_by() -> None:
    # The even documents are best in the first column, the odd ones in the second.
    found, chosen = columns([1, 9], [9, 1], [2, 9], [9, 2]).crossed([0, 1])
    assert chosen == (1, 0)
    assert found.tolist() == [9, 9, 9, 9]


def test_only_the_named_columns_are_chosen_from() -> None:
    found, chosen = columns([0, 5, 4], [0, 4, 5]).crossed([1, 2])
    assert chosen == (1, 2)
    assert found.tolist() == [5, 5]


def test_the_gain_is_that_over_the_better_member_per_token() -> None:
    found, _ = collaborate(columns([8, 6, 5], [8, 6, 3]), 0, 1, [2])
    assert (found.core, found.small, found.both) == (4, 3, 2)
    assert found.gain == 1
    assert found.error == pytest.approx(np.sqrt(2) / 4)


def test_a_gain_that_is_the_same_for_every_token_has_no_error() -> None:
    found, _ = collaborate(columns([8, 6, 4], [6, 9, 4]), 0, 0, [2])
    assert columns([2, 0], [2, 0]).mean(np.array([2.0, 2.0])) == (1, 0)
    assert found.gain == 1.5
