"""The masked (absorbing) process of MDLM and LLaDA: each token is hidden with probability t."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise, Noise
from ssdcli.engine.process.base import EmbeddingSpace, Sampling, Times
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.unmasking import (
    UNMASKINGS,
    TopK,
    Unmasking,
    ends_in_turn,
    lowest,
    make_unmasking,
    room,
)


@dataclass(frozen=True)
class Masked:
    """Linear schedule: at level t a token is the mask with probability t, independently of the others.

    unmasking: which positions a step reveals. remask: the probability with which it hides each known token again.
    late: ids that end a text; a position where one of them is the likeliest token waits until all others are revealed.
    A model that learned from answers padded with ends is surest of these, and would end every text at once (the remedy
    of LLaDA, Nie et al., 2025). It is no constant of the process: it changes nothing but the order.
    """

    vocabulary: int
    mask_id: int
    t_min: float = 1e-3
    unmasking: Unmasking = field(default_factory=TopK)
    remask: float = 0.0
    late: tuple[int, ...] = ()

    name = "masked"
    timed = False
    mixes = False
    self_conditioned = False
    default_steps = 16
    early_stop = None
    temperatures = (1.0, 1.0)
    samplings = tuple(UNMASKINGS)

    def __post_init__(self) -> None:
        if not 0 <= self.remask < 1:
            raise ValueError(f"the probability of remasking must be at least 0 and below 1, not {self.remask}")

    @classmethod
    def from_constants(cls, vocabulary: int, constants: Mapping[str, float]) -> Masked:
        """Rebuild the process that a manifest describes."""
        return cls(vocabulary, mask_id=int(constants["mask_id"]), t_min=constants.get("t_min", 1e-3))

    def constants(self) -> Mapping[str, float]:
        """The mask's token id, and the lowest level that the objective visits."""
        return {"mask_id": self.mask_id, "t_min": self.t_min}

    def prior(self, length: int, noise: Noise) -> Tensor:
        """All masks: (B, L) int64."""
        return torch.full_like(noise.uniform(length), self.mask_id, dtype=torch.int64)

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Hide each token with probability t: (B, L) int64."""
        hidden = noise.uniform(tokens.shape[1]) < t
        return torch.where(hidden, self.mask_id, tokens)

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        """The embeddings of the tokens and masks."""
        return space.embed(canvas)

    def loss_weights(self, canvas: Tensor, t: Tensor) -> Tensor:
        """1/t at masked positions (the NELBO of the linear schedule, Sahoo et al., 2024), zero elsewhere: (B, L)."""
        return torch.where(canvas == self.mask_id, 1 / t.clamp(min=self.t_min), 0.0)

    def carry_over(self, canvas: Tensor, log_p: Tensor) -> Tensor:
        """Known tokens are certain (SUBS of MDLM, Sahoo et al., 2024): models are not trained to repeat them."""
        known, own = (canvas != self.mask_id)[..., None], canvas[..., None]
        certain = torch.where(known, 0.0, log_p.gather(-1, own))
        return log_p.masked_fill(known, -math.inf).scatter(-1, own, certain)

    def sampled_by(self, sampling: Sampling) -> Masked:
        """Return this process with another way to unmask, and with or without remasking."""
        unmasking = make_unmasking(sampling.name_among(self.samplings), sampling.value)
        return replace(self, unmasking=unmasking, remask=sampling.remask)

    def step(self, canvas: Tensor, log_p: Tensor, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Reveal positions until no more than a share s of the canvas is hidden, and what more may be revealed.

        With remasking, known tokens are hidden again, as many as the share s has room for; for each of them another
        position is revealed, so that the time keeps its pace (ReMDM-cap, Wang et al., 2025).
        """
        hidden = canvas == self.mask_id
        ends = hidden & self._expects_end(log_p)
        text = hidden & ~ends
        drawn = picker.draw(log_p, noise)
        doubt, ready = self.unmasking(log_p.float(), text, noise)
        chance = noise.uniform(canvas.shape[1])
        left = room(canvas.shape[1], times[1])
        again = lowest(chance, ~hidden & (chance < self.remask), left)
        due = hidden.sum(-1) + again.sum(-1) - left
        revealed = lowest(doubt, text, torch.maximum(due, ready))
        revealed = revealed | ends_in_turn(ends, text, due - revealed.sum(-1))
        return self._closed(torch.where(revealed, drawn, canvas.masked_fill(again, self.mask_id)))

    def _expects_end(self, log_p: Tensor) -> Tensor:
        """The positions where a late token is the likeliest: (B, L) bool."""
        if not self.late:
            return torch.zeros(log_p.shape[:2], dtype=torch.bool, device=log_p.device)
        return self._is_late(log_p.argmax(-1))

    def _is_late(self, tokens: Tensor) -> Tensor:
        """Which tokens (B, L) are late ones: bool."""
        return reduce(torch.logical_or, [tokens == end for end in self.late])

    def _closed(self, canvas: Tensor) -> Tensor:
        """Fill what is hidden behind an end of text before which nothing is: the text cannot change any more."""
        if not self.late or self.remask:
            return canvas
        hidden = canvas == self.mask_id
        over = (self._is_late(canvas) & (hidden.cumsum(-1) == 0)).cumsum(-1) > 0
        return torch.where(hidden & over, self.late[0], canvas)

    def decided(self, before: Tensor, after: Tensor) -> Tensor:
        """The positions that were unmasked."""
        return (before == self.mask_id) & (after != self.mask_id)

    def finished(self, canvas: Tensor) -> Tensor:
        """The rows without a mask; none with remasking, which changes known tokens until the last step."""
        return (canvas != self.mask_id).all(-1) & (self.remask == 0)

    def tokens(self, canvas: Tensor) -> Tensor:
        """The canvas itself."""
        return canvas
