"""A core follows its allocation: layers wait on disk, weights have fewer bits, and what it says is what it said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import OutOfMemory
from ssdcli.machine.hardware import Hardware
from ssdcli.machine.placement import Allocation, Need, Placement
from ssdcli.models import core_checkpoint, native_checkpoint
from ssdcli.models.backbones.causal import PackedCausalBackbone
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from ssdcli.models.backbones.packed_linear import IN_16_BITS, PACKINGS
from ssdcli.models.core_checkpoint import load_core, packing_for
from ssdcli.models.weights.blueprint import blueprint, parameters
from ssdcli.models.weights.pretrained import DISK, ModelPart, arguments, need_of, parts, rooms, spread
from ssdcli.models.weights.stored import kept_dtype, stored_dtype
from ssdcli.registry.manifest import read_manifest, write_manifest
from tests.models.native_checkpoints import GLM4_MOE, LLAMA, QWEN2, ROBERTA
from tests.pulled import write_core
from tests.tiny import BLOCK, CONSTANTS, VOCABULARY

MACHINE = Hardware(cores=2, memory=1 << 34, free=1 << 33, bfloat16=True)
WIDE = {**LLAMA, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}  # nf4 is for multiples of 64 on CPUs


def denoiser(folder: Path, placement: Placement) -> Denoiser:
    process = read_manifest(folder).process
    backbone = load_core(folder, placement, None)
    return FullDenoiser(backbone, make_process(process, VOCABULARY, CONSTANTS[process]))


def said(one: Denoiser, rows: int = 2) -> torch.Tensor:
    texts = [[1, 2, 3, 4], [9, 8, 7, 6]][:rows]
    noise = CounterNoise(range(rows))
    tokens = torch.arange(2 * BLOCK).view(2, BLOCK)[:rows]
    canvas = one.process.corrupt(tokens, torch.full((rows, BLOCK), 0.6), noise)
    return one.denoise(canvas, 0.6, None, one.start([Prompt(text) for text in texts]))


@pytest.mark.parametrize("native", [LLAMA, QWEN2, GLM4_MOE, ROBERTA], ids=lambda native: native["model_type"])
def test_parts_count_every_parameter_once(native):
    twin = blueprint(native)
    need = need_of(twin, "bfloat16", BLOCK)
    assert need.parameters == parameters(twin) == sum(part.parameters for part in parts(twin))
    assert need.pinned + 2 * need.layer >= need.parameters > need.pinned + need.layer
    assert need.predictions == 40 * 8


def test_experts_and_embeddings_are_never_of_8_or_4_bits():
    need = need_of(blueprint(GLM4_MOE), "bfloat16", BLOCK)
    dense = need_of(blueprint(LLAMA), "bfloat16", BLOCK)
    assert dense.linear == sum(m.weight.numel() for m in blueprint(LLAMA).model.modules() if hasattr(m, "in_features"))
    assert need.linear < need.parameters - need.pinned - 11 * 3 * 16 * 32


def test_only_what_can_be_divided_is_shared_by_processes():
    assert need_of(blueprint(LLAMA), "bfloat16", BLOCK).divisible
    assert not need_of(blueprint(ROBERTA), "bfloat16", BLOCK).divisible


def test_the_stored_dtype_is_that_of_most_numbers(tmp_path):
    assert stored_dtype(write_core(tmp_path / "half", LLAMA)) == "bfloat16"
    assert stored_dtype(write_core(tmp_path / "whole", LLAMA, dtype=torch.float32)) == "float32"


def test_what_had_fewer_bits_in_a_gguf_is_kept_in_16(tmp_path):
    folder = write_core(tmp_path, LLAMA, dtype=torch.float32)
    assert kept_dtype(folder) == "float32"
    write_manifest(folder, replace(read_manifest(folder), source="small.gguf@sha256:0"))
    assert kept_dtype(folder) == "bfloat16"


@pytest.mark.parametrize(("dtype", "kind"), [("float32", NativeCausalBackbone), ("int8", PackedCausalBackbone)])
def test_a_causal_core_is_packed_unless_it_is_asked_for_in_full(tmp_path, dtype, kind):
    folder = write_core(tmp_path, LLAMA, attention="autoregressive", shift=True)
    assert type(load_core(folder, Placement(dtype, device="cpu"), None)) is kind


def test_weights_are_packed_twice_only_where_there_is_room():
    tight = Allocation("bfloat16", "bfloat16", ("cpu",), bytes=100, free=149)
    assert packing_for(tight) is IN_16_BITS
    assert packing_for(replace(tight, free=150)) is PACKINGS["bfloat16"]
    assert packing_for(replace(tight, dtype="int4")) is PACKINGS["int4"]


@pytest.mark.parametrize("process", ["masked", "simplex"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("native", [LLAMA, QWEN2], ids=lambda native: native["model_type"])
def test_a_core_whose_layers_wait_on_disk_says_the_same(tmp_path, monkeypatch, native, dtype, process):
    folder = write_core(tmp_path, native, process)
    whole = denoiser(folder, Placement(dtype, "cpu"))
    need = need_of(blueprint({**native, "vocab_size": VOCABULARY}), "bfloat16", BLOCK)
    for module in (core_checkpoint, native_checkpoint):
        monkeypatch.setattr(module, "look", lambda: replace(MACHINE, free=need.resident(dtype) + 1))
    with pytest.raises(OutOfMemory, match="--offload"):
        denoiser(folder, Placement(dtype, "cpu"))
    split = denoiser(folder, Placement(dtype, "cpu", offload=True))
    places = split.backbone.model.hf_device_map
    assert DISK in places.values()
    assert all(places[name] == "cpu" for name in places if ".layers." not in name)
    assert split.backbone.model.model.layers[-1].mlp.up_proj.weight.device.type == "meta"
    assert torch.equal(said(split), said(whole))


def test_a_core_of_several_devices_fills_one_after_the_other():
    layers = [ModelPart(f"layers.{i}", True, 100, 0, None) for i in range(5)]
    parts = [
        ModelPart("embed", False, 0, 50, None),
        *layers,
        ModelPart("head", False, 0, 50, None),
        ModelPart("again", True, 0, 0, "head"),
    ]
    places = spread(parts, {"cuda:0": 500, "cuda:1": 700, "disk": 10**9}, "bfloat16")
    assert [places[part.name] for part in layers] == ["cuda:0", "cuda:1", "cuda:1", "cuda:1", "disk"]
    assert {places[name] for name in ("embed", "head", "again")} == {"cuda:0"}
    with pytest.raises(OutOfMemory, match=r"layers\.4"):
        spread(parts, {"cuda:0": 500, "cuda:1": 700}, "bfloat16")


def test_no_device_is_filled_without_room_to_work():
    need = Need(10**6, 0, 10**4, 10**5, "bfloat16", 1000)
    allocation = Allocation("bfloat16", "bfloat16", ("cpu",), 1, 2, offloads=True)
    left = rooms(allocation, need, MACHINE)
    assert list(left) == ["cpu", DISK]
    assert left["cpu"] <= MACHINE.free - need.working - 2 * need.layer


def test_processes_divide_a_core_by_transformers_own_plan():
    twin = blueprint(LLAMA)
    need, two = need_of(twin, "bfloat16", BLOCK), replace(MACHINE, processes=2)
    told = arguments(Placement("float32").allocate(need, two), need, twin, two)
    assert told["distributed_config"].tp_plan == "auto"
    assert "device_map" not in told


@pytest.mark.parametrize(("dtype", "bound"), [("int8", 0.002), ("int4", 0.1)])
def test_fewer_bits_change_little_and_no_row_by_another(tmp_path, caplog, dtype, bound):
    pytest.importorskip("bitsandbytes")
    caplog.clear()
    folder = write_core(tmp_path, WIDE)
    exact = said(denoiser(folder, Placement("float32", "cpu")))
    few = denoiser(folder, Placement(dtype, "cpu"))
    near = said(few)
    text = exact.exp() > 0
    assert 0 < (exact.exp() * (exact - near))[text].sum() / (2 * BLOCK) < bound
    assert torch.equal(said(few, rows=1)[0], near[0])
    model = few.backbone.model
    assert {model.get_input_embeddings().weight.dtype, model.lm_head.weight.dtype} == {torch.bfloat16}
    stored = sum(weight.nbytes for weight in model.model.layers.state_dict().values())
    assert stored < 0.8 * sum(2 * weight.numel() for weight in blueprint(WIDE).model.layers.parameters())
    assert not caplog.records
