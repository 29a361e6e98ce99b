"""A core whose distributions are known, drafters of every kind, and texts written by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.drafting.drafting import Drafting
from ssdcli.engine.drafting.prompt_lookup import PromptLookup
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.race import Race
from ssdcli.engine.sampling.reverse import Choice, reverse_process
from ssdcli.engine.steps import SamplerConfig, Step

V, L, MASK = 12, 8, 11
END = 10
PROCESS = Masked(V, mask_id=MASK)
PROMPT = (1, 2, 3, 1, 2)


class Chain:
    """Predicts the leftmost hidden token by the one before it, and abstains elsewhere, as a causal language model."""

    abstains = True

    def __init__(self, seed: int = 0, sharp: float = 1.5, ends: bool = False) -> None:
        scores = torch.randn(V, V, generator=torch.Generator().manual_seed(seed)) * sharp
        scores[:, MASK] = -math.inf
        if not ends:
            scores[:, END] = -math.inf
        self.log_p = torch.log_softmax(scores, -1)
        self.asked = 0

    def start(self, prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor([prompt.before[-1] for prompt in prompts])

    def commit(self, tokens: Tensor, prefix: Tensor) -> Tensor:
        return tokens[:, -1]

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Tensor) -> Tensor:
        self.asked += 1
        known = (canvas != MASK).long().cumprod(1).sum(1)
        before = torch.cat([prefix[:, None], canvas], dim=1)
        out = torch.full((*canvas.shape, V), math.nan)
        for row, place in enumerate(known.tolist()):
            if place < canvas.shape[1]:
                out[row, place] = self.log_p[before[row, place]]
        return out


class Even:
    """Predicts every token at every position as equally likely."""

    def start(self, prompts: Sequence[Prompt]) -> None:
        return None

    def commit(self, tokens: Tensor, prefix: None) -> None:
        return None

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: None) -> Tensor:
        p = torch.full((V,), 1 / (V - 2))
        p[[END, MASK]] = 0
        return p.log().expand(*canvas.shape, V)


@dataclass
class Fixed:
    """Drafts from texts that it is given, row by row, and is as sure as it is told."""

    texts: list[list[int]]
    sure: float = 1.0
    drafted: int = 0

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: Any) -> Draft:
        known = (canvas != MASK).sum(1).tolist()
        places = [range(race.start + n, race.start + n + count) for n in known]
        tokens = [[text[i] if i < len(text) else -1 for i in at] for text, at in zip(self.texts, places, strict=True)]
        self.drafted += sum(token >= 0 for row in tokens for token in row)
        return Draft(torch.tensor(tokens), torch.full((len(tokens), count), self.sure))


class Believes:
    """Draws by the race from a distribution of its own."""

    def __init__(self, log_p: Tensor) -> None:
        self.log_p = log_p

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: Any) -> Draft:
        known = (canvas != MASK).sum(1)
        places = (known[:, None] + torch.arange(count)).clamp(max=canvas.shape[1] - 1)
        rows = torch.arange(len(canvas)).repeat_interleave(count)
        tokens = race.winners(self.log_p.expand(len(rows), V), rows, places.flatten()).view(places.shape)
        return Draft(tokens, torch.full(tokens.shape, 0.9))


def write(
    members: Sequence[tuple[Any, float]], drafters: Sequence[Any] = (), most: int = 0, rows: int = 1, **changes: Any
) -> list[Step]:
    """All steps of texts by members with weights, three blocks unless changed, after one prompt each."""
    ensemble = Ensemble(
        tuple(Member(f"m{i}", one, Constant(w)) for i, (one, w) in enumerate(members)), changes.pop("rule", average)
    )
    seeds = changes.pop("seeds", range(rows))
    prompts = [Prompt(changes.pop("prompt", PROMPT))] * len(seeds)
    drafting = Drafting(tuple(drafters), (None,) * len(drafters), most)
    fields: dict[str, Any] = {"block_size": L, "max_tokens": 3 * L, "ends": (END,), "picker": Picker()}
    config = SamplerConfig(**{**fields, "shared": tuple(prompts), "drafting": drafting, **changes})
    reverse = reverse_process(PROCESS, Choice("left-to-right", ends=(END,)))
    return list(sample(ensemble, reverse, [prompts] * len(members), seeds, config))


def texts_of(steps: Sequence[Step]) -> list[list[int]]:
    """The tokens of every row, masks left out."""
    canvases = torch.cat([step.canvas for step in steps if step.last], dim=1).tolist()
    return [[token for token in row if token != MASK] for row in canvases]


def lookup() -> PromptLookup:
    return PromptLookup()
