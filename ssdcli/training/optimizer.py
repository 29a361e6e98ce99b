"""The optimisers of small models: Muon for the matrices of the body and AdamW for all else, as one; or AdamW alone."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

_BETAS = (0.9, 0.95)

_Weights = list[nn.Parameter]


class Pair(Optimizer):
    """Two optimisers that step, are scheduled and are saved as one."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        """Make one optimiser of two."""
        self.parts = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step both."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the state of the whole: schedulers and FSDP know no other."""
        first, second = self.parts
        count = len(first.param_groups)
        first.param_groups, second.param_groups = self.param_groups[:count], self.param_groups[count:]
        first.state = second.state = self.state


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float, name: str = "muon") -> Optimizer:
    """Return what OPTIMIZERS knows by this name; an adapter beside frozen weights is AdamW's in any case."""
    named = [(path, weight) for path, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for path, weight in named if weight.ndim == 2 and not path.endswith("table")]
    chosen = {id(weight) for weight in matrices}
    others = [weight for _, weight in named if id(weight) not in chosen]
    if len(named) < len(list(model.parameters())):
        return _adamw(matrices, others, learning_rate, 0.0)
    return OPTIMIZERS[name](matrices, others, learning_rate, weight_decay)


def _muon(matrices: _Weights, others: _Weights, learning_rate: float, weight_decay: float) -> Optimizer:
    """Muon (Jordan et al., 2024) where weights multiply hidden states, AdamW for embeddings, gains and biases.

    Muon's update is scaled to the root mean square of AdamW's, so that both share one learning rate. The embedding
    table does not decay: the rows of rare tokens would be erased.
    """
    muon = Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return Pair(muon, AdamW(others, lr=learning_rate, betas=_BETAS, weight_decay=0.0, fused=True))


def _adamw(matrices: _Weights, others: _Weights, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) for all; only matrices decay."""
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=learning_rate, betas=_BETAS, fused=True)


OPTIMIZERS = {"muon": _muon, "adamw": _adamw}
