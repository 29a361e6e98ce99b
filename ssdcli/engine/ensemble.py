"""Several denoisers of one canvas, each with its own prefix: an ensemble is itself a denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.process import Canvas


class CanvasDenoiser(Protocol):
    """What an ensemble asks of a member; `Denoiser` is one."""

    def start(self, rows: Sequence[Sequence[int]]) -> Any:
        """Read the prompts of a batch, none of them empty."""
        ...

    def denoise(self, canvas: Canvas, t: float, heard: Tensor | None, prefix: Any) -> Tensor:
        """Log p of the clean tokens: (B, L, V) float32, normalised."""
        ...

    def commit(self, tokens: Tensor, prefix: Any) -> Any:
        """The prefix with a clean block (B, L) appended; the given one stays as it was."""
        ...


class Schedule(Protocol):
    """A member's weight as a function of the noise level."""

    def __call__(self, t: float) -> float:
        """The weight at t in [0, 1]; zero means that the member is not run."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same weight at every noise level."""

    weight: float

    def __call__(self, t: float) -> float:
        """The weight."""
        return self.weight


@dataclass(frozen=True)
class Member:
    """One model of an ensemble."""

    name: str
    denoiser: CanvasDenoiser
    schedule: Schedule

    @property
    def idle(self) -> bool:
        """Whether it is never run: it then reads nothing either."""
        return self.schedule == Constant(0.0)


@dataclass(frozen=True)
class Ensemble:
    """Members that denoise together by the `mix` rule of SSD-2 (Han et al., NAACL 2024)."""

    members: tuple[Member, ...]

    def weights(self, t: float) -> tuple[float, ...]:
        """Each member's weight at t, as scheduled."""
        return tuple(member.schedule(t) for member in self.members)

    def start(self, prompts: Sequence[Sequence[Sequence[int]]]) -> tuple[Any, ...]:
        """Read each member's own prompts: prompts[i] are the rows of member i."""
        return tuple(None if m.idle else m.denoiser.start(rows) for m, rows in zip(self.members, prompts, strict=True))

    def denoise(self, canvas: Canvas, t: float, heard: Tensor | None, prefixes: tuple[Any, ...]) -> Tensor:
        """Log p of the clean tokens by the members that run at t: (B, L, V) float32."""
        running = [(w, m, p) for w, m, p in zip(self.weights(t), self.members, prefixes, strict=True) if w > 0]
        return mix([m.denoiser.denoise(canvas, t, heard, p) for _, m, p in running], [w for w, _, _ in running])

    def commit(self, tokens: Tensor, prefixes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Append a clean block (B, L) to every member's prefix."""
        return tuple(
            None if m.idle else m.denoiser.commit(tokens, p) for m, p in zip(self.members, prefixes, strict=True)
        )


def mix(log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log p = sum_i w_i log p_i, renormalised, weights scaled to sum to one: (..., V) float32.

    A token that one member excludes (-inf) is excluded by all. A single member is returned as it is. The sum is
    taken in float32.
    """
    if not log_ps:
        raise ValueError("no member runs at this noise level: at least one weight must be above zero")
    if len(log_ps) == 1:
        return log_ps[0]
    total = math.fsum(weights)
    combined = sum(log_p.float() * (w / total) for log_p, w in zip(log_ps, weights, strict=True))
    return torch.log_softmax(torch.as_tensor(combined), dim=-1)
