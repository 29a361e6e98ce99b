"""Four small models for a causal core: block diffusion and its causal twin, reading the core's states and not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.lib.brief_training import Budget, Notes, train
from benchmarks.lib.canvas import ABSENT, BLOCK, SEEN, Core, Read, Reader, noised
from benchmarks.lib.timing import processor_seconds
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.training.side_objective import SampledIds

_GRADED = 512  # positions of a step
_SCORED = 4  # of each canvas
_PART = 128  # positions whose predictions are held at once


class Member(Protocol):
    """What is asked of a small model; texts begin with the core's opening."""

    def each(self, text: Sequence[int]) -> Tensor:
        """Log p of every token of a text after its first, from the left, and of the one behind it: (T, V)."""
        ...

    def next(self, text: Sequence[int]) -> Tensor:
        """The last of these: (V,)."""
        ...

    def in_gap(self, before: Sequence[int], own: Sequence[int], behind: Sequence[int]) -> Tensor:
        """The same of each token of a gap, all known to its left, and what is behind where it can be seen: (n, V)."""
        ...

    def draft(self, before: Sequence[int], count: int) -> list[int]:
        """The likeliest next tokens that it can say without another pass of the core, at most so many."""
        ...


@dataclass(frozen=True)
class ReadingMember:
    """A reader as a member.

    grid: whether a block sees the core's states up to its beginning alone, not those of its own known tokens.
    """

    core: Core
    network: Reader
    grid: bool = False

    @torch.no_grad()
    def each(self, text: Sequence[int]) -> Tensor:
        """As a member's."""
        places = torch.arange(len(text))
        anchors = places // BLOCK * BLOCK if self.grid else places
        tokens = torch.full((len(text), BLOCK), ABSENT)
        for place in range(len(text)):
            known = text[int(anchors[place]) + 1 : place + 1]
            tokens[place, : len(known)] = torch.tensor(known)
        return self._said(self.core.states(text), anchors, tokens, places - anchors)

    @torch.no_grad()
    def next(self, text: Sequence[int]) -> Tensor:
        """As a member's, behind an anchor at the last token."""
        tokens = torch.full((1, BLOCK), ABSENT)
        return self._said(self.core.states(text), torch.tensor([len(text) - 1]), tokens, torch.zeros(1).long())[0]

    @torch.no_grad()
    def in_gap(self, before: Sequence[int], own: Sequence[int], behind: Sequence[int]) -> Tensor:
        """As a member's."""
        tokens = torch.full((len(own), BLOCK), ABSENT)
        for place in range(len(own)):
            left = len(own) - place
            shown = behind[: BLOCK - left]
            tokens[place, left : left + len(shown)] = torch.tensor(shown)
        anchors = torch.arange(len(before) - 1, len(before) + len(own) - 1)
        return self._said(self.core.states([*before, *own]), anchors, tokens, torch.zeros_like(anchors))

    @torch.no_grad()
    def draft(self, before: Sequence[int], count: int) -> list[int]:
        """As a member's: a canvas at once; without one, the next token needs the core's pass over the last."""
        if self.network.canvas is None:
            return []
        return self.drafts(self.core.states(before)[-SEEN:], count)

    @torch.no_grad()
    def drafts(self, states: Tensor, count: int) -> list[int]:
        """The likeliest tokens behind states (n, 3 H)."""
        tokens, places = torch.full((1, BLOCK), ABSENT), torch.arange(count)[None]
        inside = torch.ones(1, len(states), dtype=torch.bool)
        found = self.network(states[None], inside, tokens, places)[0]
        ids: list[int] = self.core.backbone.logits(found).argmax(-1).tolist()
        return ids

    def _said(self, states: Tensor, anchors: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        read = Read(states, torch.zeros(len(states)), torch.zeros(len(states)), torch.zeros(len(states)))
        parts = []
        for rows in torch.arange(len(anchors)).split(_PART):
            seen, inside = read.before(anchors[rows])
            found = self.network(seen, inside, tokens[rows], places[rows, None])[:, 0]
            parts.append(self.core.backbone.logits(found).log_softmax(-1))
        return torch.cat(parts)


def train_reader(core: Core, notes: Notes, budget: Budget, canvas: bool) -> tuple[ReadingMember, int]:
    """Train a reader on the core's states of notes; reading them is part of the time. Also the steps it took."""
    torch.manual_seed(budget.seed)
    network = Reader(core.backbone, canvas)
    began = processor_seconds()
    read = Read.of(core, notes.learned, began + 0.4 * budget.seconds)
    held = Read.of(core, notes.beginnings, float("inf"))
    ids = SampledIds(torch.cat([read.tokens, held.tokens]).unique(), core.backbone.rows, budget.seed)
    anchors = ((read.last - torch.arange(len(read.tokens))) > 1).nonzero()[:, 0]
    fixed = ((held.last - torch.arange(len(held.tokens))) > 1).nonzero()[:, 0]
    each = _SCORED if canvas else 1
    step = 0

    def loss() -> Tensor:
        nonlocal step
        step += 1
        chosen = anchors[torch.randint(0, len(anchors), (_GRADED // each,))]
        tokens, inside = read.canvases(chosen)
        shown, places = noised(tokens, inside, each) if canvas else (tokens, torch.zeros(len(chosen), 1).long())
        scored, weights = ids.at(step, torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16):
            found = network(*read.before(chosen), shown, places)
            scores = found.bfloat16() @ core.backbone.head_rows(scored).bfloat16().T
        wanted = ids.places(tokens.gather(1, places))
        nats = functional.cross_entropy((scores.float() + weights).flatten(0, 1), wanted.flatten(), reduction="none")
        counts = inside.gather(1, places).flatten()
        return (nats * counts).sum() / counts.sum().clamp(min=1)

    @torch.no_grad()
    def own() -> float:
        network.eval()
        hidden = torch.full((len(fixed), BLOCK), ABSENT)
        found = network(*held.before(fixed), hidden, torch.zeros(len(fixed), 1).long())[:, 0]
        network.train()
        parts = zip(found.split(_PART), held.tokens[fixed + 1].split(_PART), strict=True)
        sums = [functional.cross_entropy(core.backbone.logits(x), y, reduction="sum") for x, y in parts]
        return float(torch.stack(sums).sum() / len(fixed))

    network.train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    left = Budget(budget.seconds - (processor_seconds() - began), budget.rate, budget.seed)
    steps = train(loss, own, torch.optim.AdamW(weights, lr=budget.rate, weight_decay=0.01), left)
    return ReadingMember(core, network.eval().requires_grad_(False)), steps


# Those with embeddings of their own


@dataclass(frozen=True)
class DiffusionMember:
    """A block-causal masked diffusion LM."""

    denoiser: Denoiser

    @property
    def _hidden(self) -> int:
        process = self.denoiser.process
        assert isinstance(process, Masked)
        return process.mask_id

    @torch.no_grad()
    def each(self, text: Sequence[int]) -> Tensor:
        """As a member's; the grid of blocks begins with the text, whose first token is the prefix."""
        blocks, size = [], self.denoiser.backbone.block_size
        for start in range(1, len(text) + 1, size):
            own = text[start : start + size]
            known = [*own, *[0] * (size - len(own))]
            blocks.append(self._said(Prompt(text[:start]), known)[: min(size, len(own) + 1)])
        return torch.cat(blocks)[: len(text)]

    def next(self, text: Sequence[int]) -> Tensor:
        """As a member's."""
        start = 1 + (len(text) - 1) // self.denoiser.backbone.block_size * self.denoiser.backbone.block_size
        return self._said(Prompt(text[:start]), [*text[start:], 0], slice(-1, None))[0]

    def in_gap(self, before: Sequence[int], own: Sequence[int], behind: Sequence[int]) -> Tensor:
        """As a member's."""
        sight = tuple(behind[: self.denoiser.sight])
        prompt = Prompt(before, after=sight, gap=self.denoiser.backbone.block_size)
        return self._said(prompt, own)

    def draft(self, before: Sequence[int], count: int) -> list[int]:
        """As a member's: a canvas at once."""
        (prefix,) = self.denoiser.start([Prompt(before)])
        canvas = torch.full((1, self.denoiser.backbone.block_size), self._hidden)
        ids: list[int] = self.denoiser.denoise(canvas, 1.0, None, (prefix,))[0, :count].argmax(-1).tolist()
        return ids

    @torch.no_grad()
    def _said(self, prompt: Prompt, own: Sequence[int], which: slice = slice(None)) -> Tensor:
        rows = torch.arange(len(own))[which]
        canvas = torch.full((len(rows), self.denoiser.backbone.block_size), self._hidden)
        canvas[:, : len(own)] = torch.where(torch.arange(len(own)) < rows[:, None], torch.tensor(own), self._hidden)
        prefixes, own_rows = self.denoiser.start([prompt] * len(rows)), torch.arange(len(rows))
        log_p: Tensor = self.denoiser.denoise(canvas, 1.0, None, prefixes)[own_rows, rows]
        return log_p


class TwinMember(Core):
    """A small causal model."""

    def draft(self, before: Sequence[int], count: int) -> list[int]:
        """As a member's: one by one."""
        text = list(before)
        for _ in range(count):
            text.append(int(self.next(text).argmax()))
        return text[len(before) :]
