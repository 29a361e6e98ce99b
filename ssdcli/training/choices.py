"""What the settings of a training leave open: the size of a model, and the batch and the learning rate that suit it."""

from __future__ import annotations

from dataclasses import replace

import torch

from ssdcli.models.presets import PRESETS, Preset, find_preset
from ssdcli.training.settings import DEFAULT_MINUTES, TrainSettings

_DECAY = 0.4
_GAPS = 0.25


def settled(settings: TrainSettings, tokens: int) -> TrainSettings:
    """Checked settings with what they leave open decided once and for all: a resumed training may get more minutes.

    tokens: of the training text.
    """
    size = None if settings.init is not None else choose_preset(settings, tokens).name
    batch = choose_batch_tokens(settings, tokens)
    decay = _DECAY if settings.decay is None else settings.decay
    gaps = _GAPS if settings.gap_share is None and not settings.causal else settings.gap_share
    own = replace(settings, optimizer=settings.optimizer or "muon", gap_share=gaps)
    return replace(own, size=size, batch_tokens=batch, learning_rate=choose_rate(settings), decay=decay)


def choose_preset(settings: TrainSettings, tokens: int) -> Preset:
    """The preset that checked settings name, or the largest that the training tokens and the time can feed."""
    asked = None if settings.size is None else find_preset(settings.size)
    if asked is not None:
        return asked
    worth = min(tokens * _PARAMETERS_PER_TOKEN, _affordable(settings))
    fitting = [preset for preset in PRESETS if preset.parameters <= worth]
    return fitting[-1] if fitting else PRESETS[0]


_BATCH_TOKENS = 2048
_FEWEST_BATCH_TOKENS = 512
_STEPS = 500  # that a model from scratch should get; see docs/lab/training.md


def choose_batch_tokens(settings: TrainSettings, tokens: int) -> int:
    """The tokens of a step that checked settings name; else fewer where a small text allows few steps.

    tokens: of the training text; the passes over it are limited, and so are the steps.
    """
    if settings.batch_tokens is not None:
        return settings.batch_tokens
    if settings.init is not None or settings.steps is not None:
        return _BATCH_TOKENS
    return min(_BATCH_TOKENS, max(_FEWEST_BATCH_TOKENS, int(settings.passes * tokens / _STEPS)))


_RATE = 3e-3
_CONTINUED_RATE = 1e-3


def choose_rate(settings: TrainSettings) -> float:
    """The peak learning rate that checked settings name; else a lower one for weights that were trained before.

    One rate suits all widths, since Muon's updates have the same root mean square at every width.
    """
    if settings.learning_rate is not None:
        return settings.learning_rate
    continued = settings.init is not None and settings.lora is None
    return _CONTINUED_RATE if continued else _RATE


_PARAMETERS_PER_TOKEN = 12
_PARAMETERS_PER_MINUTE = 225_000  # of two CPU cores; see docs/lab/training.md


def _affordable(settings: TrainSettings) -> float:
    """How many body parameters can be trained in the granted time on a machine without a GPU."""
    by_steps = settings.minutes is None and settings.steps is not None
    if by_steps or torch.cuda.is_available():
        return float("inf")
    return (settings.minutes or DEFAULT_MINUTES) * _PARAMETERS_PER_MINUTE
