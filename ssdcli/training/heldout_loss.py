"""The held-out loss that is measured now and then while a small model is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssdcli.evaluation.losses import LossSettings, measure
from ssdcli.evaluation.scored_text import heldout_texts
from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.training.core_states import WINDOW, Passage, read_passages
from ssdcli.training.prepare import Prepared
from ssdcli.training.side_objective import NextTokenModel, mean_loss

_FEW_TOKENS = 4096  # of held-out text that are measured,
_FEWER_TOKENS = 1024  # or by a model that has to read them each time,
_BEGINNING = 64  # of each document


def heldout_measure(prepared: Prepared) -> Callable[[], float]:
    """A function that measures the held-out loss so far, on a few texts and always with the same noise."""
    model = prepared.model
    if isinstance(model, (SideNetwork, TunedCore, SmallCausalLM)):
        return _next_token_measure(prepared, model)
    chosen = heldout_texts(prepared.store, prepared.tokenizer, _FEW_TOKENS)
    settings = LossSettings(model.config.context, repeats=1)

    def measured() -> float:
        device = model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or has_fast_bf16()):
            losses = measure([model], prepared.process, chosen, [1.0], settings)
        return float(losses.nats_per_token()[0])

    return measured


def _next_token_measure(prepared: Prepared, model: NextTokenModel) -> Callable[[], float]:
    """The same for a model that predicts the next token; the states of a core that is not trained are computed once."""
    tuned = not isinstance(model, SideNetwork)
    reader = model if isinstance(model, SmallCausalLM) else model.core
    few, window = (_FEWER_TOKENS, _BEGINNING) if tuned else (_FEW_TOKENS, min(WINDOW, model.config.context))
    texts = heldout_texts(prepared.store, prepared.tokenizer, few, window)
    parts = [Passage([prepared.opening, *text.tokens[1:]], text.counted[1:]) for text in texts]

    def read() -> tuple[Tensor, Tensor]:
        states, targets = zip(*(read_passages(reader, [part]) for part in parts), strict=True)
        return torch.cat(states), torch.cat(targets)

    once = None if tuned else read()
    return lambda: mean_loss(model, *(once or read()))
