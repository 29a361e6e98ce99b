"""Members that read the same core score its states in one product, so that the head's weights are read once a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.causal import StepwiseCausalDenoiser
from ssdcli.engine.drafting.lookahead import Lookahead


def scored_together(models: Sequence[Any], ahead: Lookahead, prefixes: Sequence[Any]) -> dict[int, Tensor]:
    """Log p at the positions (1, C) of a lookahead by those models that share a core and its prefix, by their places.

    models: None for one that does not run. Empty where fewer than two share them, for several rows, which share passes
    instead, and where a product over more tokens would round otherwise.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (model, prefix) in enumerate(zip(models, prefixes, strict=True)):
        if isinstance(model, StepwiseCausalDenoiser):
            alike.setdefault((id(model.reader), id(prefix)), []).append(place)
    places = max(alike.values(), key=len, default=[])
    if len(places) < 2 or len(ahead.first) != 1 or int(ahead.drafted) < 0:
        return {}
    backbones = [models[place].backbone for place in places]
    model = models[places[0]]
    if getattr(model.reader, "shared_tokens", 0) < len(places) * ahead.width:
        return {}
    states = model.states_ahead(ahead, prefixes[places[0]])
    corrected = torch.cat([backbone.scored(states) for backbone in backbones], dim=1)
    log_p = torch.log_softmax(model.reader.logits(corrected), dim=-1)
    return dict(zip(places, log_p.split(ahead.width, dim=1), strict=True))
