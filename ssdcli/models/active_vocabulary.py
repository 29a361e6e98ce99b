"""Which row of a small model's table a token is read from and written with: its own, or one that it shares."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class WholeVocabulary(nn.Module):
    """Every token has a row of its own: n = V."""

    muted: Tensor  # (m,) int64, the rows of ids that are never text

    def __init__(self, suppressed: tuple[int, ...]) -> None:
        """suppressed: ids that are never text."""
        super().__init__()
        self.register_buffer("muted", torch.tensor(suppressed, dtype=torch.int64), persistent=False)

    def rows(self, tokens: Tensor) -> Tensor:
        """The row of each token: (...) int64."""
        return tokens

    def sizes(self, table: Tensor) -> Tensor:
        """How many tokens have each row: (n,) in the table's dtype."""
        return table.new_ones(len(table))

    def pooled(self, p: Tensor) -> Tensor:
        """What the tokens of each row have together: p (..., V) to (..., n)."""
        return p

    def log_share(self, tokens: Tensor) -> Tensor:
        """Log of each token's part in the probability of its row: (...) float32."""
        return torch.zeros(tokens.shape, device=tokens.device)

    def spread(self, scores: Tensor) -> Tensor:
        """Scores of all tokens from those of the rows: (..., n) float32 to (..., V)."""
        return scores


class ActiveVocabulary(nn.Module):
    """Active tokens have rows of their own; any other shares that of the active token which it is most like.

    A row is a word class (Brown et al., 1992): p(token) = p(row) p(token | row), the latter a constant. Rows have a
    floor besides, p(row) = (1 - e) softmax(scores) + e u(row) (Jelinek and Mercer, 1980), u being where tokens
    are that the training text does not hold, so that none is ruled out. Ids that are never text, as the mask, have the
    last row together.
    """

    muted: Tensor
    row: Tensor  # (V,) int64
    size: Tensor  # (n,) int64, tokens of each row
    share: Tensor  # (V,) float32, log p(token | row), -inf for ids that are never text
    floor: Tensor  # (n,) float32, log of e u(row)

    def __init__(self, vocabulary: int, active: int, suppressed: tuple[int, ...]) -> None:
        """Make room for a division of V tokens into n rows; its buffers are loaded like weights."""
        super().__init__()
        self.register_buffer("muted", torch.arange(active - bool(suppressed), active), persistent=False)
        self.register_buffer("row", torch.zeros(vocabulary, dtype=torch.int64))
        self.register_buffer("size", torch.zeros(active, dtype=torch.int64))
        self.register_buffer("share", torch.zeros(vocabulary))
        self.register_buffer("floor", torch.full((active,), -math.inf))

    def rows(self, tokens: Tensor) -> Tensor:
        """The row of each token: (...) int64."""
        return self.row[tokens]

    def sizes(self, table: Tensor) -> Tensor:
        """How many tokens have each row: (n,) in the table's dtype."""
        return self.size.to(table.dtype)

    def pooled(self, p: Tensor) -> Tensor:
        """What the tokens of each row have together: p (..., V) to (..., n)."""
        return p.new_zeros(*p.shape[:-1], len(self.size)).scatter_add_(-1, self.row.expand(p.shape), p)

    def log_share(self, tokens: Tensor) -> Tensor:
        """Log of each token's part in the probability of its row: (...) float32."""
        return self.share[tokens].float()

    def spread(self, scores: Tensor) -> Tensor:
        """Scores of all tokens from those of the rows: (..., n) float32 to (..., V)."""
        floor = self.floor.float()
        log_p = torch.logaddexp(scores.log_softmax(-1) + torch.log1p(-floor.exp().sum()), floor)
        # `gather` over a view costs a tenth of `index_select` or plain indexing on a CPU.
        return log_p.gather(-1, self.row.expand(*log_p.shape[:-1], -1)) + self.share.float()


def weighted_sums(table: Tensor, rows: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """Weighted sums of a table's rows, what is left of 1 being spread evenly over all tokens: (B, L, S) to (B, L, r).

    table: (n, r). rows: int64. weights: float32, of any sign. sizes: (n,), how many tokens have each row.
    """
    bags, shares = rows.flatten(0, 1), weights.flatten(0, 1).to(table.dtype)
    named = nn.functional.embedding_bag(bags, table, mode="sum", per_sample_weights=shares)
    left = (1 - weights.sum(-1, keepdim=True)).to(table.dtype)
    # A product: on a CPU, the mean of columns of bfloat16 takes ten times as long.
    mean = sizes[None] @ table / sizes.sum(dtype=torch.float32)
    sums: Tensor = named.unflatten(0, rows.shape[:2]) + left * mean
    return sums
