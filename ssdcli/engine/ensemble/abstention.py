"""Abstaining members: position by position, a rule combines those that predict there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import product

import torch
from torch import Tensor

from ssdcli.engine.ensemble.rules import Rule
from ssdcli.engine.sampling.nucleus import predicted, readable


def needs_all(rule: Rule) -> bool:
    """Whether a rule predicts nothing where one of its members abstains."""
    return getattr(rule, "needs_all", False)


def combine(rule: Rule, log_ps: Sequence[Tensor], weights: Sequence[float], abstain: Sequence[bool]) -> Tensor:
    """Apply a rule to the members that predict at a position: (..., V) float32, NaN where there is none.

    Where a rule normalises the weights, these members share all of the weight. A rule that needs all members (see
    `Rule`) predicts nothing where one abstains.

    log_ps: of the members that run, (..., V), NaN where a member abstains.
    abstain: which of them ever do.
    """
    partial = [i for i, may in enumerate(abstain) if may]
    if not partial or len(log_ps) == 1 or needs_all(rule):
        return rule(log_ps, weights)
    predicting = [predicted(log_ps[i]) for i in partial]
    combined = torch.full_like(log_ps[0], math.nan, dtype=torch.float32)
    for present in product((True, False), repeat=len(partial)):
        absent = {i for i, there in zip(partial, present, strict=True) if not there}
        chosen = [i for i in range(len(log_ps)) if i not in absent]
        if not chosen:
            continue
        here = reduce(torch.logical_and, [predicts == p for predicts, p in zip(predicting, present, strict=True)])
        if not readable(here) or bool(here.any()):
            combined = _put(combined, here, rule, [log_ps[i] for i in chosen], [weights[i] for i in chosen])
    return combined


def _put(combined: Tensor, here: Tensor, rule: Rule, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """What has been combined so far (..., V), with the rule's result at these positions (...) bool."""
    if not readable(here):  # the host would wait to learn how many positions there are
        return torch.where(here[..., None], rule(log_ps, weights), combined)
    combined[here] = rule([log_p[here] for log_p in log_ps], weights)
    return combined
