"""FSDP, which deals the weights of a model out to processes, and what it asks of a training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers.trainer import OPTIMIZER_NAME

from ssdcli.errors import UsageError
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.training.objective import Objective

_BACKBONE = "backbone."  # of an Objective


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are dealt out."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def set_up(accelerator: Accelerator, model: nn.Module, sequences: int) -> None:
    """Let FSDP compute as trainings do without it; UsageError where it cannot.

    sequences: those of a step in each process.
    """
    if not is_sharded(accelerator):
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise UsageError("FSDP deals a model out to GPUs, and there are none.", "Leave --use_fsdp out.")
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version == 1:
        problem = "FSDP 1 makes one row of all matrices, and Muon needs them whole."
        raise UsageError(problem, "Pass --fsdp_version 2 to accelerate.")
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("an adapter is not trained with FSDP.", "Leave --use_fsdp out, or --lora.")
    if sequences == 1:  # of two samples one takes a pass more, in which all processes have to join
        problem = "FSDP needs at least two sequences a step in each process."
        raise UsageError(problem, "Pass a larger --batch-tokens, or leave --use_fsdp out.")
    plugin.mixed_precision_policy = None  # FSDP's own rounding would reach the loss: see autocast


def autocast(accelerator: Accelerator) -> AbstractContextManager[None]:
    """The rounding that accelerate gives every model but one that is dealt out."""
    if not is_sharded(accelerator):
        return nullcontext()
    # The first pass that a weight is gathered for can be one without gradients, and a cached cast would have none.
    uncached: AbstractContextManager[None] = accelerator.autocast(AutocastKwargs(cache_enabled=False))
    return uncached


def check_resumable(checkpoint: Path, accelerator: Accelerator) -> None:
    """Raise UsageError for a checkpoint of a training with FSDP where there is none, and the other way round."""
    sharded = is_sharded(accelerator)
    if sharded == (checkpoint / OPTIMIZER_NAME).exists():
        began, now = ("without", "with") if sharded else ("with", "without")
        problem = f"the training was begun {began} FSDP and cannot go on {now} it."
        raise UsageError(problem, f"Resume it {began} FSDP, or start anew with --overwrite.")


def local(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Hold whole what was dealt out, but for the parts that gather themselves when they are called."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    yield
    module.reshard()


def learned_weights(objective: Objective, accelerator: Accelerator) -> dict[str, Tensor]:
    """The weights of the backbone that are trained, whole, in the first process at least; all have to ask for them."""
    learned: dict[str, Tensor] = {
        name: weight for name, weight in objective.backbone.named_parameters() if weight.requires_grad
    }
    if not is_sharded(accelerator):
        return learned
    state = accelerator.get_state_dict(objective)
    return {name: state[_BACKBONE + name] for name in learned} if accelerator.is_main_process else {}


def whole_backbone(objective: Objective, accelerator: Accelerator) -> BlockDiffusionLM:
    """The backbone with all of its weights, in the first process at least; all processes have to ask for it."""
    backbone = objective.backbone
    if not is_sharded(accelerator):
        return backbone
    state = accelerator.get_state_dict(objective)
    whole = BlockDiffusionLM(backbone.config)
    if accelerator.is_main_process:
        own = {name: value for name, value in state.items() if name.startswith(_BACKBONE)}
        whole.load_state_dict({name.removeprefix(_BACKBONE): value for name, value in own.items()})
    return whole
