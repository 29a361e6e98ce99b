"""A trace of a block's denoising steps, kept on the device and copied to the host once, when the block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.ensemble.attribution import Explanation
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.switching import Switching
from ssdcli.engine.process import Process
from ssdcli.engine.steps import Step
from ssdcli.errors import RemoteFailed
from ssdcli.machine.threads import choice, timed


@dataclass(frozen=True)
class WrittenBlock:
    """One row of a block.

    tokens: its ids.
    weights: the members' at each of the row's steps.
    canvases: how many canvases were predicted at each of them: one, and one more for each drafted token.
    drafted: tokens that drafters proposed. accepted: those of them that the text took over.
    p: the tokens' probabilities when they were chosen; empty without an explanation.
    top: the likeliest tokens in the place of each, with log p; likewise.
    chances: those of several ensembles at each token, by name, by which they are weighed; empty for one ensemble.
    shares: each token's attribution to the members; empty without an explanation.
    """

    tokens: Sequence[int]
    weights: Sequence[tuple[float, ...]]
    p: Sequence[float]
    shares: Sequence[Sequence[float]]
    canvases: Sequence[int] = ()
    drafted: int = 0
    accepted: int = 0
    top: Sequence[Sequence[tuple[int, float]]] = ()
    chances: Sequence[dict[str, float]] = ()


@dataclass(frozen=True)
class Glimpse:
    """A row's canvas between two steps.

    tokens: its ids, None where it shows noise.
    shares: each token's attribution to the members; empty without an explanation.
    """

    tokens: Sequence[int | None]
    shares: Sequence[Sequence[float]] = ()


Watch = Callable[[Glimpse], None]


class BlockTrace:
    """Records the steps of one block after another.

    A text that is written from the left may be over before its block is; further steps are then not counted.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        process: Process,
        explain: int | None,
        ended: Sequence[Callable[[Sequence[int]], bool]] = (),
        watches: Sequence[Watch | None] = (),
    ) -> None:
        """Begin with the first block of some rows.

        explain: how many of the likeliest tokens are kept of each place, where tokens are attributed to the members;
            None where they are not.
        ended: for each row, whether a text of these ids is over;
        none where text is not written from the left, or where asking would make the host wait for the device.
        watches: for each row, what is shown its canvas after each step; none if nobody watches.
        """
        self._ensemble = ensemble
        self._process = process
        self._explain = explain
        self._ended = ended
        self._watches = watches if any(watches) else ()
        self._written: list[list[int]] = [[] for _ in ended]
        self._over = [False] * len(ended)
        self._steps: list[tuple[tuple[float, ...], Tensor]] = []
        self._drafts: list[Tensor] = []
        self._explanation: Explanation | None = None
        self._chances: Tensor | None = None

    @property
    def over(self) -> Sequence[bool]:
        """Which texts are over; empty where that is not asked."""
        return self._over

    def blocks(self, steps: Iterable[Step]) -> Iterator[list[WrittenBlock]]:
        """The rows of each block, until the steps end or every text is over.

        Where a core on another machine fails, the last block is what was written of it.
        """
        try:
            for step in timed(steps, choice(repeatable=not self._ensemble.same_on_any_threads)):
                if self.take(step):
                    yield self.read()
                if self._ended and all(self._over):
                    return
        except RemoteFailed:
            if self._steps:
                yield self.read()
            raise

    def take(self, step: Step) -> bool:
        """Record another step; returns whether the block can be read: it has ended, or every text is over."""
        open_ = torch.tensor([not over for over in self._over], device=step.active.device) if self._ended else True
        self._steps.append((step.weights, step.active & open_))
        drafts = [torch.zeros_like(step.first) if one is None else one for one in (step.drafted, step.accepted)]
        self._drafts.append(torch.stack(drafts, dim=1) * (step.active & open_)[:, None])
        self._tokens = self._process.tokens(step.canvas)
        if self._explain is not None:
            before = self._explanation or Explanation.empty(self._ensemble, self._tokens, self._explain)
            self._explanation = before.after(step, self._tokens)
        if step.chances is not None:
            self._chances = _noted(step, self._tokens, self._chances)
        if self._watches:
            self._show(self._process.shows(step.canvas))
        if not self._ended:
            return step.last
        known = self._known(self._process.shows(step.canvas))
        self._over = [
            over or ended([*before, *tokens])
            for over, ended, before, tokens in zip(self._over, self._ended, self._written, known, strict=True)
        ]
        return step.last or all(self._over)

    def _show(self, shown: Tensor) -> None:
        """Show each row's canvas, (B, L) bool of which are tokens, to whoever watches it."""
        shares = [()] * len(shown) if self._explanation is None else self._explanation.shares.tolist()
        rows = zip(self._watches, self._tokens.tolist(), shown.tolist(), shares, strict=True)
        for watch, tokens, shows, own in rows:
            if watch is not None:
                watch(Glimpse([token if there else None for token, there in zip(tokens, shows, strict=True)], own))

    def _known(self, shown: Tensor) -> list[list[int]]:
        """Each row's ids up to the first position that is not shown: (B, L) bool."""
        counts = shown.long().cumprod(1).sum(1).tolist()
        return [tokens[:count] for tokens, count in zip(self._tokens.tolist(), counts, strict=True)]

    def read(self) -> list[WrittenBlock]:
        """The rows of the finished block; the next step begins another block."""
        weights = [weights for weights, _ in self._steps]
        active = torch.stack([active for _, active in self._steps], dim=1).tolist()
        drafts = torch.stack(self._drafts, dim=1).tolist()
        tokens = self._known(self._process.shows(self._tokens)) if self._ended else self._tokens.tolist()
        for written, fresh in zip(self._written, tokens, strict=False):
            written.extend(fresh)
        told, none = self._explanation, [()] * len(tokens)
        p, shares = (none, none) if told is None else (told.p.tolist(), told.shares.tolist())
        top, top_ids = (none, none) if told is None else (told.top.tolist(), told.top_ids.tolist())
        chances = none if self._chances is None else self._named(self._chances.exp())
        self._steps, self._drafts, self._explanation, self._chances = [], [], None, None
        blocks = []
        for row, took in enumerate(active):
            own = [(w, *counts) for w, counts, was in zip(weights, drafts[row], took, strict=True) if was]
            blocks.append(
                WrittenBlock(
                    tokens[row],
                    [w for w, _, _ in own],
                    p[row],
                    shares[row],
                    [1 + drafted for _, drafted, _ in own],
                    sum(drafted for _, drafted, _ in own),
                    sum(accepted for _, _, accepted in own),
                    [list(zip(*likeliest, strict=True)) for likeliest in zip(top_ids[row], top[row], strict=True)],
                    chances[row],
                )
            )
        return blocks

    def _named(self, chances: Tensor) -> list[list[dict[str, float]]]:
        """The chances (B, L, K) of several ensembles by name, for each token of each row."""
        assert isinstance(self._ensemble.rule, Switching)
        names = [expert.name for expert in self._ensemble.rule.experts]
        return [[dict(zip(names, own, strict=True)) for own in row] for row in chances.tolist()]


def _noted(step: Step, tokens: Tensor, before: Tensor | None) -> Tensor:
    """The chances at each place of a block (B, L), those that a step used where it predicted: (B, L, K)."""
    assert step.chances is not None
    width = step.chances.shape[1]
    column = torch.arange(tokens.shape[1], device=tokens.device) - step.first[:, None]
    here = ((column >= 0) & (column < width) & step.active[:, None])[..., None]
    spread = step.chances.gather(1, column.clamp(0, width - 1)[..., None].expand(-1, -1, step.chances.shape[2]))
    return torch.where(here, spread, spread if before is None else before)
