"""What is not told of a place is shared out, and a place is a distribution whatever is told."""

from __future__ import annotations

import math

import pytest
import torch

from ssdcli.models.remote.completions import Guess
from ssdcli.models.remote.remote_denoiser import Foretold, dense, spread

V = 50
NEVER = (1, 49)


def guess(told: dict[int, float]) -> Guess:
    return Guess(next(iter(told), 0), tuple(told), tuple(math.log(p) for p in told.values()))


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ({3: 0.6, 7: 0.39}, 0.01),  # what is told stays as it is
        ({3: 0.5, 7: 0.1}, 0.03),  # more is left than is shared out: what is told gets it
        ({3: 0.7, 7: 0.3}, 1e-6),
        ({1: 0.9}, 1.0),  # of a token that is never text
        ({}, 1.0),
    ],
)
def test_others_share_what_is_not_told_but_not_too_much(told, left):
    p = dense(guess(told), spread(V, NEVER)).exp()
    text = [token for token in told if token not in NEVER]
    others = [token for token in range(V) if token not in (*text, *NEVER)]
    assert float(p.sum()) == pytest.approx(1, abs=1e-4)
    assert float(p[others].sum()) == pytest.approx(left, rel=1e-3)
    assert (p[list(NEVER)] == 0).all()
    assert (p[others].diff() < 0).all()  # rarer tokens get less
    scale = (1 - left) / sum(told[token] for token in text) if text else 1
    assert [float(p[token]) for token in text] == pytest.approx([told[token] * scale for token in text], rel=1e-4)


def test_where_all_is_told_nothing_changes():
    log_p = torch.log_softmax(torch.randn(V, generator=torch.Generator().manual_seed(0)), 0)
    whole = dense(Guess(0, tuple(range(V)), tuple(log_p.tolist())), spread(V, ()))
    assert torch.equal(whole, log_p)


def test_more_is_asked_for_the_more_of_it_stands():
    row = Foretold()
    asked = row.wanted([0], 99)
    for _ in range(6):
        row.text, row.guesses = [0], [guess({5: 1.0})] * asked
        asked, before = row.wanted([0, *[5] * asked], 99), asked
        assert asked >= before
    assert asked == 32
    for _ in range(6):
        row.text, row.guesses = [0], [guess({5: 1.0})] * asked
        asked = row.wanted([0, 6], 99)
    assert asked <= 3
    assert row.wanted([0, 6], 1) == 1
