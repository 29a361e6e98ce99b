"""Whom a token is owed to: each member's share in the ensemble's choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.rules import Rule
from ssdcli.engine.sampler import Step

_FLOOR = -100.0  # nats: keeps the gains finite where a set of members excludes a token


def shares(ensemble: Ensemble, by_member: Sequence[Tensor | None], weights: Sequence[float], tokens: Tensor) -> Tensor:
    """Each member's share in the ensemble's choice of tokens (B, L): (B, L, members) float32, summing to one.

    Let v(S) be the log-probability that the ensemble would give the token if the members outside of S knew nothing,
    that is, if they were uniform over the tokens that the ensemble allows; rule and weights stay, and less than -100
    nats counts as -100. A member's value is its Shapley value in that game (Shapley, 1953): what its joining S adds to
    v(S), averaged over the orders in which the members can join. So the values sum to how far the members together
    moved the token's log-probability, members that say the same with the same weight are worth the same, and one that
    is uniform or was not run is worth nothing. The shares are the values above zero, scaled to sum to one: a token owes
    nothing to a member that spoke against it. Where none spoke for it, the shares are those of the running members'
    absolute weights. Guides are no members, and the temperature plays no part.
    """
    running = [i for i, log_p in enumerate(by_member) if log_p is not None]
    used = [weights[i] for i in running]
    values = _shapley(_game(ensemble.rule, [log_p for log_p in by_member if log_p is not None], used, tokens))
    gains = [value.clamp(min=0) for value in values]
    unmoved = _sum(gains) == 0
    parts = [torch.where(unmoved, abs(w), gain) for w, gain in zip(used, gains, strict=True)]
    whole = _sum(parts)
    scaled = {i: part / whole for i, part in zip(running, parts, strict=True)}
    return torch.stack([scaled.get(i, torch.zeros_like(whole)) for i in range(len(by_member))], dim=-1)


def _game(rule: Rule, log_ps: Sequence[Tensor], weights: Sequence[float], tokens: Tensor) -> list[Tensor]:
    """v(S) of the tokens (B, L) for every set S of the members that ran, numbered by its bits: 2^n of (B, L)."""
    excluded = rule(log_ps, weights).isneginf()
    uniform = torch.log_softmax(torch.where(excluded, -math.inf, 0.0), dim=-1)

    def worth(members: int) -> Tensor:
        said = [log_p if members >> i & 1 else uniform for i, log_p in enumerate(log_ps)]
        return rule(said, weights).gather(-1, tokens[..., None])[..., 0].clamp(min=_FLOOR)

    return [worth(members) for members in range(1 << len(log_ps))]


def _shapley(game: Sequence[Tensor]) -> list[Tensor]:
    """The members' values in a game as `_game` makes it: n of (B, L)."""
    count = (len(game) - 1).bit_length()

    def gain(member: int, others: int) -> Tensor:
        """What a member adds to these others, times the chance that just they come before it in a random order."""
        orders = count * math.comb(count - 1, others.bit_count())
        return (game[others | 1 << member] - game[others]) / orders

    sets = range(len(game))
    return [_sum([gain(member, others) for others in sets if not others >> member & 1]) for member in range(count)]


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Add tensors up one by one: reductions take another order for another batch."""
    return reduce(torch.add, terms)


@dataclass(frozen=True)
class Explanation:
    """Whom the tokens of a block are owed to, as of the last step that decided each; NaN before the first step.

    shares: (B, L, members) float32, see `shares`. p: the probability that the ensemble, guides included, gave the
    token: (B, L) float32.
    """

    ensemble: Ensemble
    shares: Tensor
    p: Tensor

    @classmethod
    def empty(cls, ensemble: Ensemble, rows: int, length: int, device: torch.device | str = "cpu") -> Explanation:
        """Of a block of which nothing is decided."""
        shares = torch.full((rows, length, len(ensemble.members)), math.nan, device=device)
        return cls(ensemble, shares, torch.full((rows, length), math.nan, device=device))

    def after(self, step: Step, tokens: Tensor) -> Explanation:
        """Take in the block's next step; tokens: (B, L) int64, those that its canvas shows.

        A step decides the positions where it chose another token than the canvas showed, and those that no step has
        decided yet.
        """
        decided = step.active[:, None] & (step.decided | self.p.isnan())
        owed = shares(self.ensemble, step.by_member, step.weights, tokens)
        p = step.log_p.gather(-1, tokens[..., None])[..., 0].exp()
        return replace(
            self,
            shares=torch.where(decided[..., None], owed, self.shares),
            p=torch.where(decided, p, self.p),
        )
