"""The reverse step of DiffusionGemma: tokens are drawn everywhere, the surest are accepted, the others renoised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.sampling.nucleus import Picker, entropy
from ssdcli.engine.sampling.reverse import ReverseProcess, Times
from ssdcli.engine.sampling.stopping import EarlyStop
from ssdcli.engine.sampling.unmasking import lowest, room, within_bound


@dataclass(frozen=True)
class Published:
    """How a checkpoint is sampled by its authors.

    hot: the temperature of predictions at t = 1.
    cold: that at t = 0.
    bound: on the entropy, in nats, of the positions that a step accepts.
    sure: the early stop's bound on the mean entropy of a position, in nats.
    stable: for how many steps a canvas must not change before the early stop.
    steps: how many a block takes.
    """

    hot: float = 1.0
    cold: float = 1.0
    bound: float = 0.1
    sure: float = 0.005
    stable: float = 1
    steps: float = 48


@dataclass(frozen=True)
class Acceptance:
    """Positions of low entropy are accepted within a bound in nats, see `within_bound`.

    Where models are told the level, a canvas keeps to it. Where they are not, it is denoised by DiffusionGemma's own
    rules: the bound alone decides how fast, the temperature falls, and the end is greedy.

    process: see `Uniform`.
    bound: None for the one that the checkpoint was published with.
    """

    process: Uniform
    bound: float | None = None

    @property
    def _published(self) -> Published:
        return Published(**self.process.published)

    def reverse(self) -> ReverseProcess:
        """As the checkpoint was published."""
        own = self._published
        return ReverseProcess(self, int(own.steps), (own.hot, own.cold), EarlyStop(own.sure, int(own.stable)))

    def step(self, canvas: Tensor, prediction: Prediction, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Draw tokens, accept the surest within the bound, and renew the noise everywhere else.

        Nothing is accepted for good: the next step draws again at every position. No more than a share s stays noise,
        if the model is told the level; by the bound alone most of a canvas may wait for the last step, which then takes
        the likeliest tokens.
        """
        log_p, length, s = prediction.log_p, canvas.shape[1], times[1]
        drawn, fresh = picker.draw(log_p, noise), self.process.prior(length, noise)
        if not self.process.timed:
            drawn = torch.where(s[:, None] == 0, log_p.argmax(-1), drawn)
        doubt = entropy(picker.tempered(log_p).float())
        noisy = room(length, s if self.process.timed else s.ceil())
        due = lowest(doubt, torch.ones_like(canvas, dtype=torch.bool), length - noisy)
        bound = self._published.bound if self.bound is None else self.bound
        return torch.where(within_bound(doubt, bound) | due, drawn, fresh)

    def decided(self, before: Tensor, after: Tensor) -> Tensor:
        """The positions where a token was accepted that the canvas did not hold before."""
        return (after >= 0) & (after != before)

    def finished(self, canvas: Tensor) -> Tensor:
        """None: every step draws anew."""
        return torch.zeros(canvas.shape[0], dtype=torch.bool, device=canvas.device)
