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

    Weights that the rule scales are so shared among these. A rule that needs all members (see `Rule`) predicts nothing
    where one abstains.

    log_ps: of the members that run, (..., V), NaN where a member abstains. abstain: which of them ever do.
    """
    shy = [i for i, may in enumerate(abstain) if may]
    if not shy or len(log_ps) == 1 or needs_all(rule):
        return rule(log_ps, weights)
    speaking = [predicted(log_ps[i]) for i in shy]
    combined = torch.full_like(log_ps[0], math.nan, dtype=torch.float32)
    for present in product((True, False), repeat=len(shy)):
        silent = {i for i, speaks in zip(shy, present, strict=True) if not speaks}
        chosen = [i for i in range(len(log_ps)) if i not in silent]
        if not chosen:
            continue
        here = reduce(torch.logical_and, [speaks == p for speaks, p in zip(speaking, present, strict=True)])
        combined = _put(combined, here, rule, [log_ps[i] for i in chosen], [weights[i] for i in chosen])
    return combined


def _put(combined: Tensor, here: Tensor, rule: Rule, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """What has been combined (..., V), with the rule's result at these positions (...) bool."""
    if not readable(here):  # how many positions there are cannot be asked without waiting
        return torch.where(here[..., None], rule(log_ps, weights), combined)
    combined[here] = rule([log_p[here] for log_p in log_ps], weights)
    return combined
