"""Attribution: each member's share in the ensemble's choice of a token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.rules import FLOOR
from ssdcli.engine.steps import Step


def shares(
    ensemble: Ensemble,
    by_member: Sequence[Tensor | None],
    weights: Sequence[float],
    tokens: Tensor,
    chances: Tensor | None = None,
) -> Tensor:
    """Each member's share in the ensemble's choice of tokens (B, L): (B, L, members) float32, summing to one.

    It is a game that the members play together. v(S) is the log-probability that the ensemble would give the token if
    only the members in S had an opinion and the others were uniform over the tokens that the ensemble allows; rule,
    weights and the chances of several ensembles (B, L, K) stay, and anything below -100 nats counts as -100. A member's
    value is its Shapley value (Shapley, 1953): what it adds to v(S) on joining S, averaged over the orders in which the
    members can join. Hence

    - the values sum to how far the members together moved the token's log-probability;
    - members that predict the same with the same weight have the same value;
    - a member that is uniform, was not run, or abstains, has none.

    The shares are the values above zero, scaled to sum to one. Members that lowered the token's probability get no
    share. If none raised it, the shares are those of the predicting members' absolute weights. Guides are not members,
    and the temperature does not matter. Where nobody predicts, shares are NaN.
    """
    running = [i for i, log_p in enumerate(by_member) if log_p is not None]
    gains = [value.clamp(min=0) for value in _shapley(_game(ensemble, by_member, weights, tokens, chances))]
    unmoved = _sum(gains) == 0
    silent = [log_p[..., 0].isnan() for log_p in by_member if log_p is not None]
    used = [torch.where(silent[place], 0.0, abs(weights[i])) for place, i in enumerate(running)]
    parts = [torch.where(unmoved, w, gain) for w, gain in zip(used, gains, strict=True)]
    whole = _sum(parts)
    scaled = {i: part / whole for i, part in zip(running, parts, strict=True)}
    return torch.stack([scaled.get(i, torch.zeros_like(whole)) for i in range(len(by_member))], dim=-1)


def _game(
    ensemble: Ensemble,
    by_member: Sequence[Tensor | None],
    weights: Sequence[float],
    tokens: Tensor,
    chances: Tensor | None,
) -> list[Tensor]:
    """v(S) of the tokens (B, L) for every set S of the members that ran, numbered by its bits: 2^n of (B, L)."""
    excluded = ensemble.combine(by_member, weights, chances).isneginf()
    uniform = torch.log_softmax(torch.where(excluded, -math.inf, 0.0), dim=-1)
    running = [i for i, log_p in enumerate(by_member) if log_p is not None]
    # Where a member abstains, it does so in every set.
    flat = [None if log_p is None else torch.where(log_p[..., :1].isnan(), log_p, uniform) for log_p in by_member]

    def worth(members: int) -> Tensor:
        opinionated = {i for place, i in enumerate(running) if members >> place & 1}
        predictions = [by_member[i] if i in opinionated else flat[i] for i in range(len(by_member))]
        return ensemble.combine(predictions, weights, chances).gather(-1, tokens[..., None])[..., 0].clamp(min=FLOOR)

    return [worth(members) for members in range(1 << len(running))]


def _shapley(game: Sequence[Tensor]) -> list[Tensor]:
    """The members' values in a game as `_game` makes it: n of (B, L).

    Of n! orders, |S|! (n - 1 - |S|)! have exactly S before the member: a share of 1 / (n * C(n - 1, |S|)).
    """
    count = (len(game) - 1).bit_length()

    def gain(member: int, others: int) -> Tensor:
        """What a member adds to these others, times the chance that exactly they come before it in a random order."""
        orders = count * math.comb(count - 1, others.bit_count())
        return (game[others | 1 << member] - game[others]) / orders

    sets = range(len(game))
    return [_sum([gain(member, others) for others in sets if not others >> member & 1]) for member in range(count)]


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Add tensors one by one: a reduction may sum in another order in another batch, and round otherwise."""
    return reduce(torch.add, terms)


@dataclass(frozen=True)
class Explanation:
    """Attribution of each token of a block to members, at the last step that decided it; NaN before the first step.

    ensemble: whose rule and members it is about.
    shares: (B, L, members) float32, see `shares`.
    p: the probability that the ensemble, guides included, gave the token: (B, L) float32.
    top: log p of the likeliest tokens there, in falling order: (B, L, n) float32. top_ids: those tokens.
    """

    ensemble: Ensemble
    shares: Tensor
    p: Tensor
    top: Tensor
    top_ids: Tensor

    @classmethod
    def empty(cls, ensemble: Ensemble, tokens: Tensor, likeliest: int = 0) -> Explanation:
        """The attribution of a block (B, L) in which nothing is decided yet; likeliest: n, the tokens kept of each."""
        nothing = torch.full((*tokens.shape, len(ensemble.members)), math.nan, device=tokens.device)
        ids = tokens.new_zeros(*tokens.shape, likeliest)
        return cls(ensemble, nothing, nothing[..., 0], ids.float(), ids)

    def after(self, step: Step, tokens: Tensor) -> Explanation:
        """The attribution after another step of the block.

        A step decides the positions where it chose another token than the canvas showed, and those that no step has
        decided before.

        tokens: (B, L) int64, those that the step's canvas shows.
        """
        width = step.log_p.shape[1]
        column = torch.arange(tokens.shape[1], device=tokens.device) - step.first[:, None]
        inside, column = (column >= 0) & (column < width), column.clamp(0, width - 1)
        decided = inside & step.active[:, None] & (step.decided | self.p.isnan())
        place = (step.first[:, None] + torch.arange(width, device=tokens.device)).clamp(max=tokens.shape[1] - 1)
        chosen = tokens.gather(1, place)
        owed = shares(self.ensemble, step.by_member, step.weights, chosen, step.chances)
        p = step.log_p.gather(-1, chosen[..., None]).exp()
        top, top_ids = step.log_p.topk(self.top.shape[-1], dim=-1)

        def latest(new: Tensor, before: Tensor) -> Tensor:
            """What the step says at the places that it decided, (B, C, n) to (B, L, n)."""
            return torch.where(decided[..., None], new.gather(1, column[..., None].expand(before.shape)), before)

        return replace(
            self,
            shares=latest(owed, self.shares),
            p=latest(p, self.p[..., None])[..., 0],
            top=latest(top, self.top),
            top_ids=latest(top_ids, self.top_ids),
        )
