"""Rotary embeddings turn by the angles that transformers computes, in every scaled form that is packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ssdcli.models.backbones.rotary import Rotary
from ssdcli.models.packable import ROTATIONS, is_packable

WIDTH = 64
FORMS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 8.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 256,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
        "truncate": False,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 1.3},
    {
        "rope_type": "longrope",
        "factor": 1.0,
        "short_factor": [1.0 + i / 8 for i in range(WIDTH // 2)],
        "long_factor": [1.0 + i / 8 for i in range(WIDTH // 2)],
        "original_max_position_embeddings": 4096,
        "attention_factor": 1.1,
    },
]


def config_of(form: dict[str, Any]) -> Any:
    told = {"rope_theta": 10000.0, **form}
    sizes = {"hidden_size": 2 * WIDTH, "num_attention_heads": 2, "max_position_embeddings": 4096}
    return AutoConfig.for_model("llama", **sizes, rope_parameters=told, architectures=["LlamaForCausalLM"])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form["rope_type"])
def test_positions_turn_as_in_transformers(form):
    config = config_of(form)
    native, positions = LlamaRotaryEmbedding(config), torch.tensor([[0, 1, 7, 300, 4095], [5, 6, 7, 8, 9]])
    cos, sin = native(torch.empty(0), positions)
    found = Rotary.of(config.rope_parameters, WIDTH)(positions, torch.float32)
    signed = torch.cat([-sin[..., : WIDTH // 2], sin[..., WIDTH // 2 :]], dim=-1)
    torch.testing.assert_close(found[0][:, :, 0], cos, atol=5e-4, rtol=0)  # angles are of up to 4095 radians
    torch.testing.assert_close(found[1][:, :, 0], signed, atol=5e-4, rtol=0)


def test_every_form_that_is_packed_is_tested():
    assert {form["rope_type"] for form in FORMS} == set(ROTATIONS)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])  # the latter with other factors for long texts
def test_angles_that_depend_on_the_text_are_left_to_transformers(kind):
    plain = config_of(FORMS[0]).to_dict()
    assert is_packable(plain)
    assert not is_packable({**plain, "rope_parameters": {"rope_type": kind, "factor": 2.0}})
    old = {key: value for key, value in plain.items() if key != "rope_parameters"}
    assert not is_packable({**old, "rope_scaling": {"type": kind, "factor": 2.0}})
