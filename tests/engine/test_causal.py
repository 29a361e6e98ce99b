"""A causal language model as a member, on toy Llamas."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import SamplerConfig, sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice, reverse_process
from ssdcli.models.backbones.causal import NativeCausalBackbone
from ssdcli.models.core_spec import CoreSpec

V, L, CONTEXT = 50, 8, 128
MASK = V  # a virtual id, which the model has no embedding for
PROCESS = Masked(V + 1, mask_id=MASK)


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def denoiser(model: LlamaForCausalLM) -> CausalDenoiser:
    spec = CoreSpec(
        process="masked",
        constants={"mask_id": MASK},
        block_size=L,
        context=CONTEXT,
        attention="autoregressive",
        shift=True,
    )
    return CausalDenoiser(NativeCausalBackbone(model, spec), PROCESS)


MODEL = llama()
CORE = denoiser(MODEL)


def canvas_of(*known: int) -> Tensor:
    return torch.tensor([[*known, *[MASK] * (L - len(known))]])


def native_log_p(tokens: Sequence[int]) -> Tensor:
    """Log p of the token after these: (V,)."""
    return torch.log_softmax(MODEL(torch.tensor([list(tokens)])).logits[0, -1], dim=-1)


def written(
    prompts: Sequence[Sequence[int]], picker: Picker, blocks: int, core: CausalDenoiser = CORE
) -> list[list[int]]:
    ensemble = Ensemble((Member("core", core, Constant(1.0)),))
    config = SamplerConfig(L, blocks * L, (0,), picker)
    reverse = reverse_process(PROCESS, Choice("left-to-right"))
    rows: list[list[int]] = [[] for _ in prompts]
    for step in sample(ensemble, reverse, [[Prompt(p) for p in prompts]], range(len(prompts)), config):
        if step.last:
            for row, tokens in zip(rows, step.canvas.tolist(), strict=True):
                row.extend(tokens)
    return rows


@pytest.mark.parametrize("known", [(), (5,), (5, 6, 7), (1, 2, 3, 4, 5, 6, 7)])
def test_the_leftmost_hidden_position_is_predicted_as_the_native_model_does_and_no_other(known):
    prompt = [7, 8, 9, 10, 11]
    log_p = CORE.denoise(canvas_of(*known), 0.5, None, CORE.start([Prompt(prompt)]))
    assert log_p.shape == (1, L, V + 1)
    torch.testing.assert_close(log_p[0, len(known), :V], native_log_p([*prompt, *known]), rtol=0, atol=1e-5)
    assert log_p[0, len(known), MASK] == -torch.inf
    log_p[0, len(known)] = torch.nan
    assert log_p.isnan().all()


def test_weight_one_on_the_core_writes_its_own_greedy_text():
    for seed in range(4):
        model = llama(seed)
        prompt = [3 + seed, 8, 9]
        own = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 3),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, 3:].tolist()
        (made,) = written([prompt], Picker(temperature=0.0), 5, denoiser(model))
        stop = own.index(0) + 1 if 0 in own else 40
        assert made[:stop] == own[:stop]
        assert len(set(made)) > 5
