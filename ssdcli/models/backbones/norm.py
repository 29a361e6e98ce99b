"""Root mean square norms in the dtype of autocast, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm


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
