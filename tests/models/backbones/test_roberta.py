from __future__ import annotations

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.full_attention import BlockCachedDenoiser, FullDenoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.backbones.ssdlm import RobertaBackbone
from ssdcli.models.core_spec import CoreSpec

V, L, MASK, PAD = 40, 4, 39, 1
TEXT = list(range(5, 16))


def denoiser(kind: type[Denoiser]) -> Denoiser:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    model = RobertaForMaskedLM(config).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(std=0.3)
    spec = CoreSpec(
        process="masked",
        constants={"mask_id": MASK},
        attention="block-causal" if kind is Denoiser else "full",
        block_size=L,
        context=64,
        ends=(2,),
        suppressed=(MASK,),
    )
    return kind(RobertaBackbone(model, spec), Masked(V, MASK))


def test_an_adapted_roberta_reads_a_text_as_roberta_does():
    one, canvas = denoiser(FullDenoiser), torch.tensor([[MASK, 7, MASK, MASK]])
    scores = one.backbone.model(input_ids=torch.tensor([[*TEXT, *canvas[0].tolist()]])).logits[:, -L:]
    scores[..., MASK] = -torch.inf
    log_p = one.denoise(canvas, 0.5, None, one.start([Prompt(TEXT)]))
    torch.testing.assert_close(log_p, scores.log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [Denoiser, FullDenoiser, BlockCachedDenoiser])
def test_committing_a_block_is_starting_from_the_longer_text(kind):
    one, block = denoiser(kind), torch.tensor([[7, 8, 9, 10]])
    canvas = torch.full((1, L), MASK)
    committed = one.denoise(canvas, 0.5, None, one.commit(block, one.start([Prompt(TEXT[:8])])))
    started = one.denoise(canvas, 0.5, None, one.start([Prompt([*TEXT[:8], *block[0].tolist()])]))
    torch.testing.assert_close(committed, started, atol=1e-5, rtol=1e-5)


def test_the_last_position_of_the_window_has_an_embedding():
    one = denoiser(FullDenoiser)
    log_p = one.denoise(torch.full((1, L), MASK), 0.5, None, one.start([Prompt([5] * 100)]))
    assert log_p.exp().sum(-1).allclose(torch.ones(1, L))


def test_a_masked_roberta_is_run_by_this_backbone():
    assert native_class_of({"architectures": ["RobertaForMaskedLM"]}).backbone is RobertaBackbone
