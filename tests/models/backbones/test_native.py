from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.full_attention import BlockCachedDenoiser, FullDenoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.models.active_vocabulary import weighted_sums
from ssdcli.models.backbones.native import NativeBackbone, sizes
from ssdcli.models.core_spec import CoreSpec

V, MASK, L = 40, 38, 4
PROCESSES = {"masked": {"mask_id": MASK}, "simplex": {"K": 5.0, "s": 1e-4}}
TEXT = [list(range(1, 12)), [5, 4, 3], list(range(20, 37))]


def model(kind: str = "llama"):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        is_causal=False,
    )
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def backbone(attention: str, shift: bool = False, process: str = "masked") -> NativeBackbone:
    spec = CoreSpec(
        process=process,
        constants=PROCESSES[process],
        attention=attention,
        block_size=L,
        context=64,
        shift=shift,
        ends=(0,),
        suppressed=(MASK, 39),
    )
    return NativeBackbone(model("qwen2" if shift else "llama"), spec)


def denoiser(kind: type[Denoiser], shift: bool = False, process: str = "masked") -> Denoiser:
    attention = "full" if kind is not Denoiser else "block-causal"
    return kind(backbone(attention, shift, process), make_process(process, V, PROCESSES[process]))


def noised(process, rows: int, t: float) -> torch.Tensor:
    noise = CounterNoise(range(rows))
    return process.corrupt(torch.arange(rows * L).view(rows, L) % 30, torch.full((rows, L), t), noise)


@pytest.mark.parametrize("shift", [False, True])
def test_at_a_blocks_first_step_a_cache_that_is_refreshed_for_it_is_exact(shift):
    full, cached = denoiser(FullDenoiser, shift), denoiser(BlockCachedDenoiser, shift)
    masks = full.process.prior(L, CounterNoise(range(len(TEXT))))
    prompts = [Prompt(text) for text in TEXT]
    exact = full.denoise(masks, 1.0, None, full.start(prompts))
    torch.testing.assert_close(cached.denoise(masks, 1.0, None, cached.start(prompts)), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("process", ["masked", "simplex"])
@pytest.mark.parametrize("kind", [Denoiser, FullDenoiser, BlockCachedDenoiser])
def test_committing_a_block_is_starting_from_the_longer_text(kind, process, shift):
    one = denoiser(kind, shift, process)
    block = torch.tensor([[7, 8, 9, 10]])
    text = TEXT[0][:8]  # whole blocks, so that both ways read the same ones
    canvas = noised(one.process, 1, 0.5)
    committed = one.denoise(canvas, 0.5, None, one.commit(block, one.start([Prompt(text)])))
    started = one.denoise(canvas, 0.5, None, one.start([Prompt([*text, *block[0].tolist()])]))
    torch.testing.assert_close(committed, started, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("kind", [Denoiser, FullDenoiser, BlockCachedDenoiser])
def test_rows_of_different_lengths_are_what_they_are_alone(kind, shift):
    many = denoiser(kind, shift)
    canvas = noised(many.process, len(TEXT), 0.7)
    together = many.denoise(canvas, 0.7, None, many.start([Prompt(text) for text in TEXT]))
    for row, text in enumerate(TEXT):
        alone = many.denoise(canvas[row : row + 1], 0.7, None, many.start([Prompt(text)]))
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("kind", [Denoiser, FullDenoiser, BlockCachedDenoiser])
def test_in_a_gap_a_shifted_model_reads_the_token_before_the_gap(kind):
    """Whatever stands behind the gap, the first position's state is that of the column before it."""
    one = denoiser(kind, shift=True)
    canvas = one.process.prior(L, CounterNoise([0]))
    prompt = Prompt(TEXT[0], after=[13, 14, 15], gap=L)
    log_p = one.denoise(canvas, 1.0, None, one.start([prompt]))
    states: list[torch.Tensor] = []
    norm = one.backbone.model.model.norm
    norm.register_forward_hook(lambda module, inputs, output: states.append(output))
    one.denoise(canvas, 1.0, None, one.start([prompt]))
    columns = torch.cat(states, dim=1)[0] if kind is not FullDenoiser else states[-1][0]
    scores = torch.log_softmax(one.backbone.logits(columns[None])[0], -1)
    width = one.start([prompt])[0].tokens.shape[1]
    expected = width - 3 - 1  # padding on the left, then the text, then the three tokens behind the gap
    torch.testing.assert_close(log_p[0, 0], scores[expected], atol=1e-5, rtol=1e-5)


def test_what_a_cached_prefix_makes_of_a_canvas_is_that_of_the_blocks_beginning():
    full, cached = denoiser(FullDenoiser), denoiser(BlockCachedDenoiser)
    canvas = noised(full.process, 1, 0.3)
    exact, near = (d.denoise(canvas, 0.3, None, d.start([Prompt(TEXT[2])])) for d in (full, cached))
    assert not torch.allclose(exact, near, atol=1e-4)  # an approximation is one


def test_a_step_after_a_cached_prefix_costs_the_canvas_alone():
    full, cached = denoiser(FullDenoiser), denoiser(BlockCachedDenoiser)
    body = full.backbone.sizes.body
    steps = [next(d.costs(Prompt(list(range(30)))))[1] for d in (full, cached)]
    assert steps[0] - steps[1] >= 2 * body * 30
    seen: list[int] = []
    layer = cached.backbone.model.model.layers[0]
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    prefixes = cached.start([Prompt(TEXT[0])])
    cached.denoise(noised(cached.process, 1, 0.5), 0.5, None, prefixes)
    assert seen[-1] == L


def test_ids_that_are_never_text_have_no_probability():
    one = denoiser(FullDenoiser)
    log_p = one.denoise(noised(one.process, 1, 0.5), 0.5, None, one.start([Prompt([1])]))
    assert (log_p[..., [MASK, 39]] == -torch.inf).all()
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(1, L))


def test_a_canvas_of_full_attention_can_have_any_length():
    wide = NativeBackbone(model(), backbone("full").spec, block_size=12)
    one = FullDenoiser(wide, make_process("masked", V, PROCESSES["masked"]))
    canvas = one.process.prior(12, CounterNoise([0]))
    assert one.denoise(canvas, 1.0, None, one.start([Prompt([1])])).shape == (1, 12, V)
    assert one.room == 64 - 12


def test_a_model_that_reads_causally_does_not_let_a_prefix_see_what_follows():
    one = denoiser(Denoiser)
    one.backbone.reading_block = 1
    caches = [one.start([Prompt(text)])[0].cache for text in (TEXT[0], [*TEXT[0][:-1], 30])]
    keys = [cache.layers[1].keys for cache in caches]
    assert torch.equal(keys[0][:, :, :-1], keys[1][:, :, :-1])
    assert not torch.equal(keys[0][:, :, -1], keys[1][:, :, -1])


def test_sparse_sums_are_mixtures():
    torch.manual_seed(0)
    table = torch.randn(V, 8)
    p = torch.full((1, 2, V), 0.3 / V)
    p[..., 3] += 0.5
    p[..., 7] += 0.2
    ids, weights = torch.tensor([[[3, 7]] * 2]), torch.tensor([[[0.5, 0.2]] * 2])
    torch.testing.assert_close(weighted_sums(table, ids, weights, torch.ones(V)), p @ table)


def test_sizes_count_the_experts_that_run():
    config = Glm4MoeConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=1,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    )
    found = sizes(Glm4MoeForCausalLM(config))
    attention = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32)
    dense, routed, shared, gate = 3 * 32 * 48, 2 * 3 * 32 * 16, 3 * 32 * 16, 8 * 32
    assert found.body == attention + dense + routed + shared + gate
    assert (found.attention, found.table, found.self_conditioning) == (2 * 4 * 8, V * 32, None)
