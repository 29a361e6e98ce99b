"""The active vocabulary of a small model: rows for the tokens of its training text, which all others share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssdcli.data.token_store import Tokens
from ssdcli.models.core_traits import CoreTraits, directions

_ROWS = 16_384  # at most; a vocabulary of no more tokens stays whole
_LIKENESS = 128  # dimensions of the core's embeddings in which tokens are compared
_CHUNK = 1 << 12
_READ = 1 << 20


@dataclass(frozen=True)
class Division:
    """A vocabulary of V tokens in n rows, see `ActiveVocabulary`.

    ids: (n,) int64, the active token of each row.
    row: (V,) int64, the row of each token.
    share: (V,) float32, log p(token | its row).
    floor: (n,) float32, the log of the probability that a row keeps for its tokens that the text lacks.
    """

    ids: Tensor
    row: Tensor
    share: Tensor
    floor: Tensor

    def state(self) -> dict[str, Tensor]:
        """The buffers of an `ActiveVocabulary`."""
        size = self.row.bincount(minlength=len(self.ids))
        return {"row": self.row, "size": size, "share": self.share, "floor": self.floor}


def divide(traits: CoreTraits, text: Tokens, rows: int = _ROWS) -> Division | None:
    """Divide a core's vocabulary by a training text, (tokens,); None if it has no more than `rows` tokens."""
    vocabulary = len(traits.embeddings)
    if vocabulary <= rows:
        return None
    never = torch.tensor(traits.suppressed, dtype=torch.int64)
    counts = count_tokens(text, vocabulary).index_fill(0, never, 0)
    active = active_ids(counts, rows)
    row = nearest(traits.embeddings, active).index_fill(0, never, len(active))
    is_text = torch.ones(vocabulary, dtype=torch.bool).index_fill(0, never, False)
    share, floor = smoothed(counts, row, is_text)
    return Division(torch.cat([active, never[:1]]), row, share, floor)


def count_tokens(text: Tokens, vocabulary: int) -> Tensor:
    """Count how often each token occurs in a text: (V,) int64."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(text), _READ):
        counts += np.bincount(text[start : start + _READ], minlength=vocabulary)
    return torch.from_numpy(counts)


def active_ids(counts: Tensor, limit: int) -> Tensor:
    """The ids that occur, at most the `limit` most frequent, in ascending order: (n,) int64."""
    often = counts.argsort(descending=True, stable=True)[:limit]
    return often[counts[often] > 0].sort().values


def nearest(embeddings: Tensor, active: Tensor) -> Tensor:
    """Find the place in `active` of the token most similar to each, by cosine: (V, H) to (V,) int64."""
    axes = directions(embeddings[active], min(_LIKENESS, embeddings.shape[1]))
    points = torch.nn.functional.normalize(embeddings @ axes, dim=-1)
    named = points[active].T
    place = torch.cat([(chunk @ named).argmax(-1) for chunk in points.split(_CHUNK)])
    return place.index_copy(0, active, torch.arange(len(active)))


def smoothed(counts: Tensor, row: Tensor, is_text: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(token | row), (V,), and the log of each row's floor, (n,).

    Tokens are taken to be as frequent as they are in the counts, but for e, which is spread evenly over those that do
    not occur. e is the chance that a token is a new one: the share of the tokens that occur once (Good, 1953), by
    Laplace's rule, so that it is neither 0 nor 1.
    """
    e = (int((counts == 1).sum()) + 1) / (int(counts.sum()) + 2)
    unseen = (counts == 0) & is_text
    new = e * unseen.double() / unseen.sum().clamp(min=1)
    frequency = (1 - e) * counts / counts.sum() + new
    rows = torch.zeros(int(row.max()) + 1, dtype=torch.float64)
    share = frequency / rows.index_add(0, row, frequency)[row]
    floor = rows.index_add(0, row, new)
    return share.nan_to_num(0).log().float(), floor.log().float()
