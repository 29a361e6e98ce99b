"""The models made here: a native transformers body, block-causal, usually with tied low-rank embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from ssdcli.engine.flops import Sizes
from ssdcli.models.active_vocabulary import ActiveVocabulary, WholeVocabulary, weighted_sums
from ssdcli.models.backbones.attention import VISIBLE, chunks_of, is_worth_cutting
from ssdcli.models.backbones.cache import PrefixCache, ReadsThroughCache
from ssdcli.models.backbones.native_cache import borrowed
from ssdcli.registry import schema


class _LowNorm(torch.autograd.Function):
    """y = g x / rms(x), with only the root mean square taken in float32.

    With n = x / rms(x), dn = g dy and N numbers in a row, dx = (dn - n (n . dn) / N) / rms(x): the part of dn along n
    is lost, since n has a fixed length. dg = sum of n dy over all rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Normalise x (..., n) in its own dtype by weight (n,) float32."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (size.square_() / x.shape[-1] + epsilon).rsqrt_().to(x.dtype)
        normal, gain = x * scale, weight.to(x.dtype)
        ctx.save_for_backward(normal, gain, scale)
        out: Tensor = normal * gain
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradients of x and of the weight; the latter is summed in float32."""
        normal, gain, scale = ctx.saved_tensors
        width = len(gain)
        product = grads[0] * normal
        by_weight = product.reshape(-1, width).sum(0, dtype=torch.float32)
        along = (product.reshape(-1, width) @ gain).div_(width).view(scale.shape)
        by_x = (grads[0] * gain).addcmul_(normal, along, value=-1).mul_(scale)
        return by_x, by_weight, None


class LowNorm(Qwen3RMSNorm):
    """A norm that stays in the dtype of autocast on a CPU, where transformers' own goes to float32 and stays there.

    On a GPU, compiled kernels read and write once anyway.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise (..., n)."""
        if hidden_states.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            result: Tensor = super().forward(hidden_states)
            return result
        low = hidden_states.to(torch.get_autocast_dtype("cpu"))
        return _LowNorm.apply(low, self.weight, self.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]


def use_low_norms(body: nn.Module) -> None:
    """Replace each norm of a body by a LowNorm with the same weight."""
    for name, norm in list(body.named_modules()):
        if isinstance(norm, Qwen3RMSNorm):
            low = LowNorm(len(norm.weight), norm.variance_epsilon)
            low.weight = norm.weight
            body.set_submodule(name, low)


_TIME_FEATURES = 64
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")
_NO_DROPOUT = ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob")


@dataclass(frozen=True)
class NativeBody:
    """A body that was initialised from another language model, with that model's embeddings and head.

    native: its configuration in transformers.
    own_head: whether the head is a table of its own, not that of the embeddings.
    shift: whether the token of position i is predicted at i - 1.
    """

    native: Mapping[str, Any]
    own_head: bool
    shift: bool

    @property
    def is_masked_lm(self) -> bool:
        """Whether it is a RoBERTa: with a table of positions, and one more layer and biases in its head."""
        return bool(self.native["model_type"] == "roberta")

    @property
    def first_position(self) -> int:
        """The number of the first position; RoBERTa's begin after the id of its padding."""
        return int(self.native["pad_token_id"]) + 1 if self.is_masked_lm else 0

    @property
    def attention(self) -> int:
        """The width of all heads of one layer."""
        heads = int(self.native["num_attention_heads"])
        width = self.native.get("head_dim") or self.native["hidden_size"] // heads
        return heads * int(width)


@dataclass(frozen=True)
class BackboneConfig:
    """Everything needed to build the module again; written to a model's config.json.

    vocabulary: V.
    hidden: H.
    layers: of the body.
    rank: the width of the table; below H, a matrix lifts it.
    block_size: in tokens.
    context: in tokens.
    timed: whether the noise level is an input.
    self_conditioned: whether the previous prediction is an input.
    suppressed: ids that are never text.
    architecture: the body's model type in transformers.
    active: the rows of an active vocabulary; None for one row per token.
    native_body: what the body was initialised from another model with, if it was.
    causal: whether it is a causal language model (`SmallCausalLM`).
    """

    vocabulary: int
    hidden: int
    layers: int
    rank: int
    block_size: int = 16
    context: int = 512
    timed: bool = True
    self_conditioned: bool = True
    suppressed: tuple[int, ...] = field(default=())
    architecture: str = "qwen3"
    active: int | None = None
    native_body: NativeBody | None = None
    causal: bool = False

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        written = asdict(self) | {"suppressed": list(self.suppressed)}
        return {key: value for key, value in written.items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BackboneConfig:
        """Read what `to_json` wrote, also in earlier versions; unknown keys raise TypeError."""
        data = schema.renamed(data, schema.CONFIG)
        body = {"native_body": NativeBody(**data["native_body"])} if "native_body" in data else {}
        return cls(**(data | body | {"suppressed": tuple(data["suppressed"])}))

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.vocabulary if self.active is None else self.active

    @property
    def heads(self) -> int:
        """Attention heads of 64 dimensions; of 32 where H is below 256 or not a multiple of 64."""
        return max(1, self.hidden // (64 if self.hidden >= 256 and self.hidden % 64 == 0 else 32))

    @property
    def attention(self) -> int:
        """The width of all heads of all layers."""
        return self.layers * (self.hidden if self.native_body is None else self.native_body.attention)


def _native_config(body: NativeBody) -> Any:
    """The configuration of a native body, without a vocabulary and without dropout: noise is the process's business."""
    changes = {"vocab_size": 1, "use_cache": False, "tie_word_embeddings": False}
    own = {**body.native, **changes, **dict.fromkeys(_SPECIAL), **dict.fromkeys(_NO_DROPOUT, 0.0)}
    return AutoConfig.for_model(**own)


def _body_config(config: BackboneConfig) -> Any:
    """The configuration of a new body: full attention, and no vocabulary of its own.

    SwiGLU has three matrices, so a width of 8/3 H gives it as many parameters as a plain MLP of 4 H; the width is
    rounded up to a multiple of 32.
    """
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


class BlockDiffusionLM(ReadsThroughCache, nn.Module):
    """Predicts log p of clean tokens from noised ones; implements the engine's Backbone."""

    forgets = False
    made_here = True

    def __init__(self, config: BackboneConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.block_size = self.reading_block = config.block_size
        self.context = config.context
        native_body = config.native_body
        native = _body_config(config) if native_body is None else _native_config(native_body)
        body = AutoModel.from_config(native, attn_implementation=VISIBLE)
        use_low_norms(body)
        body.set_input_embeddings(None)  # embeddings are our own: tied and of low rank
        self.body = body
        self.shift = native_body is not None and native_body.shift
        self._first_position = 0 if native_body is None else native_body.first_position
        self.vocabulary = _vocabulary(config)
        self.table = nn.Parameter(torch.randn(config.rows, config.rank) * config.hidden**-0.5)
        self.lift = None if config.rank == config.hidden else nn.Linear(config.rank, config.hidden, bias=False)
        self.time = _time_embedding(config.hidden) if config.timed else None
        self.self_conditioning = (
            nn.Linear(config.hidden, config.hidden, bias=False) if config.self_conditioned else None
        )
        if self.self_conditioning is not None:
            nn.init.zeros_(self.self_conditioning.weight)
        if self.lift is not None:
            nn.init.orthogonal_(self.lift.weight)
        masked_lm = native_body is not None and native_body.is_masked_lm
        self.transform = _head_transform(config.hidden, native.layer_norm_eps) if masked_lm else None
        self.head_table: nn.Parameter | None = None
        if native_body is not None and native_body.own_head:
            self.head_table = nn.Parameter(torch.zeros(config.rows, config.rank + masked_lm))
        if masked_lm:
            body.pooler = None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Load a state whose tensors may have names of earlier versions."""
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[prefix + schema.tensor_name(name.removeprefix(prefix))] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.table.device

    @property
    def layers(self) -> PreTrainedModel:
        """The native module whose linear layers get adapters."""
        body: PreTrainedModel = self.body
        return body

    @property
    def sizes(self) -> Sizes:
        """The multiply-adds of its parts."""
        return Sizes(
            body=_multiply_adds(self.body) + _multiply_adds(self.transform),
            attention=self.config.attention,
            table=self.table.numel(),
            lift=_multiply_adds(self.lift),
            time=_multiply_adds(self.time),
            self_conditioning=_multiply_adds(self.self_conditioning) if self.self_conditioned else None,
        )

    @property
    def self_conditioned(self) -> bool:
        """Whether the previous prediction is an input."""
        return self.config.self_conditioned

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
        """Weighted sums of embeddings; the rest of the weight, up to 1, is spread over all: (B, L, S) to (B, L, H)."""
        rows, sizes = self.vocabulary.rows(ids), self.vocabulary.sizes(self.table)
        return self._lifted(weighted_sums(self.table, rows, weights, sizes))

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        """Add the noise level t (B, L) and the previous prediction's embedding (B, L, H), where given."""
        if t is not None and self.time is not None:
            embedded = embedded + self.time(_time_features(t).to(embedded.dtype))
        if previous is not None and self.self_conditioning is not None:
            embedded = embedded + self.self_conditioning(previous)
        return embedded

    def new_cache(self) -> PrefixCache:
        """An empty KV cache."""
        return PrefixCache.empty(self.config.layers)

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache | None) -> Tensor:
        result = self.body(
            inputs_embeds=embedded,
            position_ids=positions + self._first_position,
            attention_mask=mask,
            past_key_values=borrowed(cache),
            use_cache=cache is not None,
            chunks=chunks_of(mask, embedded.dtype) if cache is None and is_worth_cutting(mask) else None,
        )
        hidden: Tensor = result.last_hidden_state
        return hidden

    @property
    def head(self) -> Tensor:
        """The table that multiplies what `to_rank` returns: (n, r); the embeddings' unless the head has its own."""
        return self.table if self.head_table is None else self.head_table

    def to_rank(self, hidden: Tensor) -> Tensor:
        """Project hidden states (..., H) to the head's width (..., r); where there are biases, a 1 is appended."""
        if self.transform is not None:
            return nn.functional.pad(self.transform(hidden), (0, 1), value=1.0)
        return hidden if self.lift is None else hidden @ self.lift.weight

    def row_scores(self, hidden: Tensor) -> Tensor:
        """Scores of the table's rows: (B, L, n) float32, -inf for those that are never text."""
        return (self.to_rank(hidden) @ self.head.T).index_fill_(-1, self.vocabulary.muted, -math.inf).float()

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the clean tokens: (B, L, V) float32, -inf for ids that are never text."""
        return self.vocabulary.spread(self.row_scores(hidden))


def _vocabulary(config: BackboneConfig) -> WholeVocabulary | ActiveVocabulary:
    if config.active is None:
        return WholeVocabulary(config.suppressed)
    return ActiveVocabulary(config.vocabulary, config.active, config.suppressed)


def _multiply_adds(part: nn.Module | None) -> int:
    """How many multiply-adds a token takes in all matrices of a part."""
    return 0 if part is None else sum(weight.numel() for weight in part.parameters() if weight.ndim == 2)


def _time_features(t: Tensor) -> Tensor:
    """Sines and cosines of t at 32 geometric frequencies from 1 to 1000 radians: (B, L) to (B, L, 64)."""
    frequencies = torch.logspace(0, 3, _TIME_FEATURES // 2, device=t.device)
    angles = t[..., None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _time_embedding(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(_TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))


def _head_transform(hidden: int, epsilon: float) -> nn.Sequential:
    """The layer of RoBERTa's head before the scores (Liu et al., 2019)."""
    return nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, epsilon))
