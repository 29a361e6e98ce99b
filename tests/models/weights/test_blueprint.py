from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from ssdcli.errors import SsdError
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.weights.blueprint import blueprint, check, parameters, wanted
from ssdcli.models.weights.safetensors_stream import StoredTensor, read_safetensors
from tests.models.native_checkpoints import GLM4_MOE, LLAMA, QWEN2, ROBERTA, SIZES, random_state

DIFFUSION_GEMMA = {
    "model_type": "diffusion_gemma",
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "text_config": {
        **SIZES,
        "layer_types": ["sliding_attention", "full_attention"],
        "per_layer_config": {},
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
    },
    "vision_config": {
        **dict.fromkeys(("hidden_size", "intermediate_size", "position_embedding_size"), 16),
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
}
EVERY = [LLAMA, QWEN2, GLM4_MOE, ROBERTA, DIFFUSION_GEMMA]


def header(shape, dtype="BF16") -> StoredTensor:
    return StoredTensor(dtype, tuple(shape), 0, ())


def headers(model) -> dict[str, StoredTensor]:
    """What a checkpoint's files say that stores tied tensors once."""
    state = model.state_dict()
    return {name: header(state[name].shape) for name in state if name not in model.all_tied_weights_keys}


@pytest.mark.parametrize("native", EVERY, ids=lambda native: native["model_type"])
def test_a_module_takes_no_memory_and_counts_its_parameters_as_transformers_does_tied_ones_once(native):
    model = blueprint(native)
    assert all(weight.device.type == "meta" for weight in model.parameters())
    whole = native_class_of(native).model(AutoConfig.for_model(**native))
    whole.tie_weights()
    assert parameters(model) == sum(weight.numel() for weight in whole.parameters())


@pytest.mark.parametrize("native", EVERY, ids=lambda native: native["model_type"])
def test_a_checkpoint_passes_with_its_tied_tensors_stored_once_under_any_of_their_names_or_under_all(native):
    model = blueprint(native)
    found = headers(model)
    check(model, found)
    check(model, {name: header(weight.shape) for name, weight in model.state_dict().items()})
    for name, source in model.all_tied_weights_keys.items():
        check(model, {name if key == source else key: value for key, value in found.items()})


@pytest.mark.parametrize("native", EVERY, ids=lambda native: native["model_type"])
def test_any_tensor_that_is_missing_is_named_with_its_shape(native):
    model = blueprint(native)
    found = headers(model)
    for name, tensor in found.items():
        with pytest.raises(SsdError, match=r"contradicts the weights: \S+ should be .* and is missing") as caught:
            check(model, {key: value for key, value in found.items() if key != name})
        missing = caught.value.problem.partition(": ")[2].split()[0]
        assert name in (missing, model.all_tied_weights_keys.get(missing))
        assert str(tensor.shape) in caught.value.problem


def test_a_tensor_of_another_shape_is_named_with_both():
    model = blueprint(LLAMA)
    wrong = {"model.layers.1.mlp.up_proj.weight": header((47, 32))}
    with pytest.raises(
        SsdError, match=r"model\.layers\.1\.mlp\.up_proj\.weight should be of shape \(48, 32\), and is of \(47, 32\)"
    ):
        check(model, headers(model) | wrong)


def test_a_tied_tensor_of_another_shape_is_refused_too():
    model = blueprint(QWEN2)
    with pytest.raises(SsdError, match=r"lm_head\.weight should be of shape \(40, 32\), and is of \(41, 32\)"):
        check(model, headers(model) | {"lm_head.weight": header((41, 32))})


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias", "other"])
def test_a_tensor_without_a_place_is_named_with_its_shape_and_the_class(name):
    model = blueprint(LLAMA)
    with pytest.raises(SsdError, match=rf"{name}, of shape \(48,\), has no place in a LlamaForCausalLM"):
        check(model, headers(model) | {name: header((48,))})


@pytest.mark.parametrize("dtype", ["I8", "I32", "U8", "BOOL", "F8_E4M3"])
def test_whole_numbers_and_scaled_ones_are_refused_where_weights_are_expected(dtype):
    model = blueprint(LLAMA)
    with pytest.raises(SsdError, match=rf"model\.norm\.weight should hold floating-point numbers, and holds {dtype}"):
        check(model, headers(model) | {"model.norm.weight": header((32,), dtype)})


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_every_common_precision_passes(dtype):
    model = blueprint(LLAMA)
    check(model, {name: header(tensor.shape, dtype) for name, tensor in headers(model).items()})


def test_what_transformers_passes_over_is_passed_over_and_not_wanted():
    model = blueprint(LLAMA)
    found = headers(model)
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": header((4,)), "model.position_ids": header((1, 9), "I64")}
    check(model, found | old)
    assert list(wanted(model, old | found)) == list(found)


def test_a_tied_tensor_is_wanted_only_where_it_differs_from_its_source(tmp_path):
    model = blueprint(QWEN2)
    state = random_state(QWEN2, torch.float32)
    head = state["model.embed_tokens.weight"].clone()
    save_file(state | {"lm_head.weight": head}, tmp_path / "same.safetensors")
    assert wanted(model, read_safetensors(tmp_path / "same.safetensors")).keys() == state.keys()
    head[-1, -1] += 1
    save_file(state | {"lm_head.weight": head}, tmp_path / "other.safetensors")
    assert "lm_head.weight" in wanted(model, read_safetensors(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "wide"},
        {"hidden_size": 30, "num_attention_heads": 0},
        {"num_hidden_layers": None},
        {"vocab_size": -1},
        {"hidden_act": "unknown"},
        {"model_type": "unheard_of"},
        {"architectures": ["UnheardOf"]},
        {"architectures": None},
    ],
)
def test_a_configuration_that_describes_no_model_is_refused(change):
    with pytest.raises(SsdError, match=r"config\.json"):
        blueprint(LLAMA | change)
