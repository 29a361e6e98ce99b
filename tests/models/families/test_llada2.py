from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.llada2 import LLADA2
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.llada2 import BEGIN, CONFIG, END, MASK, ROWS, SPECIALS, TURN
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, row_gaps, spec_of

WORDS = Vocabulary(TURN + 1, {text: BEGIN + n for n, text in enumerate(SPECIALS)}, begin=BEGIN, end=END, chat=True)
NEVER = (MASK, *range(TURN + 1, ROWS))
BLOCK, HEADS, KEYS, HEAD = 32, 4, 2, 12


@pytest.fixture(scope="module")
def weights(written) -> dict[str, Tensor]:
    return read_weights(written("llada2"))


def published(weights: dict[str, Tensor], grid: int | None) -> Published:
    """The forward pass with a grid of blocks that begins at a position, or at the canvas if there is none."""
    shape = plain.Shape(HEADS, KEYS, HEAD, theta=300.0, eps=1e-3, rotated=HEAD // 2)
    layers = [_layer(weights, f"model.layers.{n}.") for n in range(3)]

    def log_p(tokens: Tensor, start: int) -> Tensor:
        sees = plain.block_causal(len(tokens), BLOCK, start if grid is None else grid)
        hidden = plain.body(weights["model.word_embeddings.weight"][tokens], layers, shape, sees)
        normed = plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, weights["lm_head.weight"], NEVER)

    return log_p


def _layer(weights: Mapping[str, Tensor], prefix: str) -> dict:
    fused = weights[f"{prefix}attention.query_key_value.weight"]
    return {
        "norm": weights[f"{prefix}input_layernorm.weight"],
        "q": fused[: HEADS * HEAD],
        "k": fused[HEADS * HEAD : (HEADS + KEYS) * HEAD],
        "v": fused[(HEADS + KEYS) * HEAD :],
        "o": weights[f"{prefix}attention.dense.weight"],
        "q norm": weights[f"{prefix}attention.query_layernorm.weight"],
        "k norm": weights[f"{prefix}attention.key_layernorm.weight"],
        "norm 2": weights[f"{prefix}post_attention_layernorm.weight"],
        "mlp": _experts(weights, f"{prefix}mlp.")
        if f"{prefix}mlp.gate.weight" in weights
        else _network(weights, f"{prefix}mlp."),
    }


def _network(weights: Mapping[str, Tensor], prefix: str) -> Callable[[Tensor], Tensor]:
    return plain.gated(*(weights[f"{prefix}{part}_proj.weight"] for part in ("gate", "up", "down")))


def _experts(weights: Mapping[str, Tensor], prefix: str) -> Callable[[Tensor], Tensor]:
    """The expert that all share, and 3 of 12, from the 2 of 4 groups whose two best have the largest sum."""
    networks = [_network(weights, f"{prefix}experts.{n}.") for n in range(12)]
    shared = _network(weights, f"{prefix}shared_experts.")

    def of_one(x: Tensor) -> Tensor:
        affinity = torch.sigmoid(weights[f"{prefix}gate.weight"] @ x)
        groups = (affinity + weights[f"{prefix}gate.expert_bias"]).view(4, 3)
        best = groups.sort(descending=True).values[:, :2].sum(1).argsort(descending=True)[:2].tolist()
        candidates = [(float(groups[g, n]), 3 * g + n) for g in best for n in range(3)]
        chosen = [n for _, n in sorted(candidates, reverse=True)[:3]]
        total = sum(affinity[n] for n in chosen)
        return shared(x) + sum(2.5 * affinity[n] / total * networks[n](x) for n in chosen)

    return lambda x: torch.stack([of_one(token) for token in x])


@pytest.fixture(scope="module")
def core(pulled):
    return open_core(pulled("llada2"))


@pytest.mark.parametrize("prompts", [[32], [64, 288, 32]], ids=["alone", "in a batch"])
def test_log_p_after_whole_blocks_is_that_of_the_published_forward_pass(core, weights, prompts):
    assert max(gaps(core, published(weights, grid=0), prompts, BLOCK).values()) <= TOLERANCE


def test_log_p_after_other_prompts_is_that_of_a_grid_that_ends_at_the_canvas(core, weights):
    prompts = [7, 41, 13]
    assert max(gaps(core, published(weights, grid=None), prompts, BLOCK).values()) <= TOLERANCE


def test_the_core_is_a_masked_model_with_blocks_that_ends_turns(pulled):
    spec = spec_of(pulled("llada2"))
    assert (spec.process, spec.attention, spec.shift) == ("masked", "block-causal", False)
    assert (spec.constants, spec.block_size, spec.context) == ({"mask_id": MASK, "t_min": 0.001}, BLOCK, 512)
    assert (spec.begin, spec.ends, spec.suppressed) == (BEGIN, (END, TURN), NEVER)
    assert (spec.format, spec.late_ends) == ("chat", False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score_function", "softmax"),
        ("norm_topk_prob", False),
        ("use_qk_norm", False),
        ("use_qkv_bias", True),
        ("use_bias", True),
        ("moe_router_enable_expert_bias", False),
        ("rotary_dim", 12),
        ("use_sliding_window", True),
        ("n_group", None),
    ],
)
def test_a_config_that_is_no_llada2_is_refused_by_the_key_that_says_so(key, value):
    with pytest.raises(SsdError, match=repr(key)):
        LLADA2.native({**CONFIG, key: value})


def test_a_mask_that_no_file_names_is_the_published_one_where_there_is_a_row_for_it():
    nameless = Vocabulary(TURN + 1, end=END)
    assert LLADA2.spec({**CONFIG, "vocab_size": 157184}, nameless).constants == {"mask_id": 156895}
    with pytest.raises(SsdError, match="names a mask among the 312 embeddings"):
        LLADA2.spec(CONFIG, nameless)


def test_a_row_of_a_batch_is_its_single_run_bit_for_bit(core):
    assert row_gaps(core, [40, 12, 25], BLOCK) == [0, 0, 0]


def test_only_its_own_class_is_known():
    assert recognise(CONFIG, WORDS) is LLADA2
    with pytest.raises(SsdError, match=r"BailingMoeV2ForCausalLM.*not a language model that ssd knows"):
        recognise({**CONFIG, "architectures": ["BailingMoeV2ForCausalLM"]}, WORDS)
