"""The small models made here: a native transformers body, block-causal, with tied low-rank embeddings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ssdcli.engine.flops import Sizes
from ssdcli.models.active import ActiveVocabulary, WholeVocabulary
from ssdcli.models.cache import PrefixCache
from ssdcli.models.mixture import weighted_sums

_TIME_FEATURES = 64


@dataclass(frozen=True)
class BackboneConfig:
    """Everything needed to build the module again; written to a model's config.json.

    active: the rows of an active vocabulary; None for a row a token.
    """

    vocabulary: int
    hidden: int
    layers: int
    rank: int
    block_size: int = 16
    context: int = 512
    timed: bool = True
    hears_itself: bool = True
    suppressed: tuple[int, ...] = field(default=())
    architecture: str = "qwen3"
    active: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        written = asdict(self) | {"suppressed": list(self.suppressed)}
        return {key: value for key, value in written.items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BackboneConfig:
        """Read what `to_json` wrote; unknown keys raise TypeError."""
        return cls(**(data | {"suppressed": tuple(data["suppressed"])}))

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.vocabulary if self.active is None else self.active

    @property
    def heads(self) -> int:
        """Attention heads of 64 dimensions, of 32 where the width is no multiple or narrow."""
        return max(1, self.hidden // (64 if self.hidden >= 256 and self.hidden % 64 == 0 else 32))


def _body_config(config: BackboneConfig) -> Any:
    """The native configuration of the body: SwiGLU of 8/3 H rounded to 32, full attention, no vocabulary of its own."""
    return AutoConfig.for_model(
        config.architecture,
        vocab_size=1,
        hidden_size=config.hidden,
        intermediate_size=math.ceil(config.hidden * 8 / 3 / 32) * 32,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.hidden // config.heads,
        max_position_embeddings=config.context,
        is_causal=False,
        use_cache=False,
        tie_word_embeddings=False,
    )


class BlockDiffusionLM(nn.Module):
    """log p of clean tokens from noised ones; implements the engine's Backbone."""

    def __init__(self, config: BackboneConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.block_size = self.reading_block = config.block_size
        self.context = config.context
        body = AutoModel.from_config(_body_config(config), attn_implementation="sdpa")
        body.embed_tokens = None  # embeddings are ours: tied and of low rank
        self.body = body
        self.vocabulary = _vocabulary(config)
        self.table = nn.Parameter(torch.randn(config.rows, config.rank) * config.hidden**-0.5)
        self.lift = None if config.rank == config.hidden else nn.Linear(config.rank, config.hidden, bias=False)
        self.time = _time_embedding(config.hidden) if config.timed else None
        self.listen = nn.Linear(config.hidden, config.hidden, bias=False) if config.hears_itself else None
        if self.listen is not None:
            nn.init.zeros_(self.listen.weight)
        if self.lift is not None:
            nn.init.orthogonal_(self.lift.weight)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.table.device

    @property
    def sizes(self) -> Sizes:
        """What its parts take to compute."""
        heads = self.config.layers * self.config.heads
        return Sizes(
            body=_multiply_adds(self.body),
            attention=heads * (self.config.hidden // self.config.heads),
            table=self.table.numel(),
            lift=_multiply_adds(self.lift),
            time=_multiply_adds(self.time),
            listen=_multiply_adds(self.listen) if self.hears_itself else None,
        )

    @property
    def hears_itself(self) -> bool:
        """Whether the previous prediction is an input."""
        return self.config.hears_itself

    def _lifted(self, x: Tensor) -> Tensor:
        return x if self.lift is None else self.lift(x)

    def embed(self, tokens: Tensor) -> Tensor:
        """Clean token embeddings: (B, L) int64 to (B, L, H)."""
        return self._lifted(nn.functional.embedding(self.vocabulary.rows(tokens), self.table))

    def embed_mixture(self, p: Tensor) -> Tensor:
        """Expected embeddings: p (B, L, V) to (B, L, H)."""
        return self.embed_rows(self.vocabulary.pooled(p))

    def embed_rows(self, p: Tensor) -> Tensor:
        """Expected embeddings under a distribution over the table's rows: p (B, L, n) to (B, L, H)."""
        return self._lifted(p.to(self.table.dtype) @ self.table)

    def embed_sparse(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of embeddings, what is left of 1 being spread evenly over all: (B, L, S) to (B, L, H)."""
        rows, sizes = self.vocabulary.rows(ids), self.vocabulary.sizes(self.table)
        return self._lifted(weighted_sums(self.table, rows, weights, sizes))

    def condition(self, embedded: Tensor, t: Tensor | None, heard: Tensor | None) -> Tensor:
        """Add the noise level t (B, L) and the previous prediction's embedding (B, L, H), where given."""
        if t is not None and self.time is not None:
            embedded = embedded + self.time(_time_features(t).to(embedded.dtype))
        if heard is not None and self.listen is not None:
            embedded = embedded + self.listen(heard)
        return embedded

    def new_cache(self) -> PrefixCache:
        """An empty KV cache."""
        return PrefixCache.empty(self.config.layers)

    def encode(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache | None) -> Tensor:
        """Run the body after the cache, which is left as it was: (B, L, H) to (B, L, H)."""
        return self._run(embedded, positions, mask, None if cache is None else cache.view())

    def extend(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache) -> PrefixCache:
        """The cache with (B, L, H) appended."""
        grown = cache.view()
        self._run(embedded, positions, mask, grown)
        return grown

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache | None) -> Tensor:
        result = self.body(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = result.last_hidden_state
        return hidden

    def to_rank(self, hidden: Tensor) -> Tensor:
        """Bring hidden states (..., H) down to the table's rank (..., r): what the tied head multiplies."""
        return hidden if self.lift is None else hidden @ self.lift.weight

    def row_scores(self, hidden: Tensor) -> Tensor:
        """Scores of the table's rows: (B, L, n) float32, -inf for those that are never text."""
        return (self.to_rank(hidden) @ self.table.T).float().index_fill(-1, self.vocabulary.muted, -math.inf)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the clean tokens: (B, L, V) float32, -inf for ids that are never text."""
        return self.vocabulary.spread(self.row_scores(hidden))


def _vocabulary(config: BackboneConfig) -> WholeVocabulary | ActiveVocabulary:
    if config.active is None:
        return WholeVocabulary(config.suppressed)
    return ActiveVocabulary(config.vocabulary, config.active, config.suppressed)


def _multiply_adds(part: nn.Module | None) -> int:
    """How many a token takes in all matrices of a part."""
    return 0 if part is None else sum(weight.numel() for weight in part.parameters() if weight.ndim == 2)


def _time_features(t: Tensor) -> Tensor:
    """Sines and cosines of t at 32 geometric frequencies from 1 to 1000 radians: (B, L) to (B, L, 64)."""
    frequencies = torch.logspace(0, 3, _TIME_FEATURES // 2, device=t.device)
    angles = t[..., None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _time_embedding(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(_TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
