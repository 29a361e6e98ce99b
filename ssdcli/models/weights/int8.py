"""Linear layers whose weights have 8 bits."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel


class Int8Linear(nn.Module):
    """y = s (x W^T) + b with W in 8 bits and a scale s for each of its rows.

    Weights and scales are those of LLM.int8 (Dettmers et al., 2022), which rounds x too, but for some columns of it:
    which ones depends on all rows of a batch.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, largest: Tensor, bias: Tensor | None) -> None:
        """weight: (out, in) int8, of which 127 stands for the row's largest number: (out,); bias: (out,)."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", largest.float() / 127)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        y = nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def keep_activations(model: PreTrainedModel) -> None:
    """Put an `Int8Linear` in place of every layer in which bitsandbytes rounds activations too."""
    from bitsandbytes.nn import Linear8bitLt

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear8bitLt):
            model.set_submodule(name, Int8Linear(layer.weight.data, layer.weight.SCB, layer.bias))
