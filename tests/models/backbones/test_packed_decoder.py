"""Packed layers say what transformers' own say, and matrices are packed as exactly as their form allows."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.models.backbones import packed_linear
from ssdcli.models.backbones.causal import PackedCausalBackbone
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.backbones.packed_decoder import Weights
from ssdcli.models.backbones.packed_linear import (
    FEW,
    GROUP,
    PACKINGS,
    TOGETHER,
    ByLength,
    Int4Packed,
    Matrix,
    PackedLinear,
    Packing,
    PlainLinear,
    Update,
    WideLinear,
    pack_bfloat16,
    pack_by_length,
    pack_int4,
    pack_int8,
)
from ssdcli.models.families.causal import CAUSAL_CLASSES
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.packable import is_packable
from tests.models.families.causal import BEGIN, CONTEXT, END, MODEL_TYPES, SPECIALS, TOKENS, WINDOW, config_of
from tests.models.families.checkpoints import WORDS

PACKABLE = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma3_text", "gemma3")
LENGTH = WINDOW + 16


def _plain(matrix: Matrix) -> PackedLinear:
    return PlainLinear(matrix.weight, matrix.bias)


EXACT = Packing(_plain, _plain, torch.float32)
VOCABULARY = Vocabulary(TOKENS, dict(zip(SPECIALS, range(WORDS, TOKENS), strict=True)), begin=BEGIN, end=END)


@cache
def _model(kind: str) -> tuple[Any, Any]:
    """A tiny model of a class with random weights in float32, and how it is run."""
    entry = next(entry for entry in CAUSAL_CLASSES if entry.model_type == kind)
    native = entry.native(config_of(kind))
    torch.manual_seed(1)
    config = AutoConfig.for_model(**native)
    model: Any = native_class_of(native).model._from_config(config, attn_implementation="sdpa")
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval().requires_grad_(False), entry.spec(config_of(kind), VOCABULARY)


def _pair(kind: str, packing: Packing = EXACT) -> tuple[NativeCausalBackbone, PackedCausalBackbone]:
    model, spec = _model(kind)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    packed = PackedCausalBackbone(config, Weights(model.state_dict().get, packing), spec)
    return NativeCausalBackbone(model, spec), packed


def _tokens(rows: int = 2) -> tuple[Tensor, Tensor]:
    """Token ids and positions, (rows, LENGTH)."""
    ids = torch.randint(0, WORDS, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    return ids, torch.arange(LENGTH).expand(rows, -1)


def test_the_classes_that_fit_are_packed_and_no_others():
    entries = {entry.model_type: entry for entry in CAUSAL_CLASSES}
    natives = {kind: entries[kind].native(config_of(kind)) for kind in MODEL_TYPES}
    assert tuple(kind for kind in MODEL_TYPES if is_packable(natives[kind])) == PACKABLE
    assert tuple(k for k in MODEL_TYPES if is_packable(AutoConfig.for_model(**natives[k]).to_dict())) == PACKABLE


@pytest.mark.parametrize("kind", PACKABLE)
def test_whole_texts_are_read_as_by_transformers(kind):
    native, packed = _pair(kind)
    ids, positions = _tokens()
    expected = native.logits(native.encode(native.embed(ids), positions, None, None))
    found = packed.logits(packed.encode(packed.embed(ids), positions, None, None))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("parts", [(30, 1, 1, 8), (8, 32), (1, 39)])
def test_a_text_written_in_parts_is_read_as_at_once(kind, parts):
    _, packed = _pair(kind)
    ids, positions = _tokens()
    embedded = packed.embed(ids)
    whole = packed.encode(embedded, positions, None, None)
    grown = packed.extend(embedded[:, : parts[0]], positions[:, : parts[0]], None, packed.new_cache())
    kept, found, done = grown.spaced(LENGTH), [grown.tail[0]], parts[0]
    for count in parts[1:]:
        found.append(packed.write(embedded[:, done : done + count], positions[:, done : done + count], kept, done))
        done += count
    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", PACKABLE)
def test_padding_on_the_left_changes_nothing(kind):
    native, packed = _pair(kind)
    ids, positions = _tokens(1)
    pad = 5
    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    mask[..., :pad] = False
    shifted = (positions - pad).clamp(min=0)
    expected = native.encode(native.embed(ids), shifted, mask, None)
    found = packed.encode(packed.embed(ids), shifted, mask, None)
    torch.testing.assert_close(found[:, pad:], expected[:, pad:], atol=1e-4, rtol=1e-5)


def test_states_of_tapped_layers_follow_the_last_ones():
    model, _ = _model("llama")
    _, packed = _pair("llama")
    ids, positions = _tokens(1)
    expected = model.base_model(ids, output_hidden_states=True).hidden_states
    plain = packed.encode(packed.embed(ids), positions, None, None)
    packed.taps = (3, 0)
    tapped = packed.encode(packed.embed(ids), positions, None, None)
    torch.testing.assert_close(tapped, torch.cat([expected[4], expected[3], expected[0]], -1), atol=1e-4, rtol=1e-5)
    assert torch.equal(packed.logits(tapped), packed.logits(plain))


@pytest.mark.parametrize("dtype", list(PACKINGS))
def test_packed_weights_predict_about_what_exact_ones_do(dtype):
    native, packed = _pair("qwen2", PACKINGS[dtype])
    ids, positions = _tokens()
    expected = native.logits(native.encode(native.embed(ids), positions, None, None))
    found = packed.logits(packed.encode(packed.embed(ids), positions, None, None))
    spoken = ~expected.isinf()
    away = (found - expected)[spoken].norm() / expected[spoken].norm()
    assert away < {"bfloat16": 0.05, "int8": 0.1, "int4": 0.6}[dtype]
    assert found.dtype == torch.float32


def test_a_core_tells_whether_its_layers_are_read_in_16_bits():
    found = {dtype: _pair("qwen2", packing)[1].in_16_bits for dtype, packing in PACKINGS.items()}
    assert found == {"bfloat16": has_fast_bf16(), "int8": False, "int4": False}


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_cpu_that_is_slow_at_bfloat16_multiplies_in_float32(rows):
    weight, bias = _matrix(1100).bfloat16(), _matrix(1100)[:, 0].bfloat16()
    found = WideLinear(weight, bias)(_x(rows, 96))
    exact = torch.nn.functional.linear(_x(rows, 96).double(), weight.double(), bias.double())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, atol=0.01, rtol=0.005)  # once rounded


def test_a_cpu_that_is_slow_at_bfloat16_gives_few_tokens_what_each_is_alone():
    layer = WideLinear(_matrix(1100), None, few=TOGETHER)
    assert layer.is_same_beside(96, torch.bfloat16)
    assert PackedLinear.is_same_beside(layer, 96, torch.bfloat16)


def test_scores_of_some_ids_are_those_without_packing():
    native, packed = _pair("gemma3_text")
    hidden, ids = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1, 7])
    torch.testing.assert_close(packed.scores_of(hidden, ids), native.scores_of(hidden, ids), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", list(PACKINGS))
@pytest.mark.parametrize("length", [1, 4, 8, 40])
def test_packed_predictions_are_the_same_on_any_number_of_threads(dtype, length):
    _, packed = _pair("qwen2", PACKINGS[dtype])
    ids, positions = _tokens()
    embedded, found, before = packed.embed(ids[:, :length]), [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(packed.logits(packed.encode(embedded, positions[:, :length], None, None)))
    finally:
        torch.set_num_threads(before)
    assert packed.same_on_any_threads
    assert torch.equal(*found)


def _x(rows: int, width: int) -> Tensor:
    return torch.randn(1, rows, width, generator=torch.Generator().manual_seed(rows)).bfloat16()


def _matrix(out: int = 64, width: int = 96) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(0))


def _on_grid(out: int = 64, width: int = 96) -> Tensor:
    """Weights as 4 bits hold them: each group of a row on a grid of its own, whose ends are used."""
    levels = torch.randint(0, 16, (out, width // GROUP, GROUP), generator=torch.Generator().manual_seed(0)).float()
    levels[..., 0], levels[..., 1] = 0, 15
    steps = torch.rand(out, width // GROUP, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    return (levels * steps - 7 * steps).view(out, width)


@pytest.mark.parametrize("pack", [_plain, pack_bfloat16, pack_int8, pack_int4])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_what_follows_a_product_is_what_it_would_be_after_it(pack, rows):
    weight, bias = _on_grid().bfloat16(), _matrix()[:, 0].bfloat16()
    layer: PackedLinear = pack(Matrix([weight], bias))
    x, other = _x(rows, 96), _x(rows, 64)
    y = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    near = {"atol": 0.05 * float(y.abs().max()), "rtol": 0.02}
    torch.testing.assert_close(layer(x).float(), y, **near)
    torch.testing.assert_close(layer.activated(x, "silu").float(), torch.nn.functional.silu(y), **near)
    gelu = torch.nn.functional.gelu(y, approximate="tanh")
    torch.testing.assert_close(layer.activated(x, "gelu_pytorch_tanh").float(), gelu, **near)
    torch.testing.assert_close(layer.plus(x, other).float(), y + other, **near)
    torch.testing.assert_close(layer.times(x, other).float(), y * other, **near)


@pytest.mark.parametrize("width", [3, 24, 40])
def test_what_the_kernel_of_8_bits_would_misread_is_kept_in_16(width):
    weight = _matrix(64, width)
    layer = pack_int8(Matrix([weight]))
    assert type(layer) is type(pack_bfloat16(Matrix([weight])))  # before it is called, which might crash
    y = _x(3, width).float() @ weight.T
    torch.testing.assert_close(layer(_x(3, width)).float(), y, atol=0.02 * float(y.abs().max()), rtol=0.02)


def test_weights_that_came_from_4_bits_are_read_in_4_bits_over_a_few_tokens_alone():
    grid, free = pack_by_length(Matrix([_on_grid()])), pack_by_length(Matrix([_matrix()]))
    assert isinstance(grid, ByLength)
    assert not isinstance(free, ByLength)
    few, many = Int4Packed(Matrix([_on_grid()])), pack_bfloat16(Matrix([_on_grid()]))
    assert torch.equal(grid(_x(FEW, 96)), few(_x(FEW, 96)))
    assert torch.equal(grid(_x(FEW + 1, 96)), many(_x(FEW + 1, 96)))


def test_layers_read_as_one_are_packed_as_they_are_alone_and_in_4_bits_only_if_all_came_from_them():
    grids = _on_grid().split([32, 16, 16])
    both, whole = pack_by_length(Matrix(grids)), pack_by_length(Matrix([_on_grid()]))
    assert torch.equal(both(_x(1, 96)), whole(_x(1, 96)))
    for free in range(3):
        parts = [_matrix(len(grid)) if place == free else grid for place, grid in enumerate(grids)]
        assert not isinstance(pack_by_length(Matrix(parts)), ByLength)


def test_16_bits_are_made_when_a_longer_pass_first_reads_them(monkeypatch):
    made = []
    monkeypatch.setattr(packed_linear, "pack_bfloat16", lambda matrix: made.append(matrix) or pack_bfloat16(matrix))
    layer = pack_by_length(Matrix([_on_grid()]))
    layer(_x(FEW, 96))
    assert not made
    for _ in range(2):
        layer(_x(FEW + 1, 96))
    assert len(made) == 1


def _update(out: int = 64, width: int = 96, rank: int = 5) -> Update:
    return Update(0.1 * _matrix(rank, width), 0.5 * _matrix(out, rank))


@pytest.mark.parametrize("rank", [1, 16, 21])
def test_an_adapter_leaves_a_grid_of_4_bits_as_it_is(rank):
    update = _update(rank=rank)
    exact = _x(FEW, 96).float() @ update.added_to(_on_grid()).T
    for pack in (pack_by_length, pack_int4):
        layer = pack(Matrix([_on_grid()], None, update))
        assert (layer(_x(FEW, 96)).float() - exact).norm() < 0.01 * exact.norm()
    swallowed = Int4Packed(Matrix([update.added_to(_on_grid())]))(_x(FEW, 96)).float()
    assert (swallowed - exact).norm() > 0.015 * exact.norm()


def test_longer_passes_and_other_weights_have_it_added():
    update = _update()
    for weight, rows in ((_on_grid(), FEW + 1), (_matrix(), 1)):
        x = _x(rows, 96)
        assert torch.equal(
            pack_by_length(Matrix([weight], None, update))(x), pack_bfloat16(Matrix([update.added_to(weight)]))(x)
        )


def test_beside_an_adapter_a_row_is_bit_for_bit_what_it_is_alone():
    layer = pack_int4(Matrix([_on_grid()], None, _update()))
    assert layer.is_same_beside(96, torch.bfloat16)


def test_layers_that_are_one_have_an_update_each():
    first, third = _update(64), _update(32, rank=3)
    both = Update.beside([first, None, third], [64, 16, 32])
    assert both is not None
    weight = _matrix(64 + 16 + 32)
    parts = weight.split([64, 16, 32])
    expected = torch.cat([first.added_to(parts[0]), parts[1], third.added_to(parts[2])])
    torch.testing.assert_close(both.added_to(weight), expected)
    assert Update.beside([None, None], [64, 16]) is None


def test_4_bits_hold_weights_of_a_grid_as_well_as_16_do():
    exact = _x(4, 96).float() @ _on_grid().T
    errors = [(pack(Matrix([_on_grid()]))(_x(4, 96)).float() - exact).norm() for pack in (pack_int4, pack_bfloat16)]
    assert errors[0] < 2 * errors[1]


def test_context_is_longer_than_what_is_read_here():
    assert LENGTH < CONTEXT


@pytest.mark.parametrize("dtype", list(PACKINGS))
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "smollm3"])
def test_rows_that_share_a_pass_are_bit_for_bit_what_they_are_alone(kind, dtype):
    _, packed = _pair(kind, PACKINGS[dtype])
    packed.taps, packed.shared_tokens = (2,), 32
    ids, positions = _tokens(5)
    counts, filled = (1, 4, 8, 12, 1), (3, 20, 30, 9, 1)  # the fourth is too long to share

    def parts():
        for row, (count, done) in enumerate(zip(counts, filled, strict=True)):
            embedded = packed.embed(ids[row : row + 1, : done + count])
            read = packed.extend(embedded[:, :done], positions[:1, :done], None, packed.new_cache()).spaced(count)
            yield embedded[:, done:], positions[:1, done : done + count], read, done

    alone = [(packed.write(*part), part[2]) for part in parts()]
    given = list(parts())
    together = packed.write_each(given)
    for (states, read), found, (*_, kept, _) in zip(alone, together, given, strict=True):
        assert torch.equal(found, states)
        assert all(torch.equal(a.keys, b.keys) for a, b in zip(kept.layers, read.layers, strict=True))


@pytest.mark.parametrize("dtype", list(PACKINGS))
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "smollm3"])
@pytest.mark.parametrize("before", [3, 20, 30])
def test_tokens_written_at_once_are_bit_for_bit_what_each_is_alone(kind, dtype, before):
    _, packed = _pair(kind, PACKINGS[dtype])
    packed.taps, packed.shared_tokens = (2,), 32
    if not packed.drafts_alike:
        pytest.skip("this CPU's attention sums up otherwise for other numbers of queries")
    ids, positions = _tokens(1)
    embedded = packed.embed(ids)
    read = packed.extend(embedded[:, :before], positions[:, :before], None, packed.new_cache())

    def written(size):
        kept, found = read.spaced(LENGTH - before), []
        for done in range(before, LENGTH, size):
            part = slice(done, done + size)
            found.append(packed.write(embedded[:, part], positions[:, part], kept, done))
        return torch.cat(found, dim=1)

    for size in (2, 3, 7, 16, LENGTH):  # more than may share a pass as well
        assert torch.equal(written(size), written(1))


def test_rows_share_passes_only_where_this_cpu_computes_them_alike(monkeypatch):
    _, packed = _pair("llama", EXACT)  # float32, whose products round by the number of rows
    monkeypatch.setattr(type(packed._decoder), "together", None)
    assert packed.shared_tokens == 0
    ids, positions = _tokens(2)
    embedded = packed.embed(ids)
    read = [packed.extend(embedded[[row], :20], positions[:1, :20], None, packed.new_cache()) for row in (0, 1)]
    parts = [(embedded[[row], 20:22], positions[:1, 20:22], read[row].spaced(2), 20) for row in (0, 1)]
    assert [states.shape for states in packed.write_each(parts)] == [(1, 2, 32)] * 2
