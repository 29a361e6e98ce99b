"""A model small enough to be run many times, and denoisers whose distributions are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.prompt import Prompt
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM

VOCABULARY = 50
MASK = VOCABULARY - 1
PROCESSES = {
    "masked": Masked(VOCABULARY, MASK),
    "simplex": Simplex(VOCABULARY),
    "uniform": Uniform(VOCABULARY),
}


@pytest.fixture
def make_denoiser() -> Callable[..., Denoiser]:
    """Makes a real model of two narrow layers with lively random weights, wrapped for a process."""

    def make(process: str = "masked", seed: int = 0, kind: type[Denoiser] = Denoiser, **changes: Any) -> Denoiser:
        masked = process == "masked"
        fields: dict[str, Any] = {
            "vocabulary": VOCABULARY,
            "hidden": 32,
            "layers": 2,
            "rank": 16,
            "block_size": 4,
            "context": 64,
            "timed": not masked,
            "self_conditioned": not masked,
            "suppressed": (MASK,) if masked else (0,),
        }
        torch.manual_seed(seed)
        backbone = BlockDiffusionLM(BackboneConfig(**{**fields, **changes})).requires_grad_(False).eval()
        for parameter in backbone.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
        backbone.table.mul_(2)
        return kind(backbone, PROCESSES[process])

    return make


class KnownDenoiser:
    """Gives the same log p (V,) at every position of every canvas, and counts its calls."""

    def __init__(self, log_p: Tensor) -> None:
        self.log_p = log_p
        self.started = self.denoised = self.committed = 0
        self.levels: list[float] = []

    def start(self, prompts: Sequence[Prompt]) -> int:
        self.started += 1
        return 0

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: int) -> Tensor:
        self.denoised += 1
        self.levels.append(t)
        return self.log_p.expand(*canvas.shape[:2], -1)

    def commit(self, tokens: Tensor, prefix: int) -> int:
        self.committed += 1
        return prefix + 1


@pytest.fixture
def known_denoiser() -> Callable[[list[float]], KnownDenoiser]:
    """Makes a denoiser from the probabilities that it always gives."""
    return lambda p: KnownDenoiser(torch.tensor(p).log())
