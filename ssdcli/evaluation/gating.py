"""Fitting a gate: a small model's weight beside its core, from the noise level and both members' entropies.

The geometric mixture of two predictions at one position has the loss

    f(w) = Z(w) - (1 - w) log p_core(x) - w log p_small(x),    Z(w) = log sum_v p_core(v)^(1-w) p_small(v)^w

at the clean token x. Z is a log-sum-exp of functions that are linear in w, hence convex, and so is f: it is smooth
enough that its values and slopes on a grid of 11 weights give it everywhere (cubic Hermite interpolation). With

    f'(w) = E_{p_w}[d] - d(x),    d(v) = log p_small(v) - log p_core(v)

both come from one pass over the vocabulary, and the gate is fitted without looking at it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ssdcli.engine.ensemble.gate import FARTHEST, Gate
from ssdcli.engine.ensemble.members import Role
from ssdcli.engine.ensemble.rules import FLOOR, mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process
from ssdcli.engine.sampling.nucleus import entropy, predicted
from ssdcli.evaluation.combinations import Combination, Combined, Positions
from ssdcli.evaluation.losses import GRID
from ssdcli.options.checks import seed_word

ENOUGH = 100  # positions that a gate is fitted to, at least

_SPREAD = 3.0  # the standard deviation of the normal prior of a gate's numbers, whose mean is 0


@dataclass(frozen=True)
class LossCurves:
    """Each position's loss as a function of the small model's weight.

    nats: f over GRID, (N, 11) float64.
    slopes: f' over GRID, (N, 11) float64.
    """

    nats: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, core: Tensor, small: Tensor, tokens: Tensor) -> LossCurves:
        """Mix both members' log p, (N, V) each, at every weight of the grid; tokens (N,), the clean ones."""
        core, small = (log_p.float().clamp(min=FLOOR) for log_p in (core, small))
        apart = small - core
        nats, slopes = [], []
        for weight in GRID:
            log_p = torch.log_softmax(torch.lerp(core, small, weight), dim=-1)
            nats.append(-_own(log_p, tokens))
            slopes.append((log_p.exp_() * apart).sum(-1) - _own(apart, tokens))
        return cls(torch.stack(nats, dim=1).double(), torch.stack(slopes, dim=1).double())

    @classmethod
    def joined(cls, parts: Sequence[LossCurves]) -> LossCurves:
        """Concatenate the positions of all parts."""
        return cls(torch.cat([part.nats for part in parts]), torch.cat([part.slopes for part in parts]))

    def rows(self, chosen: Tensor) -> LossCurves:
        """Select positions."""
        return LossCurves(self.nats[chosen], self.slopes[chosen])

    def at(self, weights: Tensor) -> Tensor:
        """Interpolate each position's loss at its own weight: (N,) in [0, 1] to (N,).

        With u in [0, 1] between two weights of the grid, v = 1 - u, values f and slopes g (times the step):
        f_0 v^2 (1 + 2u) + f_1 u^2 (1 + 2v) + u v (g_0 v - g_1 u), the cubic that has both values and both slopes.
        """
        step = 1 / (len(GRID) - 1)
        first = (weights / step).long().clamp(0, len(GRID) - 2)
        u = weights / step - first
        v = 1 - u
        left, right = (
            (self.nats.gather(1, k[:, None])[:, 0], self.slopes.gather(1, k[:, None])[:, 0] * step)
            for k in (first, first + 1)
        )
        ends = v * v * (1 + 2 * u) * left[0] + u * u * (1 + 2 * v) * right[0]
        return ends + u * v * (v * left[1] - u * right[1])


def _own(values: Tensor, tokens: Tensor) -> Tensor:
    """Gather one token at each position: values (N, V), tokens (N,) to (N,)."""
    return values.gather(-1, tokens[:, None])[:, 0]


def fit(curves: LossCurves, columns: Tensor, due: Tensor, spread: float = _SPREAD) -> Tensor:
    """Fit the coefficients (K,) of features, columns (N, K), for the weights sigmoid(columns @ coefficients).

    Minimises the loss plus |c|^2 / (2 spread^2): the most likely coefficients under a normal prior, which matters where
    there is little text. There are at most four coefficients and the loss is smooth: L-BFGS takes a few dozen steps.

    due: (N,), the process's weight of each position.
    spread: the standard deviation of the prior.
    """
    coefficients = torch.zeros(columns.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        nats = (curves.at(torch.sigmoid(columns @ coefficients)) * due).sum()
        loss = (nats + (coefficients**2).sum() / (2 * spread**2)) / due.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return coefficients.detach()


@dataclass
class GateFitter:
    """Watches a core and a small model as their losses are measured, and fits a gate to what it saw.

    process: weights the positions; None where each counts once.
    share: of the positions that it keeps, drawn at random.
    seed: of that draw.
    """

    process: Process | None
    share: float = 1.0
    seed: int = 0
    _curves: list[LossCurves] = field(default_factory=list, init=False)
    _columns: list[Tensor] = field(default_factory=list, init=False)
    _due: list[Tensor] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._draws = torch.Generator().manual_seed(seed_word(self.seed))

    def combination(self, roles: Sequence[Role] = ("core", "small")) -> Combination:
        """A combination that shows the fitter both members when it is measured; its own loss is zero.

        roles: of all members, one of them the core and one the small model.
        """
        watched = [role for role in roles if role != "base"]
        assert sorted(watched) == ["core", "small"], roles
        running = tuple(Constant(0.0 if role == "base" else 0.5) for role in roles)
        return Combination(mix, running, partial(self._look, watched.index("core")))

    def _look(self, first: int, combined: Combined, positions: Positions) -> Tensor:
        """Keep what the fit needs of some positions; `first` is the core's place, 0 or 1, among the two that run."""
        count, device = len(positions.tokens), positions.tokens.device
        looked_at = (torch.rand(count, generator=self._draws) < self.share).to(device)
        both = torch.stack([predicted(log_p) for log_p in combined.log_ps]).all(0)
        chosen = (looked_at & both).nonzero()[:, 0]
        here = positions.rows(chosen)
        core, small = (combined.log_ps[place][chosen].float() for place in (first, 1 - first))
        curves = LossCurves.of(core, small, here.tokens)
        self._curves.append(LossCurves(curves.nats.cpu(), curves.slopes.cpu()))
        columns = [torch.ones(len(chosen), device=core.device), here.levels - 0.5, entropy(core), entropy(small)]
        self._columns.append(torch.stack(columns, dim=1).double().cpu())
        once = torch.ones_like(here.levels)
        due = once if self.process is None else self.process.loss_weights(here.shown, here.levels)
        self._due.append(due.double().cpu())
        return torch.zeros(count, device=core.device)

    def gate(self) -> Gate | None:
        """Fit the gate; None if fewer than ENOUGH positions were seen."""
        if sum(map(len, self._due)) < ENOUGH:
            return None
        curves, columns, due = LossCurves.joined(self._curves), torch.cat(self._columns), torch.cat(self._due)
        return Gate(*fit(curves, columns, due).clamp(-FARTHEST, FARTHEST).tolist())
