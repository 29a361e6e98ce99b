"""The optimiser of small models: Muon for the matrices of the body, AdamW for all else, as one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class Pair(Optimizer):
    """Two optimisers that step, are scheduled and are saved as one."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        """Share the two optimisers' parameter groups, so that a scheduler reaches both."""
        self.parts = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step both."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, side by side."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> Optimizer:
    """Muon (Jordan et al., 2024) where weights multiply hidden states, AdamW for embeddings, gains and biases.

    Muon's update is scaled to the root mean square of AdamW's, so that both share one learning rate. The embedding
    table does not decay: the rows of rare tokens would be erased.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and not name.endswith("table")]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return Pair(muon, AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True))
