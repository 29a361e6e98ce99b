"""Left-to-right unmasking, the order of causal language models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.sampling.reverse import ReverseProcess
from ssdcli.engine.sampling.unmasking import Unmasking


@dataclass(frozen=True)
class LeftToRight(Unmasking):
    """The leftmost hidden position: each is drawn from what the members say of it, given all that is on its left."""

    def order(self, log_p: Tensor, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by place; one."""
        places = torch.arange(hidden.shape[1], dtype=torch.float32, device=hidden.device)
        return places.expand(hidden.shape), torch.ones_like(hidden[:, 0], dtype=torch.int64)

    def reverse(self) -> ReverseProcess:
        """A step for each token of a block."""
        return ReverseProcess(self, None)
