"""Root mean square norms at the precision of autocast, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm


class _LowNorm(torch.autograd.Function):
    """x / rms(x) * weight, of which only the root mean squares are taken in float32."""

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
        """The gradients of x and of the weight, the latter summed in float32."""
        normal, gain, scale = ctx.saved_tensors
        width = len(gain)
        product = grads[0] * normal
        by_weight = product.reshape(-1, width).sum(0, dtype=torch.float32)
        along = (product.reshape(-1, width) @ gain).div_(width).view(scale.shape)
        by_x = (grads[0] * gain).addcmul_(normal, along, value=-1).mul_(scale)
        return by_x, by_weight, None


class LowNorm(Qwen3RMSNorm):
    """A norm that stays in the dtype of a CPU's autocast; transformers' own is taken in float32 and returns it.

    On a GPU, compiled kernels read and write once whatever the dtype between.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise (..., n)."""
        if hidden_states.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            result: Tensor = super().forward(hidden_states)
            return result
        low = hidden_states.to(torch.get_autocast_dtype("cpu"))
        return _LowNorm.apply(low, self.weight, self.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]


def use_low_norms(body: nn.Module) -> None:
    """Put a LowNorm of the same weight in the place of each norm of a body."""
    for name, norm in list(body.named_modules()):
        if isinstance(norm, Qwen3RMSNorm):
            low = LowNorm(len(norm.weight), norm.variance_epsilon)
            low.weight = norm.weight
            body.set_submodule(name, low)
