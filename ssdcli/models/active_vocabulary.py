"""The rows of an embedding table and the tokens that have them: one each, or one for several."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class WholeVocabulary(nn.Module):
    """Every token has a row of its own: n = V."""

    muted: Tensor  # (m,) int64: rows of ids that are never text

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
        """Sum a distribution over tokens into one over rows: p (..., V) to (..., n)."""
        return p

    def log_share(self, tokens: Tensor) -> Tensor:
        """The log of p(token | row): (...) float32."""
        return torch.zeros(tokens.shape, device=tokens.device)

    def spread(self, scores: Tensor) -> Tensor:
        """Scores of all tokens from scores of the rows: (..., n) float32 to (..., V)."""
        return scores


class ActiveVocabulary(nn.Module):
    """Active tokens have rows of their own; any other token shares the row of the most similar active one.

    A row is a word class (Brown et al., 1992): p(token) = p(row) p(token | row), and the second factor is a constant.
    Rows also have a floor (Jelinek and Mercer, 1980): p(row) = (1 - e) softmax(scores) + e u(row), where u is the
    distribution of tokens that the training text lacks, so that no token gets probability zero. Ids that are never
    text, such as the mask, share the last row.
    """

    muted: Tensor
    row: Tensor  # (V,) int64
    size: Tensor  # (n,) int64: how many tokens each row has
    share: Tensor  # (V,) float32: log p(token | row), -inf for ids that are never text
    floor: Tensor  # (n,) float32: log(e u(row))

    def __init__(self, vocabulary: int, active: int, suppressed: tuple[int, ...]) -> None:
        """Allocate a division of V tokens into n rows; its buffers are loaded like weights."""
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
        """Sum a distribution over tokens into one over rows: p (..., V) to (..., n)."""
        return p.new_zeros(*p.shape[:-1], len(self.size)).scatter_add_(-1, self.row.expand(p.shape), p)

    def log_share(self, tokens: Tensor) -> Tensor:
        """The log of p(token | row): (...) float32."""
        return self.share[tokens].float()

    def spread(self, scores: Tensor) -> Tensor:
        """Scores of all tokens from scores of the rows: (..., n) float32 to (..., V)."""
        # log((1 - e) softmax(scores) + e u): sum_r e u(r) = e, since u is a distribution.
        floor = self.floor.float()
        log_p = torch.logaddexp(scores.log_softmax(-1) + torch.log1p(-floor.exp().sum()), floor)
        # `gather` over a view costs a tenth of `index_select` or plain indexing on a CPU.
        return log_p.gather(-1, self.row.expand(*log_p.shape[:-1], -1)) + self.share.float()


def weighted_sums(table: Tensor, rows: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """Weighted sums of a table's rows; the rest of the weight, up to 1, is spread evenly over all tokens.

    With S named tokens of weights w_s: sum_s w_s row_s + (1 - sum_s w_s) mean, the mean being that of all tokens' rows.
    A canvas at some noise level is such a mixture, of which only the largest weights are known one by one.

    table: (n, r). rows: (B, L, S) int64. weights: (B, L, S) float32, of any sign. sizes: (n,), how many tokens have
    each row. Returns (B, L, r).
    """
    bags, shares = rows.flatten(0, 1), weights.flatten(0, 1).to(table.dtype)
    named = nn.functional.embedding_bag(bags, table, mode="sum", per_sample_weights=shares)
    left = (1 - weights.sum(-1, keepdim=True)).to(table.dtype)
    # As a product, because on a CPU the mean of bfloat16 columns takes ten times as long.
    mean = sizes[None] @ table / sizes.sum(dtype=torch.float32)
    sums: Tensor = named.unflatten(0, rows.shape[:2]) + left * mean
    return sums
