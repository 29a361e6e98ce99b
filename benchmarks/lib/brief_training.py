"""A training loop for what a benchmark trains itself: some minutes of the processor on notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.lib.timing import processor_seconds

_WARMUP = 0.05  # share of the time
_VALIDATIONS = 8  # of a training, each on the beginnings of some notes that are held back
_VALIDATED, _BEGINNING = 12, 128  # those notes, and their tokens
_HELD_BACK = 10  # of so many notes, one is held back from a training


@dataclass(frozen=True)
class Notes:
    """Tokenised notes, each opened like a document: those that are learned from, and those that are held back."""

    learned: Sequence[Sequence[int]]
    held_back: Sequence[Sequence[int]]

    @classmethod
    def split(cls, notes: Sequence[Sequence[int]]) -> Notes:
        """Hold one note in ten back."""
        return cls([note for place, note in enumerate(notes) if place % _HELD_BACK], notes[::_HELD_BACK])

    @property
    def beginnings(self) -> list[Sequence[int]]:
        """The beginnings of some notes that are held back."""
        return [note[: _BEGINNING + 1] for note in self.held_back[:_VALIDATED]]


@dataclass(frozen=True)
class Budget:
    """The time of a training in seconds of the processor, its learning rate and its seed."""

    seconds: float
    rate: float
    seed: int = 0


def train(loss: Callable[[], Tensor], own: Callable[[], float], optimizer: Optimizer, budget: Budget) -> int:
    """Train with a warmup and a cosine, keep what the notes held back like best, and count the steps.

    own: nats per token of the notes held back.
    """
    weights: list[nn.Parameter] = [weight for group in optimizer.param_groups for weight in group["params"]]
    began, steps, spent = processor_seconds(), 0, 0.0
    best = own(), [weight.detach().clone() for weight in weights]
    while spent < 1:
        warm, cosine = min(1.0, spent / _WARMUP + 0.01), (1 + torch.tensor(torch.pi * spent).cos()) / 2
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * warm * float(cosine)
        loss().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps, before = steps + 1, spent
        spent = (processor_seconds() - began) / budget.seconds
        if int(spent * _VALIDATIONS) > int(before * _VALIDATIONS) and (found := own()) < best[0]:
            best = found, [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, kept in zip(weights, best[1], strict=True):
            weight.copy_(kept)
    return steps
