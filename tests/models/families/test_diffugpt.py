from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ssdcli.models.families import CAUSAL, recognise
from ssdcli.models.families.diffugpt import DIFFUGPT
from ssdcli.models.families.family import Vocabulary
from tests.models.families import plain
from tests.models.families.checkpoints import WORDS, read_weights
from tests.models.families.diffugpt import ADDED, END, LAYERS, WIDTH, config, mask_id
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, spec_of


def published(weights: dict[str, Tensor], hidden_id: int) -> Published:
    """GPT-2 (Radford et al., 2019) without its causal mask; position i is predicted at i - 1."""
    own = {name.removeprefix("denoise_model."): tensor for name, tensor in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), own[f"{name}.weight"], own[f"{name}.bias"], 1e-3)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ own[f"{name}.weight"] + own[f"{name}.bias"]

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(0, 1) for part in linear(x, f"{name}.c_attn").chunk(3, -1))
        mixed = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return linear(mixed.transpose(0, 1).flatten(1), f"{name}.c_proj")

    def network(x: Tensor, name: str) -> Tensor:
        y = linear(x, f"{name}.c_fc")
        turned = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        return linear(turned, f"{name}.c_proj")

    def log_p(tokens: Tensor, start: int) -> Tensor:
        x = own["embed_tokens.weight"][tokens] + own["wpe.weight"][: len(tokens)]
        for n in range(LAYERS):
            x = x + attention(norm(x, f"h.{n}.ln_1"), f"h.{n}.attn")
            x = x + network(norm(x, f"h.{n}.ln_2"), f"h.{n}.mlp")
        return plain.log_p(plain.shifted(norm(x, "ln_f")), own["embed_tokens.weight"], [hidden_id])

    return log_p


@pytest.mark.parametrize("kind", ["s", "m"])
def test_log_p_is_that_of_the_published_forward_pass(pulled, written, kind):
    core = open_core(pulled(f"diffugpt-{kind}"))
    expected = published(read_weights(written(f"diffugpt-{kind}")), mask_id(kind))
    assert max(gaps(core, expected, [40, 12, 25], 16).values()) <= TOLERANCE
    spec = spec_of(pulled(f"diffugpt-{kind}"))
    assert (spec.attention, spec.shift, spec.context, spec.begin, spec.ends) == ("full", True, 256, END, (END,))
    assert (spec.constants["mask_id"], spec.suppressed) == (mask_id(kind), (mask_id(kind),))


def test_it_is_known_by_its_mask():
    small = Vocabulary(END + 1, {"<|endoftext|>": END}, begin=END, end=END, mask=mask_id("s"))
    medium = Vocabulary(END + 2, {"<|endoftext|>": END, ADDED: END + 1}, begin=END, end=END)
    assert recognise(config("s"), small) is recognise(config("m"), medium) is DIFFUGPT
    assert recognise(config("s"), replace(small, mask=None)) in CAUSAL
    added = replace(small, ids={**small.ids, "[MASK]": WORDS + 1}, mask=WORDS + 1)
    assert recognise(config("s"), added) in CAUSAL
