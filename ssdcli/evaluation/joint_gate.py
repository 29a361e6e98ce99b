"""Fitting an `AverageGate`: the weights of members, position by position, from what they said of held-out texts.

The loss of averaged probabilities at a position is -log sum_i g_i p_i(x), where only the members' probabilities of the
clean token x count, and the gate g reads their entropies alone. So both are noted once, and constant weights, gates of
any set of members, and the oracle that knows x are computed from them without looking at the vocabulary again. How
often the likeliest token of an ensemble is right is told by the likeliest tokens of its members, which are noted, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.ensemble.gate import FARTHEST, PUBLIC_GATE, AverageGate
from ssdcli.engine.ensemble.members import Role
from ssdcli.engine.ensemble.rules import average, gate_features, log_shares
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.sampling.nucleus import entropy, predicted
from ssdcli.evaluation.combinations import Combination, Combined, Positions
from ssdcli.evaluation.estimates import ratio
from ssdcli.evaluation.measurement import Estimate, GateResult

ENOUGH = 100  # positions that a gate is fitted to, at least

_FOLDS = 5
_CERTAIN = 2.0  # standard errors by which a gate must win
_NEAR = 0.3  # the standard deviation of the normal prior of a memory's coefficients around those of PUBLIC_GATE
_WIDE = 1.0  # that of other members' coefficients, around these:
_SMALL_BIAS = -1.5
_LEAST = 0.01  # share of a member that a gate lets speak
_TOPS = 3  # tokens of each member, among which is the likeliest of their average
_SURE = 0.5  # the standard deviation of the normal prior of a confidence's numbers around those that change nothing


@dataclass(frozen=True)
class Tops:
    """What M members said of K tokens at each of N positions, the likeliest ones of each member.

    log_p: (N, K, M) float64.
    right: whether each is the clean one, (N, K) bool.
    """

    log_p: Tensor
    right: Tensor


@dataclass(frozen=True)
class Observations:
    """What M members said of N tokens.

    members: their roles, the core first.
    log_p: of the clean tokens, (N, M) float64.
    entropies: of the predictions, (N, M) float64.
    texts: the number of the text of each token, (N,) int64.
    tops: what they found likeliest in their place, if that was noted.
    """

    members: tuple[Role, ...]
    log_p: Tensor
    entropies: Tensor
    texts: Tensor
    tops: Tops | None = None

    def of(self, members: Sequence[Role]) -> Observations:
        """What these members said."""
        places = [self.members.index(role) for role in members]
        tops = None if self.tops is None else replace(self.tops, log_p=self.tops.log_p[..., places])
        return Observations(tuple(members), self.log_p[:, places], self.entropies[:, places], self.texts, tops)

    def rows(self, chosen: Tensor) -> Observations:
        """Select positions: (N,) bool."""
        tops = None if self.tops is None else Tops(self.tops.log_p[chosen], self.tops.right[chosen])
        return Observations(self.members, self.log_p[chosen], self.entropies[chosen], self.texts[chosen], tops)

    def by_text(self, nats: Tensor) -> np.ndarray:
        """Sum what each token costs, (N,), text by text: (texts,) float64."""
        sums = torch.zeros(int(self.texts.max()) + 1, dtype=torch.float64)
        return sums.index_add(0, self.texts, nats).numpy()


@dataclass
class GateObserver:
    """Watches members as their losses are measured, to fit gates to what it saw.

    members: their roles, in the order in which they are measured.
    """

    members: tuple[Role, ...]
    _log_p: list[Tensor] = field(default_factory=list, init=False)
    _entropies: list[Tensor] = field(default_factory=list, init=False)
    _texts: list[Tensor] = field(default_factory=list, init=False)
    _tops: list[Tops] = field(default_factory=list, init=False)

    def combination(self, roles: Sequence[Role]) -> Combination:
        """A combination that shows the observer its members when it is measured; its own loss is zero.

        roles: of all that are measured.
        """
        return Combination(average, tuple(Constant(float(role in self.members)) for role in roles), self._look)

    def _look(self, combined: Combined, positions: Positions) -> Tensor:
        all_predict = torch.stack([predicted(log_p) for log_p in combined.log_ps]).all(0)
        chosen = all_predict.nonzero()[:, 0]
        own = positions.tokens[chosen][:, None]
        said = [log_p[chosen].float() for log_p in combined.log_ps]
        self._log_p.append(torch.cat([log_p.gather(-1, own) for log_p in said], dim=1).double().cpu())
        self._entropies.append(torch.stack([entropy(log_p) for log_p in said], dim=1).double().cpu())
        self._texts.append(torch.full((len(chosen),), positions.text))
        likeliest = torch.cat([log_p.topk(_TOPS).indices for log_p in said], dim=1)
        by_member = [log_p.gather(-1, likeliest) for log_p in said]
        self._tops.append(Tops(torch.stack(by_member, dim=-1).double().cpu(), (likeliest == own).cpu()))
        return torch.zeros(len(positions.tokens), device=positions.tokens.device)

    def observations(self) -> Observations | None:
        """What was seen; None if fewer than ENOUGH positions were."""
        if sum(map(len, self._texts)) < ENOUGH:
            return None
        log_p, entropies, texts = (torch.cat(parts) for parts in (self._log_p, self._entropies, self._texts))
        log_ps, right = ([getattr(part, name) for part in self._tops] for name in ("log_p", "right"))
        return Observations(self.members, log_p, entropies, texts, Tops(torch.cat(log_ps), torch.cat(right)))


@dataclass(frozen=True)
class FittedGate:
    """A gate, and what it is worth, in nats of each text.

    gate: fitted to all texts.
    constant: the texts' nats at constant weights that were fitted to other texts: (texts,).
    gated: by a gate that was fitted to other texts.
    oracle: by the member that is best at each token, which nobody knows beforehand.
    tops: the probabilities of the likeliest tokens, and whether each was right, (N,) each, where that was noted.
    """

    gate: AverageGate
    constant: np.ndarray
    gated: np.ndarray
    oracle: np.ndarray
    tops: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def nats(self) -> np.ndarray:
        """The texts' nats by what is used by default: the gate where it won, else constant weights."""
        return self.gated if self.gate.is_default else self.constant


def fit_joint_gates(seen: Observations | None) -> tuple[FittedGate, ...]:
    """Fit a gate for the core and each set of other members, the largest set first; none without observations."""
    if seen is None:
        return ()
    others = seen.members[1:]
    sets = [chosen for size in range(len(others), 0, -1) for chosen in combinations(others, size)]
    return tuple(fit_joint_gate(seen.of((seen.members[0], *chosen))) for chosen in sets)


def with_memory(fitted: Sequence[AverageGate]) -> tuple[AverageGate, ...]:
    """The gates of a small model, and those with its memory that could not be fitted, as the prior has them.

    The memory is weighed as by PUBLIC_GATE, and the small model as it was without the memory, if that was measured.
    """
    known = {gate.members: gate for gate in fitted}
    every: tuple[Role, ...] = ("core", "small", "memory")
    usual = _from_prior(every, known.get(every[:2]))
    completed = {usual.members: usual} | known
    completed.setdefault(PUBLIC_GATE.members, PUBLIC_GATE)
    return tuple(completed.values())


def _from_prior(members: tuple[Role, ...], of_small: AverageGate | None) -> AverageGate:
    """The gate of a core, a small model and a memory before anything is seen of the three together."""
    (small, memory), _ = _prior(members)
    share = float(small[0].sigmoid()) if of_small is None else min(max(of_small.weights[1], _LEAST), 1 - _LEAST)
    if of_small is not None:
        (own,) = of_small.coefficients if of_small.is_default else ((math.log(share / (1 - share)), 0, 0, 0, 0),)
        small[[0, 1, 2, 4, 5]] = torch.tensor(own, dtype=torch.float64)
    left = PUBLIC_GATE.weights[0]
    weights = (round(left * (1 - share), 4), round(left * share, 4), PUBLIC_GATE.weights[1])
    return AverageGate(members, weights, (tuple(small.tolist()), tuple(memory.tolist())), is_default=True)


def gate_results(fitted: Sequence[FittedGate], size: np.ndarray) -> tuple[GateResult, ...]:
    """What gates are worth in bits per byte; size: the bytes of each text."""

    def bits(nats: np.ndarray) -> Estimate:
        return ratio(nats / math.log(2), size)

    return tuple(GateResult(one.gate, bits(one.constant), bits(one.gated), bits(one.oracle)) for one in fitted)


def fit_joint_gate(seen: Observations) -> FittedGate:
    """Fit constant weights and a gate, and cross-validate both, text by text."""
    constant, gated = (torch.zeros(len(seen.texts), dtype=torch.float64) for _ in range(2))
    folds = min(_FOLDS, int(seen.texts.max()) + 1)
    for fold in range(folds):
        held = seen.texts % folds == fold
        gate = _fitted(seen.rows(~held)) if folds > 1 and bool((~held).any()) else _fitted(seen)
        constant[held] = constant_nats(gate.weights, seen.rows(held))
        gated[held] = gated_nats(gate, seen.rows(held))
    sums = [seen.by_text(nats) for nats in (constant, gated, -seen.log_p.amax(1))]
    gate = replace(_fitted(seen), is_default=folds > 1 and _wins(sums[0] - sums[1]))
    found, tops = FittedGate(gate, sums[0], sums[1], sums[2]), likeliest(gate, seen)
    if tops is None:
        return found
    sure = fit_confidence(*tops, seen.texts)
    return replace(found, gate=replace(gate, confidence=sure), tops=(tops[0].numpy(), tops[1].numpy()))


def _wins(saved: np.ndarray) -> bool:
    """Whether what a gate saves on each text is above zero by _CERTAIN standard errors."""
    return len(saved) > 1 and float(saved.sum()) > _CERTAIN * float(saved.std(ddof=1)) * len(saved) ** 0.5


def likeliest(gate: AverageGate, seen: Observations) -> tuple[Tensor, Tensor] | None:
    """The probability of the likeliest token at each position, (N,), and whether it is the clean one, (N,) bool.

    It is that of a gate that won, or else of its constant weights; None where the likeliest tokens were not noted.
    """
    if seen.tops is None:
        return None
    weights = torch.tensor(gate.weights, dtype=torch.float64).log()
    shares = log_shares(gate, seen.entropies)[:, None] if gate.is_default else weights
    log_p, place = torch.logsumexp(seen.tops.log_p + shares, dim=-1).max(1)
    return log_p.exp(), seen.tops.right.gather(1, place[:, None])[:, 0]


def fit_confidence(p: Tensor, right: Tensor, texts: Tensor) -> Confidence:
    """The most likely confidence in tokens of these probabilities, (N,), some of which are right, (N,) bool.

    It is the probability itself where that is as good on texts that had no part in fitting the other: texts (N,) int64.
    """
    odds, truth = torch.logit(p, eps=1e-6), right.double()
    saved, count = torch.zeros_like(odds), int(texts.max()) + 1
    folds = min(_FOLDS, count)
    for fold in range(folds):
        held = texts % folds == fold
        if bool((~held).any()):
            offset, slope = _platt(odds[~held], truth[~held])
            saved[held] = _doubt(odds[held], truth[held]) - _doubt(offset + slope * odds[held], truth[held])
    by_text = torch.zeros(count, dtype=torch.float64).index_add(0, texts, saved)
    return Confidence(*_platt(odds, truth)) if _wins(by_text.numpy()) else Confidence()


def _platt(odds: Tensor, truth: Tensor) -> tuple[float, float]:
    """The most likely offset and slope of log-odds (N,), of which a prior has 0 and 1."""
    usual = torch.tensor([0.0, 1.0], dtype=torch.float64)
    numbers = usual.clone().requires_grad_()

    def loss() -> Tensor:
        nats = _doubt(numbers[0] + numbers[1] * odds, truth).sum()
        return (nats + (((numbers - usual) / _SURE) ** 2).sum() / 2) / len(odds)

    _minimise(numbers, loss)
    offset, slope = numbers.detach().tolist()
    return offset, slope


def _doubt(odds: Tensor, truth: Tensor) -> Tensor:
    """Nats of what is true, 1 or 0, by these log-odds: (N,)."""
    return functional.binary_cross_entropy_with_logits(odds, truth, reduction="none")


def constant_nats(weights: Sequence[float], seen: Observations) -> Tensor:
    """Each token's nats at constant weights: (N,)."""
    return -torch.logsumexp(seen.log_p + torch.tensor(weights, dtype=torch.float64).log(), dim=-1)


def gated_nats(gate: AverageGate, seen: Observations) -> Tensor:
    """Each token's nats by a gate: (N,)."""
    return -torch.logsumexp(seen.log_p + log_shares(gate, seen.entropies), dim=-1)


def _fitted(seen: Observations) -> AverageGate:
    """The most likely constant weights and coefficients."""
    weights = _constant_weights(seen)
    centre, spread = _prior(seen.members)
    features = gate_features(seen.entropies)
    coefficients = centre.clone().requires_grad_()

    def loss() -> Tensor:
        scores = features @ coefficients.T
        shares = torch.log_softmax(torch.cat([torch.zeros_like(scores[:, :1]), scores], dim=1), dim=1)
        nats = -torch.logsumexp(seen.log_p + shares, dim=1).sum()
        return (nats + (((coefficients - centre) / spread) ** 2).sum() / 2) / len(features)

    _minimise(coefficients, loss)
    rows = coefficients.detach().clamp(-FARTHEST, FARTHEST).tolist()
    return AverageGate(seen.members, weights, tuple(map(tuple, rows)))


def _constant_weights(seen: Observations) -> tuple[float, ...]:
    scores = torch.zeros(len(seen.members) - 1, dtype=torch.float64, requires_grad=True)

    def shares() -> Tensor:
        return torch.log_softmax(torch.cat([scores.new_zeros(1), scores]), dim=0)

    _minimise(scores, lambda: -torch.logsumexp(seen.log_p + shares(), dim=1).mean() + 1e-4 * (scores**2).sum())
    weights = [round(share, 4) for share in shares().detach().exp().tolist()]
    return (round(1 - sum(weights[1:]), 4), *weights[1:])


def _minimise(values: Tensor, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.LBFGS([values], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        return found

    optimizer.step(closure)


def _prior(members: tuple[Role, ...]) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each coefficient before anything is seen: (M - 1, 1 + 2 M) each."""
    rows, spreads = [], []
    (known,) = PUBLIC_GATE.coefficients
    for role in members[1:]:
        row = torch.zeros(1 + 2 * len(members), dtype=torch.float64)
        row[0] = _SMALL_BIAS
        if role == "memory":
            core, own = 1, 1 + members.index(role)
            places = [0, core, own, core + len(members), own + len(members)]
            row[places] = torch.tensor(known, dtype=torch.float64)
        rows.append(row)
        spreads.append(torch.full_like(row, _NEAR if role == "memory" else _WIDE))
    return torch.stack(rows), torch.stack(spreads)
