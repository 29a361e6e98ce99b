"""A small causal model: laws on a toy with random weights."""

from __future__ import annotations

import pytest
import torch

from ssdcli.engine.causal import CausalDenoiser, StepwiseCausalDenoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.backbones.small_causal import SmallCausalLM, new_network
from ssdcli.models.block_diffusion_checkpoint import load_backbone, save_backbone

V, L = 24, 4
MASK = V - 1
PROCESS = Masked(V, MASK)
TEXT = [1, 5, 6, 7, 3, 2, 9, 4]
CONFIG = BackboneConfig(
    V, 32, 2, 32, block_size=L, context=64, timed=False, self_conditioned=False, suppressed=(MASK,), causal=True
)


@pytest.fixture
def network() -> SmallCausalLM:
    torch.manual_seed(0)
    made = new_network(CONFIG).eval().requires_grad_(False)
    assert isinstance(made, SmallCausalLM)
    return made


def test_no_token_sees_what_is_behind_it(network):
    denoiser = CausalDenoiser(network, PROCESS)
    said, other = (denoiser.log_p(denoiser.states(torch.tensor([text])))[0] for text in (TEXT, [*TEXT[:-1], 8]))
    assert torch.equal(said[:-1], other[:-1])
    assert not torch.equal(said[-1], other[-1])
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(len(TEXT)))


@pytest.mark.parametrize("kind", [CausalDenoiser, StepwiseCausalDenoiser])
def test_a_canvas_is_predicted_as_the_whole_text_is_also_after_a_rejected_draft(network, kind):
    denoiser = kind(network, PROCESS)
    whole = denoiser.log_p(denoiser.states(torch.tensor([TEXT])))[0]
    prefixes = denoiser.start([Prompt(TEXT[:3])])
    for known in ([7], [8, 9], [7, 3]):
        canvas = torch.tensor([[*known, *[MASK] * (L - len(known))]])
        found = denoiser.denoise(canvas, 0.5, None, prefixes)[0, len(known)]
    torch.testing.assert_close(found, whole[4], rtol=1e-4, atol=1e-4)


def test_it_is_stored_and_read_as_what_it_is(network, tmp_path):
    save_backbone(network, tmp_path, torch.float32)
    again = load_backbone(tmp_path)
    assert isinstance(again, SmallCausalLM)
    assert again.config == CONFIG
    text = torch.tensor([TEXT])
    assert torch.equal(CausalDenoiser(again, PROCESS).states(text), CausalDenoiser(network, PROCESS).states(text))


def test_a_configuration_without_the_field_is_that_of_a_diffusion_model():
    written = CONFIG.to_json()
    del written["causal"]
    assert type(new_network(BackboneConfig.from_json(written))) is BlockDiffusionLM
