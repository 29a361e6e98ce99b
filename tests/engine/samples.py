"""What the sampler's tests share: all processes, a run of few short steps, and a guide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.engine.steps import SamplerConfig, Step

NEVER = -1  # an end of text that never comes
V, L = 6, 4
_ALL = [Masked(V, mask_id=V - 1), Simplex(V), Uniform(V)]
PROCESSES = pytest.mark.parametrize("process", _ALL, ids=lambda process: process.name)
REDRAWN = pytest.mark.parametrize("process", _ALL[1:], ids=lambda process: process.name)  # where no token is certain
REAL_PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex", "uniform"])
P = [0.3, 0.25, 0.2, 0.15, 0.1, 0.0]


def alone(denoiser: Any) -> Ensemble:
    return Ensemble((Member("one", denoiser, Constant(1.0)),))


def settings(**changes: Any) -> SamplerConfig:
    fields: dict[str, Any] = {"block_size": L, "max_tokens": 3 * L, "ends": (NEVER,), "picker": Picker()}
    return SamplerConfig(**{**fields, **changes})


def run(ensemble: Any, process: Any, seeds: list[int], prompts: Any = None, **changes: Any) -> list[Step]:
    """All steps of an ensemble, or of one denoiser alone; each row has a prompt of one token.

    process: a noise process, or a sampler of one.
    """
    how = process.reverse() if hasattr(process, "reverse") else reverse_process(process)
    how = replace(how, steps=changes.pop("steps", 5), stop=changes.pop("stop", None))
    group = ensemble if isinstance(ensemble, Ensemble) else alone(ensemble)
    rows = [Prompt([1])] * len(seeds) if prompts is None else [Prompt(prompt) for prompt in prompts]
    return list(sample(group, how, [rows] * len(group.members), seeds, settings(**changes)))


def generated(steps: list[Step], process: Process) -> Tensor:
    """The tokens of all blocks: (B, blocks * L)."""
    return torch.cat([process.tokens(step.canvas) for step in steps if step.last], dim=1)


class Towards:
    """Pushes towards one token, and notes what it was shown."""

    def __init__(self, token: int, scale: float) -> None:
        self.token, self.scale = token, scale
        self.shown: list[tuple[Tensor, Tensor]] = []

    def push(self, log_p: Tensor, written: Tensor) -> Tensor:
        self.shown.append((log_p, written))
        return torch.zeros_like(log_p).index_fill(-1, torch.tensor([self.token], device=log_p.device), 1.0)
