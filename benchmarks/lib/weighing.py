"""Ways to weigh a core and a memory, fitted on notes that were held back, and what they lose on other texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.lib.beside_memory import Rows, Seen, Side, joined, match_lengths, predictions
from benchmarks.lib.models import Model
from ssdcli.engine.ensemble.gate import PUBLIC_GATE
from ssdcli.engine.ensemble.rules import gate_features, log_shares
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.evaluation.gating import LossCurves, fit

CORE_HEATS, MEMORY_HEATS = HEATS = (0.8, 0.9, 1.0, 1.1, 1.25), (0.7, 0.85, 1.0, 1.2, 1.5)
POWERS = list(product((0.9, 1.0, 1.1), (0.05, 0.1, 0.2, 0.3, 0.4)))  # of the core's and the memory's probability
SHARPER = (0.8, 0.9, 1.1, 1.2)  # powers of the average

_FREE = 3.0  # standard deviation of the prior of a coefficient, so wide that it hardly matters
_SPREADS = (0.003, 0.01, 0.03, 0.1)  # that of a coefficient of a hidden state

Way = tuple[Tensor, str]  # the nats of the tokens, and what was fitted


@dataclass(frozen=True)
class Weighed:
    """What is needed of n positions of a side to weigh both members there.

    seen: log p of the tokens, entropies, likeliest tokens.
    curves: the losses of `mix`.
    powers: the losses of products of powers, (n, POWERS).
    sharper: those of the powers of the average with the weights of PUBLIC_GATE, (n, SHARPER).
    heated: log p of the tokens at each temperature, and entropies, (n, 2, T) each.
    lengths: of the matching contexts, (n,).
    states: the core's, (n, H).
    texts: the number of the text of each position, (n,).
    """

    seen: Seen
    curves: LossCurves
    powers: Tensor
    sharper: Tensor
    heated: tuple[Tensor, Tensor]
    lengths: Tensor
    states: Tensor
    texts: Tensor

    @classmethod
    def of(cls, side: Side, states: Tensor, core: Model, chosen: Tensor) -> Weighed:
        """Look at the chosen positions of a side, (N,) bool."""
        watcher = _Watcher(side.tokens)
        for rows in predictions(side, states, core, chosen):
            watcher.look(rows)
        seen = joined(watcher.seen)
        places = seen.places
        heated = torch.cat(watcher.heated)
        return cls(
            seen,
            LossCurves.joined(watcher.curves),
            torch.cat(watcher.powers).double(),
            torch.cat(watcher.sharper).double(),
            (heated[..., 0].double(), heated[..., 1].double()),
            match_lengths(side)[places],
            states[places].double(),
            side.numbers[places],
        )

    @property
    def features(self) -> Tensor:
        """Those of the package's gate: (n, 5)."""
        return gate_features(self.seen.entropies)


@dataclass
class _Watcher:
    tokens: Tensor
    seen: list[Seen] = field(default_factory=list)
    curves: list[LossCurves] = field(default_factory=list)
    powers: list[Tensor] = field(default_factory=list)
    sharper: list[Tensor] = field(default_factory=list)
    heated: list[Tensor] = field(default_factory=list)

    def look(self, rows: Rows) -> None:
        tokens = self.tokens[rows.places]
        seen = Seen.of(rows, self.tokens)
        self.seen.append(seen)
        self.curves.append(LossCurves.of(rows.core, rows.memory, tokens))
        products = (a * rows.core + b * rows.memory for a, b in POWERS)
        self.powers.append(torch.stack([_nats(log_p, tokens) for log_p in products], dim=1))
        shares = log_shares(PUBLIC_GATE, seen.entropies).float()
        average = torch.logaddexp(rows.core + shares[:, :1], rows.memory + shares[:, 1:])
        self.sharper.append(torch.stack([_nats(power * average, tokens) for power in SHARPER], dim=1))
        members = zip((rows.core, rows.memory), HEATS, strict=True)
        heated = [torch.stack([_heated(log_p, heat, tokens) for heat in heats], 1) for log_p, heats in members]
        self.heated.append(torch.stack(heated, dim=1))


def _nats(scores: Tensor, tokens: Tensor) -> Tensor:
    """-log p of tokens (n,) by scores (n, V) that are not normalised: (n,)."""
    return scores.logsumexp(-1) - scores.gather(-1, tokens[:, None])[:, 0]


def _heated(log_p: Tensor, heat: float, tokens: Tensor) -> Tensor:
    """Log p of the tokens at a temperature, and the entropies: (n, 2)."""
    now = torch.log_softmax(log_p / heat, dim=-1)
    return torch.stack([now.gather(-1, tokens[:, None])[:, 0], entropy(now)], dim=1)


def averaged(log_p: Tensor, scores: Tensor) -> Tensor:
    """The nats of averages, the log-odds of the second member's weight being the scores: (n, 2) and (n,) to (n,)."""
    return -torch.logaddexp(log_p[:, 0] + logsigmoid(-scores), log_p[:, 1] + logsigmoid(scores))


def fitted(log_p: Tensor, columns: Tensor, spread: Tensor | float = _FREE, on: Tensor | None = None) -> Tensor:
    """The coefficients (K,) of columns (n, K) whose averages are likeliest, under a normal prior about zero.

    on: where the second member takes part at all, (n,) bool.
    """
    coefficients = torch.zeros(columns.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        nats = _where(on, averaged(log_p, columns @ coefficients), log_p)
        loss = (nats.sum() + ((coefficients / spread) ** 2).sum() / 2) / len(nats)
        loss.backward()
        return loss

    optimizer.step(closure)
    return coefficients.detach()


def _where(on: Tensor | None, nats: Tensor, log_p: Tensor) -> Tensor:
    return nats if on is None else torch.where(on, nats, -log_p[:, 0])


# What gates are linear in.
GATES: Mapping[str, Callable[[Weighed], Tensor]] = {
    "the entropies": lambda w: w.features[:, :3],
    "the entropies and the inverses of the perplexities": lambda w: w.features,
    "the entropies, their squares and their product": lambda w: torch.cat(
        [w.features[:, :3], w.seen.entropies**2 / 10, w.seen.entropies.prod(1, keepdim=True) / 10], dim=1
    ),
    "the entropies, inverses, and the length of the match": lambda w: torch.cat(
        [w.features, w.lengths[:, None] / 4], dim=1
    ),
    "the entropies, inverses, and whether the top tokens differ": lambda w: torch.cat(
        [w.features, differ(w)[:, None].double()], dim=1
    ),
}


def differ(weighed: Weighed) -> Tensor:
    """Where the members' likeliest tokens are not the same: (n,) bool."""
    return weighed.seen.tops[:, 0] != weighed.seen.tops[:, 1]


def ways(fitting: Weighed, test: Weighed) -> dict[str, Way]:
    """What each way loses on the test positions, its numbers fitted on the others."""
    return dict(_ways(fitting, test))


def _ways(fitting: Weighed, test: Weighed) -> Iterator[tuple[str, Way]]:
    seen, own = fitting.seen.log_p, test.seen.log_p
    ones, others = fitting.features[:, :1], test.features[:, :1]
    yield "the core", (-own[:, 0], "")
    yield "the memory", (-own[:, 1], "")
    bias = fitted(seen, ones)
    yield "average, constant weights", (averaged(own, others @ bias), f"{float(bias.sigmoid()):.2f}")
    due = torch.ones(len(seen), dtype=torch.float64)
    bias = fit(fitting.curves, ones, due, _FREE)
    yield "mix, constant weights", (test.curves.at((others @ bias).sigmoid()), f"{float(bias.sigmoid()):.2f}")
    for name, columns in GATES.items():
        chosen = fitted(seen, columns(fitting))
        yield f"average, gate by {name}", (averaged(own, columns(test) @ chosen), _numbers(chosen))
    yield "average, PUBLIC_GATE", (averaged(own, _public(test)), _numbers(PUBLIC_GATE.coefficients[0]))
    chosen = fit(fitting.curves, fitting.features, due, _FREE)
    yield (
        "mix, gate by the entropies and inverses",
        (
            test.curves.at((test.features @ chosen).sigmoid()),
            _numbers(chosen),
        ),
    )
    yield from _sharpened(fitting, test)
    yield "average, gate, a temperature for each member", _by_temperature(fitting, test)
    yield "average, gate by these and the core's hidden state", _by_states(fitting, test)
    yield from _where_they_differ(fitting, test)
    yield "oracle: the member that is better at each token", (-own.amax(1), "")


def _public(weighed: Weighed) -> Tensor:
    shares = log_shares(PUBLIC_GATE, weighed.seen.entropies)
    return shares[:, 1] - shares[:, 0]


def _sharpened(fitting: Weighed, test: Weighed) -> Iterator[tuple[str, Way]]:
    """Products of powers that need not sum to one, and powers of the gated average, both renormalised."""
    best = int(fitting.powers.sum(0).argmin())
    yield "product of powers", (test.powers[:, best], "{:g} and {:g}".format(*POWERS[best]))
    best = int(fitting.sharper.sum(0).argmin())
    yield "average, PUBLIC_GATE, to a power", (test.sharper[:, best], f"{SHARPER[best]:g}")


def _by_temperature(fitting: Weighed, test: Weighed) -> Way:
    def at(weighed: Weighed, pair: tuple[int, int]) -> tuple[Tensor, Tensor]:
        log_p, entropies = (values[:, [0, 1], list(pair)] for values in weighed.heated)
        return log_p, gate_features(entropies)

    best: tuple[float, tuple[int, int], Tensor] | None = None
    for pair in product(range(len(CORE_HEATS)), range(len(MEMORY_HEATS))):
        log_p, columns = at(fitting, pair)
        chosen = fitted(log_p, columns)
        loss = float(averaged(log_p, columns @ chosen).mean())
        if best is None or loss < best[0]:
            best = loss, pair, chosen
    assert best is not None
    _, pair, chosen = best
    log_p, columns = at(test, pair)
    return averaged(log_p, columns @ chosen), f"{CORE_HEATS[pair[0]]:g} and {MEMORY_HEATS[pair[1]]:g}"


def _by_states(fitting: Weighed, test: Weighed) -> Way:
    """A linear head on the core's states besides, its prior chosen by which half of the texts likes the other's fit."""
    mean, deviation = fitting.states.mean(0), fitting.states.std(0)

    def columns(weighed: Weighed) -> Tensor:
        return torch.cat([weighed.features, (weighed.states - mean) / deviation], dim=1)

    log_p, own, even = fitting.seen.log_p, columns(fitting), fitting.texts % 2 == 0

    def spread_of(value: float) -> Tensor:
        spread = torch.full((own.shape[1],), value, dtype=torch.float64)
        spread[: fitting.features.shape[1]] = _FREE
        return spread

    def crossed(value: float) -> float:
        loss = 0.0
        for half in (even, ~even):
            chosen = fitted(log_p[half], own[half], spread_of(value))
            loss += float(averaged(log_p[~half], own[~half] @ chosen).sum())
        return loss

    best = min(_SPREADS, key=crossed)
    chosen = fitted(log_p, own, spread_of(best))
    return averaged(test.seen.log_p, columns(test) @ chosen), f"standard deviation {best:g}"


def _where_they_differ(fitting: Weighed, test: Weighed) -> Iterator[tuple[str, Way]]:
    """The memory takes part only where its likeliest token is another than the core's."""
    log_p, own, on, there = fitting.seen.log_p, test.seen.log_p, differ(fitting), differ(test)
    for name, width in (("constant weights", 1), ("gate", fitting.features.shape[1])):
        chosen = fitted(log_p, fitting.features[:, :width], on=on)
        nats = _where(there, averaged(own, test.features[:, :width] @ chosen), own)
        yield f"average where the top tokens differ, else the core; {name}", (nats, _numbers(chosen))


def _numbers(values: Sequence[float] | Tensor) -> str:
    return " ".join(f"{float(value):.2f}" for value in values)
