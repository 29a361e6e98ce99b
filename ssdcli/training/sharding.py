"""FSDP, which shards the weights of a model over processes, and what it requires of a training."""

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
from ssdcli.models.backbones.small_causal import new_network
from ssdcli.training.beginnings import SmallModel
from ssdcli.training.causal_objective import NextTokenObjective
from ssdcli.training.drafting_objective import DraftingObjective
from ssdcli.training.objective import Objective
from ssdcli.training.side_objective import SideObjective

_BACKBONE = "backbone."  # of an Objective


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the weights are sharded."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def set_up(accelerator: Accelerator, model: nn.Module, sequences: int) -> None:
    """Let FSDP compute exactly what a training computes without it; UsageError where it cannot.

    sequences: of a step in each process.
    """
    if not is_sharded(accelerator):
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise UsageError("FSDP shards a model over GPUs, and there are none.", "Omit --use_fsdp.")
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version == 1:
        problem = "FSDP 1 flattens all matrices into one vector, and Muon needs them whole."
        raise UsageError(problem, "Pass --fsdp_version 2 to accelerate.")
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("an adapter cannot be trained with FSDP.", "Omit --use_fsdp or --lora.")
    if sequences == 1:  # every second sample takes one more pass, which all processes have to join
        problem = "FSDP needs at least two sequences a step in each process."
        raise UsageError(problem, "Pass a larger --batch-tokens, or omit --use_fsdp.")
    plugin.mixed_precision_policy = None  # FSDP's own rounding would affect the loss, see `autocast`


def autocast(accelerator: Accelerator) -> AbstractContextManager[None]:
    """The autocast that accelerate applies to every model but a sharded one."""
    if not is_sharded(accelerator):
        return nullcontext()
    # Not cached: a weight may first be cast in a pass without gradients, and that cast would have none later.
    uncached: AbstractContextManager[None] = accelerator.autocast(AutocastKwargs(cache_enabled=False))
    return uncached


def check_resumable(checkpoint: Path, accelerator: Accelerator) -> None:
    """Raise UsageError for a checkpoint with FSDP in a training without it, or the other way round."""
    sharded = is_sharded(accelerator)
    if sharded == (checkpoint / OPTIMIZER_NAME).exists():
        began, now = ("without", "with") if sharded else ("with", "without")
        problem = f"the training was begun {began} FSDP and cannot be resumed {now} it."
        raise UsageError(problem, f"Resume it {began} FSDP, or start over with --overwrite.")


def local(parameter: Tensor) -> Tensor:
    """The part of a parameter that this process holds."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather a sharded module's own weights; its submodules gather theirs when they are called."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    yield
    module.reshard()


def learned_weights(
    objective: Objective | SideObjective | NextTokenObjective | DraftingObjective, accelerator: Accelerator
) -> dict[str, Tensor]:
    """The trained weights of the backbone, whole at least in the first process; all processes must call it."""
    learned: dict[str, Tensor] = {
        name: weight for name, weight in objective.backbone.named_parameters() if weight.requires_grad
    }
    if not is_sharded(accelerator):
        return learned
    state = accelerator.get_state_dict(objective)
    return {name: state[_BACKBONE + name] for name in learned} if accelerator.is_main_process else {}


def whole_backbone(objective: Objective | SideObjective | NextTokenObjective, accelerator: Accelerator) -> SmallModel:
    """The backbone with whole weights, at least in the first process; all processes must call it."""
    backbone = objective.backbone
    if not is_sharded(accelerator) or not isinstance(backbone, BlockDiffusionLM):
        return backbone
    state = accelerator.get_state_dict(objective)
    whole = new_network(backbone.config)
    if accelerator.is_main_process:
        own = {name: value for name, value in state.items() if name.startswith(_BACKBONE)}
        whole.load_state_dict({name.removeprefix(_BACKBONE): value for name, value in own.items()})
    return whole
