"""What writing a text takes: each member's forward passes and floating point operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ssdcli.engine.prompt import Prompt


class Metered(Protocol):
    """A model that knows what its work takes; `Denoiser` is one."""

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        """FLOPs after a prompt, block by block: of reading what is new before it, and of each denoising step."""
        ...


class Usage:
    """Counts what one row takes, as if it were alone."""

    def __init__(self, members: Sequence[Metered]) -> None:
        """Of a row for which nothing was done yet."""
        self.steps = 0
        self._spent = [_Meter(member) for member in members]
        self._whole = [_Meter(member) for member in members]

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Another stretch of text begins, which member i writes after prompts[i]."""
        for meters in (self._spent, self._whole):
            for meter, prompt in zip(meters, prompts, strict=True):
                meter.start(prompt)

    def block(self, weights: Sequence[Sequence[float]]) -> None:
        """Count the stretch's next block: weights[j][i] is member i's at the row's step j, zero if it was not run."""
        self.steps += len(weights)
        for i, (spent, whole) in enumerate(zip(self._spent, self._whole, strict=True)):
            spent.block(sum(step[i] != 0 for step in weights))
            whole.block(len(weights))

    def of(self, member: int) -> tuple[int, int]:
        """A member's denoising forward passes, and the FLOPs of these and of what it read."""
        return self._spent[member].passes, self._spent[member].flops

    @property
    def saved(self) -> float:
        """The share of FLOPs that the schedule spared: 1 - spent / what all members would take at every step."""
        whole = sum(meter.flops for meter in self._whole)
        return 1 - sum(meter.flops for meter in self._spent) / whole if whole else 0.0


class _Meter:
    """Counts what one member does; it reads what it has not read yet when it is next run."""

    def __init__(self, member: Metered) -> None:
        self.passes = 0
        self.flops = 0
        self._member = member
        self._costs: Iterator[tuple[int, int]] = iter(())
        self._unread = 0

    def start(self, prompt: Prompt) -> None:
        self._costs = self._member.costs(prompt)
        self._unread = 0

    def block(self, passes: int) -> None:
        reading, denoising = next(self._costs)
        self._unread += reading
        if passes:
            self.passes += passes
            self.flops += self._unread + passes * denoising
            self._unread = 0
