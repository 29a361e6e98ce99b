from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.llada import LLADA
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.llada import BEGIN, CONFIG, END, HEADS, KEYS, LAYERS, MASK, ROWS, SPECIALS, TURN, WIDTH
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, spec_of

WORDS = Vocabulary(TURN + 1, {text: BEGIN + n for n, text in enumerate(SPECIALS)}, begin=BEGIN, end=END, chat=True)
NEVER = (MASK, *range(TURN + 1, ROWS))


@pytest.fixture(scope="module")
def published(written) -> Published:
    weights = read_weights(written("llada"))
    shape = plain.Shape(HEADS, KEYS, WIDTH // HEADS, theta=300.0, eps=1e-3, rotated=WIDTH // HEADS)
    layers = [_layer(weights, f"model.transformer.blocks.{n}.") for n in range(LAYERS)]

    def log_p(tokens: Tensor, start: int) -> Tensor:
        x = weights["model.transformer.wte.weight"][tokens]
        hidden = plain.body(x, layers, shape, plain.everything(len(tokens)))
        normed = plain.rms_norm(hidden, weights["model.transformer.ln_f.weight"], shape.eps)
        return plain.log_p(normed, weights["model.transformer.ff_out.weight"], NEVER)

    return log_p


def _layer(weights: dict[str, Tensor], prefix: str) -> dict:
    q, k, v, o, gate, up, down, first, second = (
        weights[f"{prefix}{name}.weight"]
        for name in ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out", "attn_norm", "ff_norm")
    )
    return {"norm": first, "q": q, "k": k, "v": v, "o": o, "norm 2": second, "mlp": plain.gated(gate, up, down)}


@pytest.fixture(scope="module")
def core(pulled):
    return open_core(pulled("llada"))


@pytest.mark.parametrize("prompts", [[7], [40, 12, 25, 64]], ids=["alone", "in a batch"])
def test_log_p_is_that_of_the_published_forward_pass(core, published, prompts):
    assert max(gaps(core, published, prompts, block=16).values()) <= TOLERANCE


def test_the_core_is_a_masked_model_with_full_attention_that_ends_turns_and_reveals_ends_last(pulled):
    spec = spec_of(pulled("llada"))
    assert (spec.process, spec.attention, spec.shift) == ("masked", "full", False)
    assert (spec.constants, spec.block_size, spec.context) == ({"mask_id": MASK, "t_min": 0.001}, 32, 256)
    assert (spec.begin, spec.ends, spec.suppressed) == (BEGIN, (END, TURN), NEVER)
    assert (spec.format, spec.late_ends) == ("chat", True)


def test_a_base_model_reads_plain_text_and_has_no_late_ends():
    spec = LLADA.spec(CONFIG, replace(WORDS, chat=False))
    assert (spec.format, spec.late_ends) == ("plain", False)


def test_a_mask_that_config_does_not_name_is_read_from_the_tokenizer():
    config = {key: value for key, value in CONFIG.items() if key != "mask_token_id"}
    assert LLADA.spec(config, WORDS).constants == {"mask_id": MASK}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_type", "sequential"),
        ("layer_norm_type", "default"),
        ("activation_type", "swiglu"),
        ("rope", False),
        ("alibi", True),
        ("attention_layer_norm", True),
        ("scale_logits", True),
        ("include_qkv_bias", True),
        ("block_group_size", 2),
        ("n_heads", None),
    ],
)
def test_a_config_that_is_no_llada_is_refused_by_the_key_that_says_so(key, value):
    with pytest.raises(SsdError, match=repr(key)):
        LLADA.native({**CONFIG, key: value})


def test_masks_that_config_and_tokenizer_place_differently_are_refused():
    with pytest.raises(SsdError, match=f"{MASK + 1}.*{MASK}"):
        LLADA.spec({**CONFIG, "mask_token_id": MASK + 1}, WORDS)


def test_other_classes_of_the_same_model_type_are_not_known():
    assert recognise(CONFIG, WORDS) is LLADA
    with pytest.raises(SsdError, match=r"LLaDAVModelLM.*not a language model that ssd knows"):
        recognise({**CONFIG, "architectures": ["LLaDAVModelLM"]}, WORDS)


def test_nothing_of_remote_code_is_carried_over():
    assert not {"auto_map", "AutoConfig"} & set(LLADA.native(CONFIG))
    assert torch.tensor(LLADA.spec(CONFIG, WORDS).suppressed).max() < ROWS
