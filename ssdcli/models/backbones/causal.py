"""A causal language model behind the engine's Backbone: its own masks, its own head, and a place for the mask's id."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssdcli.engine.flops import Sizes
from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.native import NativeBackbone, sizes_as_stored
from ssdcli.models.backbones.packed_decoder import FEW_QUERIES, PackedDecoder
from ssdcli.models.backbones.packed_linear import Packing
from ssdcli.models.core_spec import CoreSpec

_SLIDING = "sliding_attention"  # transformers' name for a kind of layer


class NativeCausalBackbone(NativeBackbone):
    """log p of the next token, by a causal class: the prediction of a position is read one before it.

    Columns are in the order of the text, with padding on the left alone, so that the distance of two columns is that
    of their tokens; the last column that a query sees is its own. The mask's id may be the virtual id V - 1, which has
    no row of its own: `embed` must not see it.

    taps: layers whose states go with those of the last one: (B, L, (1 + k) H) in place of (B, L, H).
    """

    taps: tuple[int, ...] = ()

    def __init__(self, model: Any, spec: CoreSpec, block_size: int | None = None) -> None:
        """Wrap a loaded model."""
        super().__init__(model, spec, block_size)
        self.reading_block = 1
        config = model.config.get_text_config()
        self._kinds: set[str] = set(getattr(config, "layer_types", None) or ())
        self._window: int | None = getattr(config, "sliding_window", None)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._adds_masks = model.config._attn_implementation == "eager"
        self._virtual = spec.vocabulary(config.vocab_size) - config.vocab_size

    def tap(self, layers: tuple[int, ...]) -> None:
        """Let all states that are read from now on hold those after these layers, too; 0 is the embeddings.

        ValueError where other layers are read already.
        """
        if self.taps not in ((), layers):
            raise ValueError(f"layers {self.taps} of the core are read already, and {layers} are other layers")
        self.taps = layers

    def write(self, embedded: Tensor, positions: Tensor, cache: PrefixCache, count: int) -> Tensor:
        """Run the body over (B, w, H) after the first `count` columns of a spaced cache, into which it writes."""
        return self._run(embedded, positions, None, cache.after(count))

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: PrefixCache | None) -> Tensor:
        """Run the body with a mask for each kind of layer that the class has; without one, it makes its own."""
        own = None if mask is None else self._masks(mask, embedded.dtype)
        if not self.taps:
            return super()._run(embedded, positions, own, cache)
        result = self._result(embedded, positions, own, cache, all_layers=True)
        return torch.cat([result.last_hidden_state, *(result.hidden_states[layer] for layer in self.taps)], dim=-1)

    @property
    def rows(self) -> int:
        """How many ids have a row in the head's table."""
        return self._table.shape[0]

    def scores_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The head's scores of some ids (n,) int64 for the last layer's states (N, H): (N, n), not normalised."""
        head: Any = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return self._capped(nn.functional.linear(hidden, head.weight[ids], None if bias is None else bias[ids]))

    def logits(self, hidden: Tensor) -> Tensor:
        """As a backbone's, of states that may hold more than those of the last layer."""
        return super().logits(hidden[..., : self._table.shape[1]])

    def _masks(self, mask: Tensor, dtype: torch.dtype) -> Any:
        """The mask (B, 1, L, K) as the class takes it: one for all layers, or one for each kind of layer."""
        if not self._kinds:
            return self._as_read(self._near(mask), dtype)
        return {kind: self._as_read(self._near(mask) if kind == _SLIDING else mask, dtype) for kind in self._kinds}

    def _near(self, mask: Tensor) -> Tensor:
        """The mask without the columns that lie before the sliding window, if there is one."""
        if self._window is None or mask.shape[3] <= self._window:
            return mask
        last = mask.shape[3] - 1 - mask.flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
        return mask & (last - torch.arange(mask.shape[3], device=mask.device) < self._window)

    def _as_read(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The mask as the class's attention reads it: booleans, or numbers that are added to the scores."""
        if not self._adds_masks:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def _scores(self, hidden: Tensor) -> Tensor:
        """The head's scores, soft-capped where the class does that, and -inf for a virtual id: (B, L, V)."""
        scores = self._capped(self._head(hidden))
        return nn.functional.pad(scores, (0, self._virtual), value=-math.inf) if self._virtual else scores

    def _capped(self, scores: Tensor) -> Tensor:
        """Scores, soft-capped where the class does that."""
        return scores if self._softcap is None else torch.tanh(scores / self._softcap) * self._softcap

    def _head(self, hidden: Tensor) -> Tensor:
        return super()._scores(hidden)


class PackedCausalBackbone(NativeCausalBackbone):
    """The same on a CPU, computed by a `PackedDecoder` in place of the model's own layers and head."""

    same_on_any_threads = True

    def __init__(self, model: Any, spec: CoreSpec, block_size: int | None, packing: Packing) -> None:
        """Wrap a loaded model, whose layers are packed and dropped."""
        super().__init__(model, spec, block_size)
        self._decoder = PackedDecoder(model, packing)

    def _sized(self) -> Sizes:
        return sizes_as_stored(self.model)

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: PrefixCache | None) -> Tensor:
        past = 0 if cache is None else cache.get_seq_length()
        masks = self._by_kind(mask, embedded.shape[1], past)
        last, *inner = self._decoder(embedded, positions, masks, cache, self.taps)
        return torch.cat([last, *inner], dim=-1) if inner else last

    def scores_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """As without packing; all ids are scored."""
        return self._capped(self._head(hidden)[..., ids])

    def _by_kind(self, mask: Tensor | None, count: int, past: int) -> dict[str, Tensor | None]:
        """The mask of each kind of layer for `count` tokens after `past` columns; None where all before is seen."""
        near = self._window is not None and past + count > self._window
        sliding = {kind for kind in self._decoder.kinds if near and (kind == _SLIDING or not self._kinds)}
        if mask is None and (sliding or (count > 1 and (past or count <= FEW_QUERIES))):
            mask = torch.ones(1, 1, count, past + count, dtype=torch.bool, device=self.device).tril(past)
        return {
            kind: self._near(mask) if mask is not None and kind in sliding else mask for kind in self._decoder.kinds
        }

    def _head(self, hidden: Tensor) -> Tensor:
        return self._decoder.scores(hidden)
