from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.masked_models import NEMOTRON_LABS
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.nemotron_labs import BEGIN, BLOCK, CONFIG, END, MASK, ROWS
from tests.models.families.parity import TOLERANCE, gaps, open_core, spec_of

NEVER = (MASK, *range(MASK + 1, ROWS))
HEAD = 12


def yarn() -> Tensor:
    """The frequencies of YaRN (Peng et al., 2023): fast ones stay, slow ones are divided by the factor."""
    rope = CONFIG["rope_parameters"]
    usual = rope["rope_theta"] ** -(torch.arange(HEAD // 2).double() / (HEAD // 2))

    def turning(times: float) -> float:
        """Which pair turns so many times within the original length."""
        length = rope["original_max_position_embeddings"]
        return HEAD * math.log(length / (times * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))

    low, high = max(math.floor(turning(rope["beta_fast"])), 0), min(math.ceil(turning(rope["beta_slow"])), HEAD - 1)
    slow = ((torch.arange(HEAD // 2).double() - low) / (high - low)).clamp(0, 1)
    return usual * (1 - slow) + usual / rope["factor"] * slow


def test_log_p_is_that_of_the_published_forward_pass(pulled, written):
    """The text before the canvas is read token by token, and the canvas sees itself whole."""
    weights = {name.replace("encoder.", "model."): w for name, w in read_weights(written("nemotron_labs")).items()}
    shape = plain.Shape(heads=4, keys=2, head=HEAD, theta=300.0, eps=1e-3, rotated=HEAD, frequencies=yarn())
    layers = plain.llama_layers(weights, 2)

    def published(tokens: Tensor, start: int) -> Tensor:
        places = torch.arange(len(tokens))
        sees = (places[None] <= places[:, None]) | ((places >= start)[None] & (places >= start)[:, None])
        hidden = plain.body(weights["model.embed_tokens.weight"][tokens], layers, shape, sees)
        normed = plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, weights["diffusion_head.weight"], NEVER)

    assert max(gaps(open_core(pulled("nemotron_labs")), published, [40, 12, 25], BLOCK).values()) <= TOLERANCE


def test_the_core_has_the_blocks_of_its_config(pulled):
    assert recognise(CONFIG, Vocabulary(MASK + 1)) is NEMOTRON_LABS
    spec = spec_of(pulled("nemotron_labs"))
    assert (spec.process, spec.attention, spec.shift, spec.block_size) == ("masked", "causal", False, BLOCK)
    assert (spec.constants["mask_id"], spec.begin, spec.ends, spec.suppressed) == (MASK, BEGIN, (END,), NEVER)


@pytest.mark.parametrize(("key", "value"), [("dlm_paradigm", "autoregressive"), ("sliding_window", 128)])
def test_other_kinds_are_refused(key, value):
    with pytest.raises(SsdError, match=f"'{key}'"):
        NEMOTRON_LABS.native({**CONFIG, key: value})
