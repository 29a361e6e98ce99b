"""A causal language model behind the engine's Backbone: its own masks, its own head, and a place for the mask's id."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ssdcli.models.backbones.cache import CacheLayer, PrefixCache
from ssdcli.models.backbones.core_backbone import CoreBackbone
from ssdcli.models.backbones.packed_decoder import FEW_QUERIES, PackedDecoder, RowPass, Weights
from ssdcli.models.backbones.packed_linear import TOGETHER
from ssdcli.models.core_spec import CoreSpec

SLIDING = "sliding_attention"  # transformers' name for a kind of layer


Written = tuple[Tensor, Tensor, PrefixCache, int]  # what `CausalCore.write` is given


def in_passes(parts: Sequence[Written], most: int) -> Iterator[Sequence[Written]]:
    """Rows in order, as many at a time as have `most` tokens together, or one."""
    waiting: list[Written] = []
    for part in parts:
        if waiting and sum(one[0].shape[1] for one in [*waiting, part]) > most:
            yield waiting
            waiting = []
        waiting.append(part)
    if waiting:
        yield waiting


class Follower(Protocol):
    """What keeps something of each token that a core reads, in further layers of its cache.

    layers_read: those whose states it is told, as of `CausalCore.tap`. depth: how many layers of a cache it fills.
    """

    layers_read: tuple[int, ...]
    depth: int

    def read(self, states: Tensor, positions: Tensor, kept: Sequence[CacheLayer]) -> None:
        """Add columns for tokens with these states, (B, n, k H), at positions (B, n), to its layers."""


class CausalCore(CoreBackbone):
    """log p of the next token, by a causal class: the prediction of a position is read one before it.

    Columns are in the order of the text, with padding on the left alone, so that the distance of two columns is that
    of their tokens; the last column that a query sees is its own. The mask's id may be the virtual id V - 1, which has
    no row of its own: `embed` must not see it.

    taps: layers whose states go with those of the last one: (B, L, (1 + k) H) in place of (B, L, H).
    follower: what keeps something of its own of each token, if there is one.
    in_16_bits: whether a CPU waits for weights in 16 bits, so that a few tokens in a pass cost little more than one.
    """

    taps: tuple[int, ...] = ()
    follower: Follower | None = None
    in_16_bits: bool = False

    def _configure(self, config: Mapping[str, Any]) -> None:
        """Take what masks and scores need from a native configuration."""
        self._kinds: set[str] = set(config.get("layer_types") or ())
        self._window: int | None = config.get("sliding_window")
        self._softcap: float | None = config.get("final_logit_softcapping")
        self._virtual = self.spec.vocabulary(config["vocab_size"]) - config["vocab_size"]

    @property
    def middle_layers(self) -> tuple[int, int]:
        """The layers that small models and draft heads read beside the last, at two and four fifths of the depth."""
        return 2 * self.layer_count // 5, 4 * self.layer_count // 5

    def tap(self, layers: tuple[int, ...]) -> None:
        """Let all states that are read from now on hold those after these layers, too; 0 is the embeddings.

        ValueError where other layers are read already.
        """
        if self.taps not in ((), layers):
            raise ValueError(f"layers {self.taps} of the core are read already, and {layers} are other layers")
        self.taps = layers

    def new_cache(self) -> PrefixCache:
        """An empty KV cache, with the layers of a follower."""
        return PrefixCache.empty(self.layer_count + (0 if self.follower is None else self.follower.depth))

    def is_current(self, cache: PrefixCache) -> bool:
        """Whether it was read since the latest tap, and by the follower."""
        assert cache.tail is not None
        layers = self.layer_count + (0 if self.follower is None else self.follower.depth)
        return cache.tail[0].shape[-1] == (1 + len(self.taps)) * self.width and len(cache.layers) == layers

    @property
    def _wanted(self) -> tuple[int, ...]:
        """The layers whose states a pass has to give."""
        return self.taps if self.follower is None else (*self.taps, *self.follower.layers_read)

    def _told(self, last: Tensor, inner: Sequence[Tensor], positions: Tensor, cache: PrefixCache | None) -> Tensor:
        """The last states with those of the taps; the follower reads its own of what was wanted."""
        taps = len(self.taps)
        if self.follower is not None and cache is not None and len(cache.layers) > self.layer_count:
            self.follower.read(torch.cat(list(inner[taps:]), dim=-1), positions, cache.layers[self.layer_count :])
        return torch.cat([last, *inner[:taps]], dim=-1) if taps else last

    def write(self, embedded: Tensor, positions: Tensor, cache: PrefixCache, count: int) -> Tensor:
        """Run the body over (B, w, H) after the first `count` columns of a spaced cache, into which it writes."""
        return self._run(embedded, positions, None, cache.after(count))

    def write_each(self, parts: Sequence[Written]) -> list[Tensor]:
        """The same for rows with caches of their own: the states of each, bit for bit as alone."""
        return [self.write(*part) for part in parts]

    @property
    def dtype(self) -> torch.dtype:
        """That of its states."""
        return self._table.dtype

    @property
    def rows(self) -> int:
        """How many ids have a row in the head's table."""
        return self._table.shape[0]

    @property
    def width(self) -> int:
        """H, the width of a layer's states."""
        return self._table.shape[1]

    def scores_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The head's scores of some ids (n,) int64 for the last layer's states (N, H): (N, n), not normalised."""
        return self._capped(self._head(hidden)[..., ids])

    def head_rows(self, ids: Tensor) -> Tensor:
        """The head's weights of some ids (n,) int64, read off what it makes of units: (n, H)."""
        units = torch.eye(self.width, dtype=self._table.dtype, device=self.device)
        return (self._head(units) - self._head(torch.zeros_like(units[:1])))[:, ids].T.contiguous()

    def scored(self, hidden: Tensor) -> Tensor:
        """What the head scores of states (..., (1 + k) H): those of the last layer, (..., H)."""
        return hidden[..., : self.width]

    def logits(self, hidden: Tensor) -> Tensor:
        """As a backbone's, of states that may hold more than those of the last layer."""
        return super().logits(self.scored(hidden).to(self._table.dtype))

    def _near(self, mask: Tensor) -> Tensor:
        """The mask without the columns that lie before the sliding window, if there is one."""
        if self._window is None or mask.shape[3] <= self._window:
            return mask
        last = mask.shape[3] - 1 - mask.flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
        return mask & (last - torch.arange(mask.shape[3], device=mask.device) < self._window)

    def _scores(self, hidden: Tensor) -> Tensor:
        """The head's scores, soft-capped where the class does that, and -inf for a virtual id: (B, L, V)."""
        scores = self._capped(self._head(hidden))
        return functional.pad(scores, (0, self._virtual), value=-math.inf) if self._virtual else scores

    def _capped(self, scores: Tensor) -> Tensor:
        """Scores, soft-capped where the class does that."""
        return scores if self._softcap is None else torch.tanh(scores / self._softcap) * self._softcap

    def _head(self, hidden: Tensor) -> Tensor:
        """The head's scores as they are, of ids that have a row in its table."""
        raise NotImplementedError


class PackedCausalBackbone(CausalCore):
    """A causal core on a CPU, by a `PackedDecoder`."""

    same_on_any_threads = True

    def __init__(self, config: Mapping[str, Any], weights: Weights, spec: CoreSpec) -> None:
        """Read and pack a model's weights, as `PackedDecoder` does."""
        super().__init__(spec, None, torch.device("cpu"))
        self._configure(config)
        self._decoder = PackedDecoder(config, weights)
        self.sizes, self.layer_count = self._decoder.sizes, config["num_hidden_layers"]
        self.in_16_bits = self._decoder.in_16_bits

    @property
    def _table(self) -> Tensor:
        """The input embeddings of clean tokens: (V, H)."""
        return self._decoder.table

    def embed(self, tokens: Tensor) -> Tensor:
        """Clean token embeddings: (B, L) int64 to (B, L, H)."""
        return self._decoder.embed(tokens)

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: PrefixCache | None) -> Tensor:
        past = 0 if cache is None else cache.columns
        masks = self._by_kind(mask, embedded.shape[1], past)
        last, *inner = self._decoder(embedded, positions, masks, cache, self._wanted)
        return self._told(last, inner, positions, cache)

    def write(self, embedded: Tensor, positions: Tensor, cache: PrefixCache, count: int) -> Tensor:
        """As of any core; the states of a few tokens are those of a write of each alone where `drafts_alike`."""
        return self.write_each([(embedded, positions, cache, count)])[0]

    def write_each(self, parts: Sequence[Written]) -> list[Tensor]:
        """The same in as few passes as can be without changing a bit of a row."""
        found: list[Tensor] = []
        for together in in_passes(parts, self.shared_tokens if len(parts) > 1 else 0):
            longest = max(embedded.shape[1] for embedded, *_ in together)
            if 1 < longest > self.shared_tokens:
                found += [self._write_long(*part) for part in together]
            else:
                found += self._write_together(together)
        return found

    def _write_long(self, embedded: Tensor, positions: Tensor, cache: PrefixCache, count: int) -> Tensor:
        """A write of more tokens than may share a pass."""
        size = self.shared_tokens
        if not size:
            return super().write(embedded, positions, cache, count)
        parts = zip(embedded.split(size, dim=1), positions.split(size, dim=1), strict=True)
        states = [self._write_together([(*part, cache, count + size * i)])[0] for i, part in enumerate(parts)]
        return torch.cat(states, dim=1)

    def _write_together(self, parts: Sequence[Written]) -> list[Tensor]:
        """Writes that share a pass."""
        passes = []
        for embedded, positions, cache, columns in parts:
            mask = torch.ones(1, 1, embedded.shape[1], cache.room, dtype=torch.bool).tril(columns)
            masks = self._by_kind(mask, embedded.shape[1], columns)
            passes.append(RowPass(embedded, positions, masks, cache.after(columns)))
        states = zip(passes, self._decoder.together(passes, self._wanted), strict=True)
        return [self._told(own[0], own[1:], one.positions, one.cache) for one, own in states]

    @cached_property
    def shared_tokens(self) -> int:
        """How many tokens of several rows may share a pass without changing a bit of what a row is alone; 0: none."""
        return TOGETHER if self._decoder.is_same_beside_rows() else 0

    @property
    def drafts_alike(self) -> bool:
        """Whether a token's states are, bit for bit, what they are in a pass over it alone."""
        return self.shared_tokens > 0 and self._decoder.sees_alike

    def head_rows(self, ids: Tensor) -> Tensor:
        """The head's weights of some ids; a table that it shares with the embeddings is at hand."""
        return self._decoder.table[ids] if self._decoder.tied else super().head_rows(ids)

    def _by_kind(self, mask: Tensor | None, count: int, past: int) -> dict[str, Tensor | None]:
        """The mask of each kind of layer for `count` tokens after `past` columns; None where all before is seen."""
        near = self._window is not None and past + count > self._window
        sliding = {kind for kind in self._decoder.kinds if near and (kind == SLIDING or not self._kinds)}
        if mask is None and (sliding or (count > 1 and (past or count <= FEW_QUERIES))):
            mask = torch.ones(1, 1, count, past + count, dtype=torch.bool, device=self.device).tril(past)
        return {
            kind: self._near(mask) if mask is not None and kind in sliding else mask for kind in self._decoder.kinds
        }

    def _head(self, hidden: Tensor) -> Tensor:
        return self._decoder.scores(hidden)
