"""Plain texts in blocks, as the training's own data is never laid out."""

from __future__ import annotations

import torch
from torch import Tensor


def block_ids(length: int, block: int, offsets: Tensor) -> Tensor:
    """Number the positions of a sequence by block: (B, length) int64.

    offsets: (B,) int64 in [0, block), how many positions short the first block of each row is.
    """
    positions = torch.arange(length, device=offsets.device)
    return (positions[None, :] + offsets[:, None]) // block
