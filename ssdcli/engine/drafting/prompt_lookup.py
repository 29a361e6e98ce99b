"""Prompt lookup (Saxena, 2023): what followed the last tokens where they stood before in the prompt or the text."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.sampling.race import Race
from ssdcli.engine.sampling.repetition import KnownText

_LONGEST = 8  # tokens that are compared
_SHORTEST = 2  # tokens that a place must share


class PromptLookup:
    """Continues as the text did after the longest, then latest, place with the same tokens before it."""

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: KnownText) -> Draft:
        """The tokens after that place; prefix: the text around the canvases."""
        rows = torch.arange(len(canvas), device=canvas.device)
        first = (prefix.canvas >= 0).long().cumprod(1).sum(1)
        here = (prefix.start + first).clamp(max=prefix.tokens.shape[1] - 1)
        shared = prefix.agreeing((rows, first.clamp(max=prefix.length - 1)), -1, _LONGEST)
        columns = torch.arange(prefix.tokens.shape[1], device=canvas.device)
        shared = shared.masked_fill(columns >= here[:, None], 0)
        best = (shared * len(columns) + columns).argmax(1)  # of equally long ones the latest
        length = shared[rows, best]
        period = (here - best).clamp(min=1)[:, None]  # text that goes round in a circle is taken to go on so
        after = best[:, None] + torch.arange(count, device=canvas.device) % period
        tokens = prefix.tokens.gather(1, after)
        none = (tokens < 0) | (length < _SHORTEST)[:, None]
        tokens = tokens.masked_fill(none.cumsum(1) > 0, -1)
        sure = (length / (length + _SHORTEST))[:, None].expand(tokens.shape)
        return Draft(tokens, sure)
