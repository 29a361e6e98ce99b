from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.llada_moe import LLADA_MOE
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.llada_moe import BEGIN, CONFIG, END, EXPERTS, MASK, ROWS, TURN
from tests.models.families.parity import TOLERANCE, gaps, open_core, spec_of

NEVER = (MASK, *range(TURN + 1, ROWS))


def _experts(weights: dict[str, Tensor], prefix: str) -> Callable[[Tensor], Tensor]:
    """The likeliest two, weighted by their probabilities among all, which do not sum to one."""
    parts = ("gate", "up", "down")
    networks = [
        plain.gated(*(weights[f"{prefix}experts.{n}.{part}_proj.weight"] for part in parts)) for n in range(EXPERTS)
    ]

    def of_all(x: Tensor) -> Tensor:
        p = (x @ weights[f"{prefix}gate.weight"].T).softmax(-1)
        kept = torch.where(p >= p.topk(2).values[:, 1:], p, 0)
        return sum(kept[:, n, None] * network(x) for n, network in enumerate(networks))

    return of_all


def _layers(weights: dict[str, Tensor]) -> list[dict]:
    named = {"norm": "input_layernorm", "norm 2": "post_attention_layernorm"}
    named |= {kind: f"self_attn.{kind}_proj" for kind in "qkvo"} | {f"{k} norm": f"self_attn.{k}_norm" for k in "qk"}
    prefixes = [f"model.layers.{n}." for n in range(2)]
    return [
        {key: weights[f"{prefix}{name}.weight"] for key, name in named.items()}
        | {"mlp": _experts(weights, f"{prefix}mlp.")}
        for prefix in prefixes
    ]


def test_log_p_is_that_of_the_published_forward_pass(pulled, written):
    weights = read_weights(written("llada_moe"))
    shape = plain.Shape(heads=4, keys=4, head=8, theta=300.0, eps=1e-3, rotated=8)
    layers = _layers(weights)

    def published(tokens: Tensor, start: int) -> Tensor:
        x = weights["model.embed_tokens.weight"][tokens]
        hidden = plain.body(x, layers, shape, plain.everything(len(tokens)))
        normed = plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, weights["lm_head.weight"], NEVER)

    assert max(gaps(open_core(pulled("llada_moe")), published, [40, 12, 25], 32).values()) <= TOLERANCE


def test_the_core_sees_all_and_ends_turns(pulled):
    spec = spec_of(pulled("llada_moe"))
    assert (spec.process, spec.attention, spec.shift, spec.block_size) == ("masked", "full", False, 32)
    assert (spec.constants["mask_id"], spec.begin, spec.ends) == (MASK, BEGIN, (END, TURN))
    assert (spec.suppressed, spec.format, spec.late_ends) == (NEVER, "chat", True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("qk_layernorm", False), ("moe_layer_freq", [0, 1]), ("clip_qkv", 8.0), ("moe_router_enable_expert_bias", True)],
)
def test_what_its_layers_do_not_do_is_refused(key, value):
    assert recognise(CONFIG, Vocabulary(TURN + 1)) is LLADA_MOE
    with pytest.raises(SsdError, match=f"'{key}'"):
        LLADA_MOE.native({**CONFIG, key: value})
