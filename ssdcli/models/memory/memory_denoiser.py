"""A text as a member of a masked ensemble: what followed the tokens before a position, wherever they stand in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.models.memory.text_index import BORDER, Followers, Index

DISCOUNT = 0.65  # beside a real core, on real notes, the best of 0.3 to 0.9

Known = Sequence[int | None]


@dataclass(frozen=True)
class Surroundings:
    """What is known around the canvas of a row.

    before: the last tokens before it, BORDER in front if the text begins there.
    after: the tokens behind it, None for one that is not known.
    """

    before: tuple[int, ...]
    after: tuple[int | None, ...] = ()


class MemoryDenoiser:
    """Predicts a hidden token whose left neighbour is known; abstains elsewhere.

    The prediction is that of interpolated absolute discounting (Ney, Essen and Kneser, 1994) over contexts of growing
    length: p_k(w) = (max(c_k(w) - D, 0) + D T_k p_{k-1}(w)) / n_k, where c_k counts what follows the last k tokens, T_k
    is the number of different followers and n_k their sum; p_0 is uniform over the ids that are text. Where tokens
    behind a hidden position are known, matches on both sides count as still longer contexts.
    """

    abstains = True

    def __init__(self, index: Index, process: Masked, excluded: Iterable[int] = ()) -> None:
        """Predict from an index; ids in `excluded` are never text."""
        self.index = index
        self.process = process
        text = torch.ones(process.vocabulary, dtype=torch.float64)
        text[[process.mask_id, *excluded]] = 0
        self._uniform = text / text.sum()

    def start(self, prompts: Sequence[Prompt]) -> tuple[Surroundings, ...]:
        """What is known around the canvas of each prompt."""
        return tuple(self._surroundings(prompt) for prompt in prompts)

    def _surroundings(self, prompt: Prompt) -> Surroundings:
        before = [BORDER, *prompt.before][-self.index.depth :]
        return Surroundings(tuple(before), tuple(prompt.after[: self.index.depth]))

    def commit(self, tokens: Tensor, prefix: tuple[Surroundings, ...]) -> tuple[Surroundings, ...]:
        """The surroundings after a clean block (B, L)."""
        rows = zip(prefix, tokens.tolist(), strict=True)
        return tuple(Surroundings((*row.before, *block)[-self.index.depth :], row.after) for row, block in rows)

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: tuple[Surroundings, ...]) -> Tensor:
        """Log p of the clean tokens of canvases (B, L): (B, L, V) float32, NaN where it abstains.

        Known positions are NaN as well. The noise level and the previous prediction are not read.
        """
        log_p = torch.full((*canvas.shape, self.process.vocabulary), math.nan)
        for b, (tokens, row) in enumerate(zip(canvas.tolist(), prefix, strict=True)):
            known = [None if token == self.process.mask_id else token for token in tokens]
            for place in _beginnings(known, row.before):
                log_p[b, place] = self.log_p([*row.before, *known[:place]], [*known[place + 1 :], *row.after])
        return log_p.to(canvas.device)

    def log_p(self, before: Known, after: Known = ()) -> Tensor:
        """Log p of a token by the known tokens before it and those behind it: (V,) float32."""
        p, left = torch.zeros_like(self._uniform), 1.0  # what longer contexts leave to shorter ones
        for followers in reversed(list(self._levels(_last_known(before), after))):
            counts = torch.from_numpy(followers.counts).double()
            total = float(counts.sum())
            p[torch.from_numpy(followers.ids)] += left * (counts - DISCOUNT) / total
            left *= DISCOUNT * len(counts) / total
        return p.add_(self._uniform, alpha=left).float().log_()

    def _levels(self, before: Sequence[int], after: Known) -> Iterator[Followers]:
        yield from self.index.followers(before)
        gap = next((place for place, token in enumerate(after) if token is not None), None)
        if gap is not None:
            yield from self.index.between(before, _first_known(after[gap:]), gap + 1)


def _beginnings(known: Known, before: Sequence[int]) -> Iterator[int]:
    """The hidden places of a canvas whose left neighbour is known, or that begin a text."""
    left: int | None = before[-1] if before else None
    for place, token in enumerate(known):
        if token is None and left is not None:
            yield place
        left = token


def _last_known(tokens: Known) -> list[int]:
    """The known tokens at the end."""
    known = _first_known(tokens[::-1])
    return known[::-1]


def _first_known(tokens: Known) -> list[int]:
    """The known tokens at the beginning."""
    known = []
    for token in tokens:
        if token is None:
            break
        known.append(token)
    return known
