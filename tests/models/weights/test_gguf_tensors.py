"""The tensors of a GGUF file under native names: the numbers that gguf itself reads, a few rows at a time."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from safetensors.torch import load_file

from ssdcli.errors import SsdError
from ssdcli.models.weights import gguf_header, gguf_tensors
from ssdcli.models.weights.gguf_header import GgufTensor, block_of
from ssdcli.models.weights.gguf_tensors import GgufSpan, read_gguf
from ssdcli.models.weights.safetensors_stream import FileSpan, write_safetensors
from tests.ggufs import KINDS, add_metadata, add_tensor, finish, original, write_gguf
from tests.ggufs import gguf_tensors as tensors_of

QUANTISED = [kind for kind in GGMLQuantizationType if (block_of(kind) or (1,))[0] > 1]


def blocks(kind: GGMLQuantizationType, rows: int, width: int) -> np.ndarray:
    """Random bytes for a matrix of this type."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    return np.random.default_rng(0).integers(0, 256, (rows, width // elements * size), np.uint8)


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_quantisation_is_dequantised_as_gguf_does_it(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(gguf_tensors, "_PIECE", 4 * 256 * 3)  # three rows at a time
    data = blocks(kind, 10, 256)
    (tmp_path / "x").write_bytes(bytes(32) + data.tobytes())
    span = GgufSpan(tmp_path / "x", GgufTensor("a", (10, 256), kind, 32, data.nbytes), torch.float32)
    pieces = [bytes(piece) for piece in span.pieces()]
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(data, kind)
    assert len(pieces) == 4
    assert b"".join(pieces) == expected.tobytes()


def test_a_part_of_a_tensor_is_that_part_of_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_tensors, "_PIECE", 4 * 64)
    data = blocks(GGMLQuantizationType.Q8_0, 6, 64)
    (tmp_path / "x").write_bytes(data.tobytes())
    span = GgufSpan(tmp_path / "x", GgufTensor("a", (6, 64), 8, 0, data.nbytes), torch.bfloat16)
    whole = b"".join(map(bytes, span.pieces()))
    assert b"".join(map(bytes, span.part(100, 500).part(50, 300).pieces())) == whole[150:400]


def test_a_file_that_became_shorter_is_named(tmp_path):
    (tmp_path / "x").write_bytes(bytes(100))
    span = GgufSpan(tmp_path / "x", GgufTensor("a", (6, 64), 8, 0, 6 * 68), torch.float32)
    with pytest.raises(SsdError, match="x ends before"):
        list(span.pieces())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_plain_numbers_are_those_that_were_written(tmp_path, kind, dtype):
    model = write_gguf(tmp_path / "x.gguf", kind, dtype)
    write_safetensors(tmp_path / "x.safetensors", read_gguf(tmp_path / "x.gguf", model))
    found = load_file(tmp_path / "x.safetensors")
    half = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    expected = {name: weight for name, weight in model.state_dict().items() if name not in model.all_tied_weights_keys}
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        kept = weight.to(half) if weight.ndim > 1 else weight
        if weight.ndim == 1 and kind.startswith("gemma"):
            kept = (weight + 1) - 1  # a norm is written with one added
        assert torch.equal(found[name], kept), name
        assert found[name].dtype == kept.dtype


def test_what_can_be_copied_is_not_decoded(tmp_path):
    model = write_gguf(tmp_path / "x.gguf", "llama", "F16")
    found = read_gguf(tmp_path / "x.gguf", model)
    decoded = {name for name, tensor in found.items() if not isinstance(tensor.spans[0], FileSpan)}
    assert decoded == {
        f"model.layers.{n}.self_attn.{part}_proj.weight" for n in range(2) for part in "qk"
    }  # whose rows are in another order


def test_large_files_are_stored_in_bfloat16(tmp_path, monkeypatch):
    model = write_gguf(tmp_path / "x.gguf", "llama", "Q4_1")
    monkeypatch.setattr(gguf_header, "EXACT", 1000)
    found = read_gguf(tmp_path / "x.gguf", model)["model.layers.0.mlp.up_proj.weight"]
    exact = next(t for t in GGUFReader(tmp_path / "x.gguf").tensors if t.name == "blk.0.ffn_up.weight")
    rounded = torch.from_numpy(gguf.dequantize(exact.data, exact.tensor_type)).bfloat16()
    assert found.dtype == "BF16"
    assert b"".join(map(bytes, found.pieces())) == rounded.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", ["blk.0.ffn_gate_exps.weight", "model.norm.weight", "blk.7.attn_norm.weight", "x"])
def test_a_tensor_without_a_place_in_the_model_is_named(tmp_path, name):
    model = original("llama")
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    add_metadata(writer, model)
    for key, weight in (*tensors_of(model).items(), (name, np.zeros((64,), np.float32))):
        add_tensor(writer, key, weight, "F32")
    finish(writer)
    with pytest.raises(SsdError, match=f"a tensor '{name}', which has no place in a LlamaForCausalLM"):
        read_gguf(tmp_path / "x.gguf", model)


def test_what_is_undone_is_what_transformers_undoes():
    legacy = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    for architecture, changes in gguf_tensors.CHANGES.items():
        assert (architecture in legacy.TENSOR_PROCESSORS) == bool(changes), architecture
