"""The optimisers of small models: Muon for the matrices of the body with AdamW for all else, or AdamW alone.

Muon replaces a matrix's momentum M = U S V^T by U V^T, in a few Newton-Schulz iterations: the update is as large in
directions in which the gradient is small as in others. That suits a matrix that multiplies hidden states; the
rows of an embedding table are looked up one by one, and its singular directions mean little.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

_BETAS = (0.9, 0.95)  # a short memory of the squared gradient, since trainings are short

_Weights = list[nn.Parameter]


class PairedOptimizer(Optimizer):
    """Two optimisers that are stepped, scheduled and saved as one."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        """Join two optimisers."""
        self.parts = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step both."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both use the groups and the state of the pair, which are all that schedulers and FSDP see."""
        first, second = self.parts
        count = len(first.param_groups)
        first.param_groups, second.param_groups = self.param_groups[:count], self.param_groups[count:]
        first.state = second.state = self.state


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float, name: str = "muon") -> Optimizer:
    """Make the optimiser of this name; an adapter beside frozen weights always gets AdamW, without weight decay."""
    named = [(path, weight) for path, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for path, weight in named if weight.ndim == 2 and not path.endswith("table")]
    chosen = {id(weight) for weight in matrices}
    others = [weight for _, weight in named if id(weight) not in chosen]
    if len(named) < len(list(model.parameters())):
        return _adamw(matrices, others, learning_rate, 0.0)
    return OPTIMIZERS[name](matrices, others, learning_rate, weight_decay)


def _muon(matrices: _Weights, others: _Weights, learning_rate: float, weight_decay: float) -> Optimizer:
    """Muon (Jordan et al., 2024) for matrices that multiply hidden states, AdamW for embeddings, gains and biases.

    An orthogonal m x n update has a root mean square of 1 / sqrt(max(m, n)); Muon's is scaled by 0.2 sqrt(max(m, n)) to
    that of AdamW's updates (Liu et al., 2025), so that one learning rate serves both. The embedding table does not
    decay: the rows of rare tokens get few gradients and would shrink to nothing.
    """
    muon = Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return PairedOptimizer(muon, AdamW(others, lr=learning_rate, betas=_BETAS, weight_decay=0.0, fused=True))


def _adamw(matrices: _Weights, others: _Weights, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) for all weights; only matrices decay."""
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=learning_rate, betas=_BETAS, fused=True)


OPTIMIZERS = {"muon": _muon, "adamw": _adamw}
