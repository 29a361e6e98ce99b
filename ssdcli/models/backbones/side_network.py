"""A small model that reads a frozen causal core: a side network on the core's hidden states.

The states of a few of the core's layers at each token go through one hidden layer, whose output corrects the core's
last state before the core's own table of tokens:

    h' = h + W_2 dropout(gelu(W_1 dropout([rms(s_1); ...; rms(s_k); rms(h)]) + b_1)) + b_2

No gradient passes through the core, so that its states over a text are computed once (ladder side-tuning, Sung et al.,
2022, without its layers). W_2 and b_2 are zero at first: an untrained network predicts what the core predicts. Heavy
dropout is what lets it learn from a few thousand words without learning them by heart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ssdcli.engine.causal import shared_tokens
from ssdcli.engine.flops import Sizes
from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.packed_linear import Matrix, PackedLinear, pack_alike
from ssdcli.models.core_config import UNREADABLE, read_config, unreadable
from ssdcli.registry.manifest import CONFIG, READER, WEIGHTS

_DROPOUT = 0.7  # of the hidden layer, and of its input; measured, see docs/lab
_INPUT_DROPOUT = 0.1


@dataclass(frozen=True)
class SideConfig:
    """The shape of a side network.

    vocabulary: V, the core's.
    core_hidden: H, the core's.
    layers: those of the core whose states are read beside the last one's.
    hidden: the width of its hidden layer.
    block_size: the core's.
    context: the core's.
    """

    vocabulary: int
    core_hidden: int
    layers: tuple[int, ...]
    hidden: int
    block_size: int
    context: int
    architecture = READER

    @property
    def inputs(self) -> int:
        """How many numbers of the core's states it reads at a token."""
        return (1 + len(self.layers)) * self.core_hidden

    def to_json(self) -> dict[str, Any]:
        """As config.json holds it."""
        return {"architectures": [self.architecture], **asdict(self)}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> SideConfig:
        """Read what `to_json` gave; KeyError or TypeError for another model's."""
        fields = {name: config[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"layers": tuple(fields["layers"])})


class SideNetwork(nn.Module):
    """A side network with the core that it reads, as a causal backbone of the engine.

    The core is no part of its parameters. All that is read is read by the core; only what is predicted differs.

    sizes: what it costs alone, with the core's passes.
    """

    reading_block: int = 1
    shift: bool = True
    forgets: bool = False
    self_conditioned: bool = False

    def __init__(self, config: SideConfig, core: CausalCore) -> None:
        """Make an untrained network on a core, whose states hold those of the layers that it reads from now on."""
        super().__init__()
        self.config = config
        self.block_size, self.context = config.block_size, config.context
        self.sizes = replace(core.sizes, body=core.sizes.body + self._weights)
        self._core = (core,)  # in a tuple, so that its weights are not this network's
        self._packed: tuple[PackedLinear, PackedLinear] | None = None
        core.tap(config.layers)
        last = nn.Linear(config.hidden, config.core_hidden)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(
            nn.Dropout(_INPUT_DROPOUT),
            nn.Linear(config.inputs, config.hidden),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            last,
        )

    @property
    def core(self) -> CausalCore:
        """The core that it reads."""
        return self._core[0]

    def forward(self, states: Tensor) -> Tensor:
        """The corrected last states: the core's states (..., (1 + k) H) to (..., H)."""
        parts = self._parts(states)
        corrected: Tensor = parts[..., 0, :] + self.body(_read(parts))
        return corrected

    def pack(self) -> SideNetwork:
        """Lay the weights out for a CPU on which the core's states are in bfloat16; for what is trained no more."""
        if self.core.dtype == torch.bfloat16 and self.device.type == "cpu":
            linear = [layer for layer in self.body if isinstance(layer, nn.Linear)]
            first, last = (pack_alike(Matrix([layer.weight], layer.bias)) for layer in linear)
            self._packed = first, last
        return self

    def _parts(self, states: Tensor) -> Tensor:
        """The states (..., (1 + k) H) layer by layer, the last one's first: (..., 1 + k, H)."""
        parts: Tensor = states.unflatten(-1, (-1, self.config.core_hidden))
        return parts.to(next(self.parameters()).dtype)

    # A backbone of the engine.

    @property
    def _weights(self) -> int:
        return self.config.hidden * (self.config.inputs + self.config.core_hidden)

    def beside_core(self) -> SideNetwork:
        """The same network, whose sizes are those of its own parts alone."""
        own = copy(self)
        own.sizes = Sizes(body=self._weights, attention=0, table=self.core.sizes.table)
        return own

    @property
    def device(self) -> torch.device:
        """The core's."""
        return self.core.device

    def embed(self, tokens: Tensor) -> Tensor:
        """The core's embeddings."""
        return self.core.embed(tokens)

    def embed_mixture(self, p: Tensor) -> Tensor:
        """The core's expected embeddings."""
        return self.core.embed_mixture(p)

    def embed_sparse(self, ids: Tensor, weights: Tensor) -> Tensor:
        """The core's weighted sums of embeddings."""
        return self.core.embed_sparse(ids, weights)

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        """Nothing is added."""
        return embedded

    def new_cache(self) -> PrefixCache:
        """The core's."""
        return self.core.new_cache()

    def is_current(self, cache: PrefixCache) -> bool:
        """Whether the core would keep the same of its tokens now."""
        return self.core.is_current(cache)

    def encode(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: PrefixCache | None) -> Tensor:
        """The core's states."""
        return self.core.encode(embedded, positions, mask, cache)

    def extend(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: PrefixCache) -> PrefixCache:
        """The core's cache with tokens appended."""
        return self.core.extend(embedded, positions, mask, cache)

    def write(self, embedded: Tensor, positions: Tensor, cache: PrefixCache, count: int) -> Tensor:
        """The core's states, written into a spaced cache of its own."""
        return self.core.write(embedded, positions, cache, count)

    def write_each(self, parts: Sequence[tuple[Tensor, Tensor, PrefixCache, int]]) -> list[Tensor]:
        """The core's states of several rows, as it writes them."""
        return self.core.write_each(parts)

    @cached_property
    def shared_tokens(self) -> int:
        """As the core's, where this network's own products change no bit, either."""
        widths = self.config.inputs, self.config.hidden
        if self._packed is None or not shared_tokens(self.core):
            return 0
        products = zip(self._packed, widths, strict=True)
        alike = all(layer.is_same_beside(width, self.core.dtype) for layer, width in products)
        return shared_tokens(self.core) if alike else 0

    def scored(self, hidden: Tensor) -> Tensor:
        """The corrected states, which the core's head scores: (..., (1 + k) H) to (..., H)."""
        if self._packed is None:
            corrected: Tensor = self(hidden).to(hidden.dtype)
            return corrected
        first, last = self._packed
        read = _read(self._parts(hidden)).to(hidden.dtype)
        rows, own = read.flatten(0, -2)[None], hidden[..., : self.config.core_hidden]
        return last.plus(first.activated(rows, "gelu"), own.flatten(0, -2)[None]).view(own.shape)

    def logits(self, hidden: Tensor) -> Tensor:
        """The core's head on the corrected states: (..., (1 + k) H) to (..., V) float32."""
        return self.core.logits(self.scored(hidden))


def _read(parts: Tensor) -> Tensor:
    """What the hidden layer reads of the states of each layer (..., 1 + k, H): (..., (1 + k) H)."""
    return functional.rms_norm(parts, parts.shape[-1:]).flatten(-2)


def save_side_network(network: SideNetwork, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the network's own weights and its configuration."""
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(network.config.to_json(), indent=2) + "\n", encoding="utf-8")


def load_side_network(folder: Path, core: CausalCore) -> SideNetwork:
    """Read a network for a core, ready for inference; SsdError if it cannot be read or is another core's."""
    try:
        network = SideNetwork(SideConfig.from_json(read_config(folder)), core)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except UNREADABLE as error:
        raise unreadable(folder, error) from error
    return network.float().to(core.device).eval().requires_grad_(False).pack()
