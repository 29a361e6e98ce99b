"""A causal core with a LoRA adapter (Hu et al., 2021) while it is trained; once registered, it is read as a core."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssdcli.models.backbones.native_causal import NativeCausalBackbone


@dataclass(frozen=True)
class TunedConfig:
    """What an adapter has of its core.

    vocabulary: V.
    block_size, context: in tokens.
    """

    vocabulary: int
    block_size: int
    context: int
    architecture = "CausalAdapter"


class TunedCore(nn.Module):
    """The core's layers, of which the adapters alone are trained.

    core: the backbone that runs them.
    """

    def __init__(self, core: NativeCausalBackbone, vocabulary: int) -> None:
        """Wrap a core of V ids, in whose layers adapters are or will be."""
        super().__init__()
        self.core = core
        self.layers = core.model
        self.config = TunedConfig(vocabulary, core.block_size, core.context)

    @property
    def block_size(self) -> int:
        """The core's."""
        return self.config.block_size

    @property
    def body(self) -> nn.Module:
        """All layers."""
        body: nn.Module = self.layers.base_model
        return body

    @property
    def device(self) -> torch.device:
        """The core's."""
        return self.core.device

    def states(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """The last layer's states of tokens (B, T) at their positions, by a mask (B, 1, T, T): (B, T, H)."""
        return self.core.encode(self.core.embed(tokens), positions, mask, None)

    def logits(self, hidden: Tensor) -> Tensor:
        """The core's head: (..., H) to (..., V) float32."""
        return self.core.logits(hidden)
