"""A joint distribution of three tokens that can be enumerated, and what tests of samplers ask of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise, fold
from ssdcli.engine.process import Process
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import USUAL, Choice, reverse_process

TEXT, LENGTH = 3, 3  # token ids 0, 1, 2 in three places
OUTCOMES = torch.tensor(list(itertools.product(range(TEXT), repeat=LENGTH)))


def correlated_joint() -> Tensor:
    """p of each of the 27 outcomes: the tokens depend on each other, and some outcomes are impossible."""
    torch.manual_seed(0)
    p = torch.rand(len(OUTCOMES), dtype=torch.float64) ** 3
    p[OUTCOMES.sum(1) == 3] = 0
    return p / p.sum()


def independent_joint() -> Tensor:
    """p of each of the 27 outcomes: every place has a distribution of its own."""
    places = ([0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.8, 0.15, 0.05])
    return torch.einsum("a,b,c->abc", *torch.tensor(places, dtype=torch.float64)).reshape(-1)


def marginals(weights: Tensor, vocabulary: int = TEXT) -> Tensor:
    """log p at each place, of outcomes weighted by (B, 27) above zero: (B, L, V) float32."""
    onehot = torch.nn.functional.one_hot(OUTCOMES, vocabulary).double()
    return torch.einsum("bo,olv->blv", weights / weights.sum(-1, keepdim=True), onehot).log().float()


def sampler(process: Process, choice: Choice = USUAL) -> Any:
    """What makes the steps of a process."""
    return reverse_process(process, choice).sampler


def times(s: float | Sequence[float], rows: int) -> tuple[float, Tensor]:
    """A step from t = 1 to s, or to each row's own."""
    return 1.0, torch.tensor(s, dtype=torch.float64).expand(rows)


def noise_of(step: int, rows: int) -> CounterNoise:
    """The noise of one step of rows 0, 1, 2 ..."""
    return CounterNoise([fold(row, step) for row in range(rows)])


def counted(process: Process, canvas: Tensor) -> Tensor:
    """How often each outcome is on clean canvases: (27,)."""
    code = (process.tokens(canvas) * torch.tensor([9, 3, 1])).sum(-1)
    return torch.bincount(code, minlength=len(OUTCOMES)).double()


def chi_square(observed: Tensor, p: Tensor) -> float:
    expected = observed.sum() * p
    possible = p > 0
    return float(((observed - expected)[possible] ** 2 / expected[possible]).sum())


def drawn_from(observed: Tensor, p: Tensor) -> bool:
    """Whether counts may be draws from p: no impossible one, and chi-square within 4 standard deviations."""
    freedom = int((p > 0).sum()) - 1
    return float(observed[p == 0].sum()) == 0 and chi_square(observed, p) < freedom + 4 * math.sqrt(2 * freedom)


GREEDY = Picker(temperature=0.0)
