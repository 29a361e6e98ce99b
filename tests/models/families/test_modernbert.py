from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ssdcli.engine.full_attention import BlockCachedDenoiser
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import UsageError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.modernbert import MODERNBERT
from tests.models.families.checkpoints import read_weights
from tests.models.families.modernbert import BEGIN, CONFIG, END, LAYERS, MASK, ROWS, WIDTH, WINDOW
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, spec_of

NEVER = (MASK, *range(MASK + 1, ROWS))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def rotated(heads: Tensor, theta: float) -> Tensor:
    half = heads.shape[-1] // 2
    angles = torch.arange(heads.shape[1]).double()[:, None] / theta ** (torch.arange(half).double() / half)
    first, second = heads.chunk(2, -1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


@pytest.fixture(scope="module")
def published(written) -> Published:
    """Every third layer sees all, the others half a window to each side, with another base of the rotations."""
    own = read_weights(written("modernbert"))

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), own[f"{name}.weight"], None, 1e-3)

    def attention(x: Tensor, n: int) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(0, 1)
            for part in (x @ own[f"model.layers.{n}.attn.Wqkv.weight"].T).chunk(3, -1)
        )
        theta = 100.0 if n % 3 else 1600.0
        scores = rotated(q, theta) @ rotated(k, theta).transpose(1, 2) / q.shape[-1] ** 0.5
        places = torch.arange(len(x))
        far = (places[:, None] - places).abs() > WINDOW // 2
        mixed = (scores.masked_fill(far, -torch.inf) if n % 3 else scores).softmax(-1) @ v
        return mixed.transpose(0, 1).flatten(1) @ own[f"model.layers.{n}.attn.Wo.weight"].T

    def log_p(tokens: Tensor, start: int) -> Tensor:
        table = own["model.embeddings.tok_embeddings.weight"]
        x = norm(table[tokens], "model.embeddings.norm")
        for n in range(LAYERS):
            x = x + attention(norm(x, f"model.layers.{n}.attn_norm") if n else x, n)
            wide, gate = (norm(x, f"model.layers.{n}.mlp_norm") @ own[f"model.layers.{n}.mlp.Wi.weight"].T).chunk(2, -1)
            x = x + (gelu(wide) * gate) @ own[f"model.layers.{n}.mlp.Wo.weight"].T
        head = norm(gelu(norm(x, "model.final_norm") @ own["head.dense.weight"].T), "head.norm")
        scores = head @ table.T + own["decoder.bias"]
        scores[:, list(NEVER)] = -torch.inf
        return scores.log_softmax(-1)

    return log_p


@pytest.fixture(scope="module")
def core(pulled):
    return open_core(pulled("modernbert"))


def test_log_p_is_that_of_the_published_forward_pass(core, published):
    assert max(gaps(core, published, [40, 12, 25], 16).values()) <= TOLERANCE


def test_it_reads_all_of_a_text_between_its_opening_and_its_end(core, pulled):
    assert recognise(CONFIG, Vocabulary(MASK + 1)) is MODERNBERT
    spec = spec_of(pulled("modernbert"))
    assert (spec.process, spec.attention, spec.shift) == ("masked", "full", False)
    assert (spec.constants["mask_id"], spec.begin, spec.ends, spec.suppressed) == (MASK, BEGIN, (END,), NEVER)
    with pytest.raises(UsageError, match="no prefix cache"):
        BlockCachedDenoiser(core.backbone, core.process).start([Prompt([BEGIN, 3, 4])])
