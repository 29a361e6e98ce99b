from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser, denoise_sequence
from ssdcli.engine.packed import Packed
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import SsdError, UsageError
from ssdcli.models.backbones.block_diffusion import BackboneConfig
from ssdcli.models.block_diffusion_checkpoint import load_backbone, save_backbone
from ssdcli.models.initialization import Wanted, initialize
from ssdcli.training.objective import Objective
from tests.checkpoints import CAUSAL, NATIVE, write_checkpoint
from tests.packed import batch, block_ids, plain
from tests.tiny import VOCABULARY

MASK, BLOCK, T = 1, 8, 32
WANTED = Wanted(VOCABULARY, (MASK, 2), BLOCK, timed=False, self_conditioned=False, context=64)
SIMPLEX = replace(WANTED, timed=True, self_conditioned=True)
TEXT = [id for id in range(VOCABULARY) if id not in WANTED.suppressed]
KINDS = pytest.mark.parametrize("kind", list(NATIVE))


def tokens(rows: int = 2) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, T), generator=torch.Generator().manual_seed(0))


def packed(ids: Tensor) -> Packed:
    return Packed.plain(ids, block_ids(T, BLOCK, torch.zeros(len(ids), dtype=torch.int64)))


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("shift", [False, True])
@torch.no_grad()
def test_an_untrained_model_with_blocks_of_one_token_predicts_the_next_as_the_native_one(shift, kind, tmp_path):
    native, model = write_checkpoint(tmp_path, kind), initialize(tmp_path, replace(SIMPLEX, shift=shift)).eval()
    ids = tokens()
    causal = Packed.plain(ids, torch.arange(T).expand(2, T))
    level, previous = torch.rand(2, T), torch.randn(2, T, 32)
    found = model.logits(denoise_sequence(model, model.embed(ids), causal, level, previous))
    expected = native(input_ids=ids).logits
    found, expected = (found[:, 1:], expected[:, :-1]) if shift else (found, expected)
    torch.testing.assert_close(found[..., TEXT], expected[..., TEXT])


@torch.no_grad()
def test_an_untrained_model_that_sees_all_predicts_as_the_native_masked_one(tmp_path):
    native, model = write_checkpoint(tmp_path, "roberta"), initialize(tmp_path, SIMPLEX).eval()
    ids, everything = tokens(), torch.ones(2, 1, T, T, dtype=torch.bool)
    positions = torch.arange(T).expand(2, T)
    embedded = model.condition(model.embed(ids), torch.rand(2, T), torch.randn(2, T, 32))
    logits = model.logits(model.encode(embedded, positions, everything, None))
    torch.testing.assert_close(logits[..., TEXT], native(input_ids=ids).logits[..., TEXT])


@KINDS
@pytest.mark.parametrize("shift", [True, False])
@torch.no_grad()
def test_one_pass_over_all_blocks_is_denoising_them_one_by_one(kind, shift, tmp_path):
    write_checkpoint(tmp_path, kind)
    model = initialize(tmp_path, replace(WANTED, shift=shift)).eval()
    process, ids = Masked(VOCABULARY, MASK), tokens(1)
    denoiser = Denoiser(model, process)
    canvas = torch.where(torch.rand(1, T, generator=torch.Generator().manual_seed(3)) < 0.5, MASK, ids)
    hidden = denoise_sequence(model, process.embed(canvas, model), packed(ids), None)
    at_once = torch.log_softmax(model.logits(hidden), dim=-1)
    prefixes = denoiser.start([Prompt(ids[0, :BLOCK].tolist())])
    for start in range(BLOCK, T, BLOCK):
        block = slice(start, start + BLOCK)
        alone = denoiser.denoise(canvas[:, block], 0.5, None, prefixes)
        torch.testing.assert_close(alone[..., TEXT], at_once[:, block][..., TEXT], rtol=1e-4, atol=1e-4)
        prefixes = denoiser.commit(ids[:, block], prefixes)


@KINDS
def test_causal_models_keep_their_shift_and_masked_ones_have_none_unless_told(kind, tmp_path):
    write_checkpoint(tmp_path, kind)
    assert initialize(tmp_path, WANTED).shift == (kind in CAUSAL)
    assert not initialize(tmp_path, replace(WANTED, shift=False)).shift
    assert initialize(tmp_path, replace(WANTED, shift=True)).shift


@KINDS
@torch.no_grad()
def test_an_adapted_model_survives_its_folder(kind, tmp_path):
    write_checkpoint(tmp_path / "native", kind)
    model = initialize(tmp_path / "native", SIMPLEX).eval()
    save_backbone(model, tmp_path, torch.float32)
    loaded = load_backbone(tmp_path)
    assert loaded.config == model.config
    ids, mask = tokens(), torch.ones(2, 1, T, T, dtype=torch.bool)
    states = [m.encode(m.embed(ids), torch.arange(T).expand(2, T), mask, None) for m in (model, loaded)]
    assert torch.equal(model.logits(states[0]), loaded.logits(states[1]))


@KINDS
@pytest.mark.parametrize("process", [Masked(VOCABULARY, MASK), Simplex(VOCABULARY)], ids=["masked", "simplex"])
def test_every_weight_of_an_adapted_model_learns_and_nothing_is_left_to_chance(kind, process, tmp_path):
    write_checkpoint(tmp_path, kind)
    model = initialize(tmp_path, SIMPLEX if process.timed else WANTED).train()
    objective = Objective(model, process, seed=0)
    rows = batch(plain(tokens(), BLOCK, 1), 0, 1)
    loss = objective(**rows)
    assert float(loss.detach()) == float(objective(**rows).detach())
    loss.backward()
    silent = {"time.0.weight", "time.0.bias"}  # behind a layer of zeros
    unmoved = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert unmoved - {n for n in unmoved if n.endswith(("k_proj.bias", "key.bias"))} <= silent


@pytest.mark.parametrize("rows", [250, 320])
@torch.no_grad()
def test_a_table_is_cut_to_the_cores_vocabulary_or_filled_up_with_its_mean(rows, tmp_path):
    native = write_checkpoint(tmp_path, "llama", vocab_size=rows)
    model = initialize(tmp_path, WANTED)
    for own, lent in (
        (model.table, native.get_input_embeddings().weight),
        (model.head, native.get_output_embeddings().weight),
    ):
        assert len(own) == VOCABULARY
        assert torch.equal(own[:250], lent[:250])
        if rows < VOCABULARY:
            torch.testing.assert_close(own[-1], lent.mean(0))


def test_a_tied_head_stays_tied(tmp_path):
    write_checkpoint(tmp_path, "qwen2")
    model = initialize(tmp_path, WANTED)
    assert model.head is model.table
    assert not any(name.startswith("head") for name in model.state_dict())


def test_weights_in_several_files_are_those_in_one(tmp_path):
    write_checkpoint(tmp_path / "one")
    write_checkpoint(tmp_path / "many", shards="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (initialize(tmp_path / name, WANTED).state_dict() for name in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)


def changed(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "qwen3", "cannot begin a model"),
        ({"architectures": None}, "qwen3", "cannot begin a model"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "qwen3", "sliding window"),
        ({"use_sliding_window": True}, "qwen2", "use_sliding_window"),
        ({"hidden_size": 64}, "qwen3", "cannot be read"),
        ({"num_hidden_layers": 3}, "qwen3", "missing keys"),
        ({"num_hidden_layers": 1}, "qwen3", "unexpected keys"),
        ({"vocab_size": "many"}, "qwen3", "vocab_size"),
        ({"is_decoder": True}, "roberta", "is_decoder"),
        ({"max_position_embeddings": 12}, "mistral", "too short for blocks of 8"),
    ],
)
def test_what_a_body_here_does_not_do_is_refused(changes, kind, says, tmp_path):
    write_checkpoint(tmp_path, kind)
    changed(tmp_path, **changes)
    with pytest.raises((SsdError, UsageError), match=says):
        initialize(tmp_path, replace(WANTED, context=None))


def test_a_shard_that_is_missing_is_refused(tmp_path):
    write_checkpoint(tmp_path, shards="20KB")
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(SsdError, match="cannot be read"):
        initialize(tmp_path, WANTED)


def test_a_window_is_no_longer_than_what_the_model_has_seen(tmp_path):
    write_checkpoint(tmp_path, "mistral", sliding_window=48, max_position_embeddings=100)
    assert initialize(tmp_path, replace(WANTED, context=None)).context == 48
    write_checkpoint(tmp_path, "roberta")
    assert initialize(tmp_path, replace(WANTED, context=None)).context == 128


def test_models_that_were_made_here_say_nothing_of_a_lent_body():
    assert "native_body" not in BackboneConfig(50, 32, 1, 32).to_json()
