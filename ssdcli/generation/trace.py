"""A trace of a block's denoising steps, kept on the device and copied to the host once, when the block ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.ensemble.attribution import Explanation
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.process import Process
from ssdcli.engine.sampler import Step


@dataclass(frozen=True)
class WrittenBlock:
    """One row of a block.

    tokens: its ids.
    weights: the members' at each of the row's steps.
    p: the tokens' probabilities when they were chosen; empty without an explanation.
    shares: each token's attribution to the members; empty without an explanation.
    """

    tokens: Sequence[int]
    weights: Sequence[tuple[float, ...]]
    p: Sequence[float]
    shares: Sequence[Sequence[float]]


class BlockTrace:
    """Records the steps of one block after another."""

    def __init__(self, ensemble: Ensemble, process: Process, explain: bool) -> None:
        """`explain`: whether tokens are attributed to the members."""
        self._ensemble = ensemble
        self._process = process
        self._explain = explain
        self._steps: list[tuple[tuple[float, ...], Tensor]] = []
        self._explanation: Explanation | None = None

    def take(self, step: Step) -> None:
        """Record another step."""
        self._steps.append((step.weights, step.active))
        self._tokens = self._process.tokens(step.canvas)
        if self._explain:
            rows, length = self._tokens.shape
            before = self._explanation or Explanation.empty(self._ensemble, rows, length, self._tokens.device)
            self._explanation = before.after(step, self._tokens)

    def read(self) -> list[WrittenBlock]:
        """The rows of the finished block; the next step begins another block."""
        weights = [weights for weights, _ in self._steps]
        active = torch.stack([active for _, active in self._steps], dim=1).tolist()
        tokens = self._tokens.tolist()
        p = [()] * len(tokens) if self._explanation is None else self._explanation.p.tolist()
        shares = [()] * len(tokens) if self._explanation is None else self._explanation.shares.tolist()
        self._steps, self._explanation = [], None
        return [
            WrittenBlock(
                tokens[row], [w for w, took in zip(weights, active[row], strict=True) if took], p[row], shares[row]
            )
            for row in range(len(tokens))
        ]
