"""Models whose predictions are known, and documents made of a few tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.evaluation.scored_text import ScoredText


class Unconditional:
    """A backbone that predicts the same probabilities everywhere, whatever it sees."""

    def __init__(self, p: list[float], block_size: int = 4) -> None:
        self.log_p = torch.tensor(p).log()
        self.block_size = block_size
        self.context = 64
        self.shift = False
        self.device = torch.device("cpu")

    def embed(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 1)

    def embed_mixture(self, p: Tensor) -> Tensor:
        return torch.zeros(*p.shape[:2], 1)

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        assert previous is None  # losses are measured without self-conditioning
        return embedded

    def encode(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
        return embedded

    def logits(self, hidden: Tensor) -> Tensor:
        return self.log_p.expand(*hidden.shape[:-1], -1)


@pytest.fixture
def unconditional() -> Callable[..., Unconditional]:
    """Makes a model that always predicts these probabilities."""
    return Unconditional


@pytest.fixture
def documents() -> Callable[..., list[ScoredText]]:
    """Makes documents of these lengths, of tokens below `vocabulary`, each after an end-of-text id of 0."""

    def make(*lengths: int, vocabulary: int = 4, seed: int = 0) -> list[ScoredText]:
        generator = torch.Generator().manual_seed(seed)
        texts = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
        return [ScoredText([0, *text], 2 * len(text) + 1) for text in texts]

    return make
