"""Rotary position embeddings (Su et al., 2021), also in the scaled forms whose angles do not depend on the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_FAST, _SLOW = 32, 1  # YaRN: turns within the first context above which a frequency stays, and below which it is scaled

Parameters = Mapping[str, Any]  # those of config.json under "rope_parameters"


@dataclass(frozen=True)
class Rotary:
    """The angles of positions.

    frequencies: radians a position, (d / 2,) float32.
    factor: of cosines and sines.
    """

    frequencies: Tensor
    factor: float = 1.0

    @classmethod
    def of(cls, told: Parameters, width: int) -> Rotary:
        """For heads of this width; KeyError for parameters that are missing, or for another kind."""
        plain = 1.0 / told["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
        return _KINDS[told["rope_type"]](plain, told)

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of positions (B, n), both (B, n, 1, d).

        By them x turns to x * cos + roll(x, d / 2) * sin.
        """
        angles = positions[..., None, None].float() * self.frequencies
        cos, sin = angles.cos() * self.factor, angles.sin() * self.factor
        return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def _unscaled(plain: Tensor, _: Parameters) -> Rotary:
    return Rotary(plain)


def _linear(plain: Tensor, told: Parameters) -> Rotary:
    """Positions closer together by a factor (Chen et al., 2023)."""
    return Rotary(plain / told["factor"])


def _by_wavelength(plain: Tensor, told: Parameters) -> Rotary:
    """As of Llama 3.1: waves that fit less than `low` times into the first context are scaled, above `high` kept."""
    low, high = told["low_freq_factor"], told["high_freq_factor"]
    turns = told["original_max_position_embeddings"] * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return Rotary((1 - kept) * plain / told["factor"] + kept * plain)


def _yarn(plain: Tensor, told: Parameters) -> Rotary:
    """YaRN (Peng et al., 2023): a ramp over the dimensions between fast frequencies, which stay, and slow ones."""
    width, first = 2 * len(plain), told["original_max_position_embeddings"]

    def place(turns: float) -> float:
        """The dimension whose wave goes so many times into the first context."""
        return width * math.log(first / (turns * 2 * math.pi)) / (2 * math.log(told["rope_theta"]))

    low, high = place(told.get("beta_fast") or _FAST), place(told.get("beta_slow") or _SLOW)
    if told.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    scaled = ((torch.arange(len(plain)).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return Rotary(plain * (1 - scaled) + plain / told["factor"] * scaled, _attention_factor(told))


def _attention_factor(told: Parameters) -> float:
    """What YaRN multiplies cosines and sines by: 0.1 ln(factor) + 1, unless it is given."""

    def of(scale: float) -> float:
        return 0.1 * scale * math.log(max(told["factor"], 1)) + 1

    stated = told.get("attention_factor")
    if stated is not None:
        return float(stated)
    above, below = told.get("mscale"), told.get("mscale_all_dim")
    return of(above) / of(below) if above and below else of(1)


def _by_factors(plain: Tensor, told: Parameters) -> Rotary:
    """Each frequency scaled by a factor of its own, the same for long texts as for short ones."""
    return Rotary(plain / torch.tensor(told["long_factor"]), told["attention_factor"])


_KINDS: dict[str, Callable[[Tensor, Parameters], Rotary]] = {  # those that `packable.ROTATIONS` names
    "default": _unscaled,
    "linear": _linear,
    "llama3": _by_wavelength,
    "yarn": _yarn,
    "longrope": _by_factors,
}
