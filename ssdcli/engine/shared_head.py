"""Members that read the same core score its states in one product, so that the head's weights are read once a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ssdcli.engine.causal import StepwiseCausalDenoiser, shared_tokens
from ssdcli.engine.drafting.lookahead import Lookahead


def scored_together(models: Sequence[Any], ahead: Lookahead, prefixes: Sequence[Any]) -> dict[int, Tensor]:
    """Log p at the positions (B, C) of a lookahead by those models that share a core and its prefix, by their places.

    models: None for one that does not run. Empty where fewer than two share them, and where a product over more tokens
    would round otherwise.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (model, prefix) in enumerate(zip(models, prefixes, strict=True)):
        if isinstance(model, StepwiseCausalDenoiser):
            alike.setdefault((id(model.reader), id(prefix)), []).append(place)
    places = max(alike.values(), key=len, default=[])
    if len(places) < 2:
        return {}
    backbones = [models[place].backbone for place in places]
    if min(map(shared_tokens, backbones)) < len(places):
        return {}
    log_ps = models[places[0]].ahead_of(backbones, ahead, prefixes[places[0]])
    return dict(zip(places, log_ps, strict=True))
