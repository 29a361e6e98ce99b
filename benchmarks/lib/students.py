"""Students of a causal LM: a LoRA, and a small network that reads its states; and what such models predict."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional

_WIDTH = 512  # of the side network's hidden layer
_TOP_P = 0.95
_BESIDE = 10  # texts of a pass that follow the same tokens


def with_lora(core: Any, rank: int) -> Any:
    """A copy of a causal LM in bfloat16 with a LoRA on every linear layer, in float32, that changes nothing yet."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    network: Any = inject_adapter_in_model(config, deepcopy(core).bfloat16())
    for weight in _trained(network):
        weight.data = weight.data.float()  # the steps are too small for bfloat16
    return network


def _trained(network: Any) -> list[nn.Parameter]:
    return [weight for weight in network.parameters() if weight.requires_grad]


class SideNetwork(nn.Module):
    """A small network that reads three of a frozen core's states and corrects the last one before the core's own table.

    Its output is zero at first, so that it begins as the core.
    """

    def __init__(self, core: Any) -> None:
        """Read the states after a third of the layers, two thirds, and all of them."""
        super().__init__()
        self.core = (core,)  # in a tuple, so that its weights are not this network's
        layers, hidden = core.config.num_hidden_layers, core.config.hidden_size
        self.layers = (layers // 3, 2 * layers // 3, layers)
        last = nn.Linear(_WIDTH, hidden)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(nn.Linear(3 * hidden, _WIDTH), nn.GELU(), last)

    @torch.no_grad()
    def states(self, tokens: Sequence[int]) -> Tensor:
        """The core's states at each of T tokens: (T, 3, H)."""
        return self.states_of(torch.tensor([tokens]))[0]

    @torch.no_grad()
    def states_of(self, tokens: Tensor) -> Tensor:
        """The same of several texts: (B, T) to (B, T, 3, H)."""
        (core,) = self.core
        found = core.model(tokens, output_hidden_states=True).hidden_states
        return torch.stack([found[layer] for layer in self.layers], dim=2)

    def forward(self, states: Tensor) -> Tensor:
        """Logits of the token after each: (N, 3, H) to (N, V)."""
        (core,) = self.core
        normed = functional.rms_norm(states, states.shape[-1:]).flatten(1)
        logits: Tensor = core.lm_head(states[:, -1] + self.body(normed))
        return logits


def predicted(model: Any, texts: Sequence[Sequence[int]], before: Sequence[int] = ()) -> list[Tensor]:
    """Log p of what follows each token of texts but the last, by a causal LM: (T - 1, V) float32 each.

    before: ids that it reads behind the opening of each text, which all begin alike.
    """
    if not before:
        return _predicted(model, texts, None)
    read, found = model.model(torch.tensor([[texts[0][0], *before]]), use_cache=True).past_key_values, []
    for start in range(0, len(texts), _BESIDE):
        part = [text[1:] for text in texts[start : start + _BESIDE]]
        cache = deepcopy(read)
        cache.batch_repeat_interleave(len(part))
        found += _predicted(model, part, cache)
    return found


def _predicted(model: Any, texts: Sequence[Sequence[int]], cache: Any) -> list[Tensor]:
    hidden = model.model(padded([text[:-1] for text in texts]), past_key_values=cache).last_hidden_state
    pairs = zip(texts, hidden, strict=True)
    return [model.lm_head(own[: len(text) - 1]).float().log_softmax(-1) for text, own in pairs]


def padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """Texts in one tensor (B, T), with zeros behind them, which a causal LM does not see before."""
    width = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])


@torch.no_grad()
def drawn(network: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Continuations of so many tokens, drawn at temperature 1 from the nucleus."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    written, cache = [], None
    for _ in range(count):
        places = (seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        read = network.model(ids, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True)
        p, order = network.lm_head(read.last_hidden_state[:, -1]).float().softmax(-1).sort(descending=True)
        p = p.masked_fill(p.cumsum(-1) - p > _TOP_P, 0.0)
        ids, cache = order.gather(-1, torch.multinomial(p, 1)), read.past_key_values
        seen = torch.cat([seen, torch.ones_like(ids)], dim=1)
        written.append(ids)
    rows: list[list[int]] = torch.cat(written, dim=1).tolist()
    return rows
