"""Learning which states of a core are alike: those, of different texts, that stand before the same token.

A kNN-LM (Khandelwal et al., 2020) compares a core's states as they are. Here they are projected first, by what makes
the places of other texts foretell a text's own tokens where the core itself does not (neighbourhood components
analysis, Goldberger et al., 2005, over the tokens of a text):

    loss = -mean log (p_recall + p_core) / 2,    p_recall(token) = softmax over places of cosine / T, summed where the
    token stands

A query's own text is left out, as a text that is still to be written is not in the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ssdcli.engine.noise import fold
from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.models.memory.recall import Metric

STEPS = 60

_DIMENSIONS = 256
_TEMPERATURE = 0.08  # at first
_QUERIES, _KEYS = 512, 8192  # of a step
_RATE = 0.07  # of the projection, in standard deviations of its entries
_TEMPERATURE_RATE = 0.02  # of the temperature's logarithm
_SMALLEST = 1e-6  # of a direction's variance, in those of the largest
_NEVER = -1e9  # the score of a query's own text
_LEAST = 1e-9  # chance whose logarithm is taken


@dataclass(frozen=True)
class Examples:
    """Places of texts, the first of which are asked for.

    states: the core's before each place, of the layer that is compared, (n, H) bfloat16.
    tokens: what stands there, (n,) int64.
    texts: the number of the text that each is in, (n,) int64.
    core: the chance that the core itself gives the token of each of the first m, (m,) float32.
    """

    states: Tensor
    tokens: Tensor
    texts: Tensor
    core: Tensor


@dataclass(frozen=True)
class Effort:
    """How much goes into a metric.

    seed: of what is drawn.
    steps: more than STEPS gain nothing.
    gone: the share of its time that is over, from 0 on; the rate falls with it, or with the steps if these are faster.
    watch: called before each step, with the number of those that are taken and of all.
    """

    seed: int
    steps: int = STEPS
    gone: Callable[[], float] = lambda: 0.0
    watch: Callable[[int, int], object] = lambda _done, _all: None


def learn_metric(given: Examples, taps: tuple[int, ...], effort: Effort) -> Metric:
    """Learn a metric from whitened principal components on: the same from the same examples and seed.

    taps: see `Metric`.
    """
    metric = whitening(given.states, taps)
    projection = metric.projection.clone().requires_grad_()
    log_t = torch.tensor(math.log(metric.temperature), requires_grad=True)
    rates = [_RATE * float(metric.projection.std()), _TEMPERATURE_RATE]
    optimizer = torch.optim.Adam([{"params": [projection]}, {"params": [log_t]}], betas=(0.9, 0.95))
    random = torch.Generator().manual_seed(fold(effort.seed, 0) >> 1)
    for step in range(effort.steps):
        over = max(step / effort.steps, effort.gone())
        if over >= 1:
            break
        effort.watch(step, effort.steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - over)
        asked = torch.randint(len(given.core), (_QUERIES,), generator=random)
        keys = torch.randperm(len(given.states), generator=random)[:_KEYS]
        optimizer.zero_grad()
        mean_loss(replace(metric, projection=projection), log_t.exp(), given, asked, keys).backward()
        optimizer.step()
    learned = replace(metric, projection=projection.detach(), temperature=float(log_t.detach().exp()))
    return in_order(learned, given.states)


def in_order(metric: Metric, states: Tensor) -> Metric:
    """The same metric, whose dimensions are the principal components of the keys of states (n, H)."""
    keys = metric(states)
    _, directions = torch.linalg.eigh(keys.T @ keys)
    return replace(metric, projection=metric.projection @ directions.flip(1))


def whitening(states: Tensor, taps: tuple[int, ...]) -> Metric:
    """The largest principal components of states (n, H), scaled to variance 1."""
    size = states.shape[1]
    centred = functional.rms_norm(states.float(), (size,))
    mean = centred.mean(0)
    centred -= mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    largest = variances.flip(0)[:_DIMENSIONS]
    scale = largest.clamp(min=_SMALLEST * float(largest[0])).rsqrt()
    return Metric(taps, mean, directions.flip(1)[:, :_DIMENSIONS] * scale, _TEMPERATURE)


def mean_loss(metric: Metric, temperature: Tensor, given: Examples, asked: Tensor, keys: Tensor) -> Tensor:
    """The mean loss of some examples that are asked for, over some as keys, in nats."""
    others = given.texts[asked, None] != given.texts[keys]
    with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
        scores = metric(given.states[asked]) @ metric(given.states[keys]).T
    weights = torch.softmax((scores.float() / temperature).masked_fill(~others, _NEVER), dim=1)
    recalled = (weights * (others & (given.tokens[asked, None] == given.tokens[keys]))).sum(1)
    return -((recalled + given.core[asked]) / 2).clamp(min=_LEAST).log().mean()
