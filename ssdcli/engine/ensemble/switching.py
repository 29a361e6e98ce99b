"""Several ensembles of which one at a time goes on with a text: each counts by how likely it is to have written it.

That is fixed share (Herbster and Warmuth, "Tracking the best expert", 1998). Each token is taken to be written by one
of K ensembles, all equally likely to begin; at each token after it the writer is, with a chance c, drawn anew. With
p_k, what ensemble k says of a token after those before it, and s_k, the chance that it is the writer there,

    p(x) = sum_k s_k p_k(x)        s_k' = (1 - c) s_k p_k(x) / p(x) + c / K
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice, takewhile
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.ensemble.abstention import combine
from ssdcli.engine.ensemble.gate import Expert
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import FLOOR, GatedAverage, average, log_sum
from ssdcli.engine.prompt import HEARD, Prompt
from ssdcli.engine.sampling.nucleus import predicted

CHANGES = 0.02  # c; from 0.005 to 0.05 all are as good (measured)
_TOGETHER = 32  # tokens of a prompt whose predictions are held at once


@dataclass(frozen=True)
class Switching:
    """The average of several ensembles by their chances, each of which combines its members as if alone.

    Where an ensemble predicts nothing, the others share its chance, and it is taken to have said what they say.

    experts: the ensembles.
    """

    experts: tuple[Expert, ...]

    def among(self, places: Sequence[int]) -> Switching:
        """The same for members in another order: places[i] is where member i stands."""
        return Switching(
            tuple(replace(one, members=tuple(places[member] for member in one.members)) for one in self.experts)
        )

    def __call__(self, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Log p at even chances, by members of which none abstains: (..., V) float32; the weights are the experts'."""
        opinions = self.opinions(log_ps, [False] * len(log_ps))
        return self.pooled(opinions, self.even(1, opinions[0].device)[0].expand(*opinions[0].shape[:-1], -1))

    def opinions(self, log_ps: Sequence[Tensor], abstain: Sequence[bool]) -> tuple[Tensor, ...]:
        """What each ensemble predicts, (..., V), of what the members do; abstain: which of these ever do."""
        return tuple(
            combine(
                average if expert.gate is None else GatedAverage(expert.gate),
                [log_ps[member] for member in expert.members],
                expert.weights,
                [abstain[member] for member in expert.members],
            )
            for expert in self.experts
        )

    def pooled(self, opinions: Sequence[Tensor], chances: Tensor) -> Tensor:
        """Log p by what the ensembles predict, (..., V) each, and the logarithms of their chances (..., K)."""
        silent = torch.stack([~predicted(said) for said in opinions], dim=-1)
        heard = chances.masked_fill(silent, -math.inf)
        shares = heard - _over_experts(heard)
        terms = [said.nan_to_num(nan=-math.inf) + shares[..., k : k + 1] for k, said in enumerate(opinions)]
        return reduce(log_sum, terms)

    def even(self, rows: int, device: torch.device) -> Tensor:
        """The logarithms of all chances before anything is written: (B, K) float32."""
        count = len(self.experts)
        return torch.full((rows, count), -math.log(count), dtype=torch.float32, device=device)

    def followed(self, known: Tensor, said: Tensor) -> Tensor:
        """The logarithms of the chances before each of C tokens and after the last: (B, C + 1, K) float32.

        known: those before the first, (B, K). said: log p of each token by each ensemble, (B, C, K), NaN where it says
        nothing.
        """
        found = [known]
        for said_here in said.float().clamp(min=FLOOR).unbind(1):
            silent = said_here.isnan()
            speaking = known.masked_fill(silent, -math.inf)
            joint = speaking + said_here.masked_fill(silent, 0)
            by_others = (_over_experts(joint) - _over_experts(speaking)).nan_to_num(nan=0)
            joint = torch.where(silent, known + by_others, joint)
            writer = joint - _over_experts(joint)
            anew = torch.full_like(writer, math.log(CHANGES / len(self.experts)))
            known = log_sum(writer + math.log(1 - CHANGES), anew)
            found.append(known)
        return torch.stack(found, dim=1)

    def of_tokens(self, opinions: Sequence[Tensor], tokens: Tensor) -> Tensor:
        """Log p of tokens (...) by each ensemble: (..., K)."""
        return torch.cat([said.gather(-1, tokens[..., None]) for said in opinions], dim=-1)

    def after(self, members: Sequence[Member[Any]], prompts: Sequence[Sequence[Prompt]], read: Sequence[Any]) -> Tensor:
        """The logarithms of the chances after prompts[member][row], by their last HEARD tokens: (B, K) float32.

        read: what each member has read of its prompts. Members that read differently are judged by what their prompts
        end with alike; where one cannot tell what it says of a prompt, nothing is.
        """
        rows = list(zip(*prompts, strict=True))
        known: dict[tuple[int, ...], Tensor] = {}  # several texts may follow one prompt
        for row, own in enumerate(rows):
            if tuple(map(id, own)) not in known:
                known[tuple(map(id, own))] = self._after(members, own, read, row)
        return torch.cat([known[tuple(map(id, own))] for own in rows])

    def _after(
        self, members: Sequence[Member[Any]], prompts: Sequence[Prompt], read: Sequence[Any], row: int
    ) -> Tensor:
        """The same for one row: (1, K)."""
        models = [member.model for member in members]
        tell = [getattr(model, "recent", None) for model in models]
        device = next((torch.device(model.device) for model in models if hasattr(model, "device")), torch.device("cpu"))
        known: Tensor = self.even(1, device)
        count = min(HEARD, _alike(prompts), *(_predictable(*one) for one in zip(models, prompts, strict=True)))
        able: list[Callable[..., Iterator[Tensor]]] = [one for one in tell if one is not None]
        if count < 1 or len(able) < len(tell):
            return known
        said = [one(prompt, count, own, row) for one, prompt, own in zip(able, prompts, read, strict=True)]
        abstain = [getattr(model, "abstains", False) for model in models]
        tokens: Tensor = torch.tensor(list(prompts[0].before[-count:]), device=device)
        for here in tokens.split(_TOGETHER):
            log_ps = [torch.stack(list(islice(each, len(here)))).to(device) for each in said]
            opinions = self.opinions(log_ps, abstain)
            known = self.followed(known, self.of_tokens(opinions, here)[None])[:, -1]
        return known


def _over_experts(values: Tensor) -> Tensor:
    """Log sum_k exp(values_k): (..., K) to (..., 1)."""
    each: tuple[Tensor, ...] = values.split(1, dim=-1)
    return reduce(log_sum, each)


def _alike(prompts: Sequence[Prompt]) -> int:
    """How many of the last tokens all prompts have in common."""
    columns = zip(*(reversed(prompt.before) for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _predictable(model: Any, prompt: Prompt) -> int:
    """How many of the last tokens of a prompt a model reads with others before them."""
    return min(len(prompt.before), getattr(model, "room", len(prompt.before))) - 1
