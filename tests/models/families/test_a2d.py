from __future__ import annotations

import pytest
from torch import Tensor

from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.masked_models import A2D
from tests.models.families import plain
from tests.models.families.a2d import CONFIG, END, MASK, ROWS, SPECIALS, TURN
from tests.models.families.checkpoints import read_weights
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, spec_of

WORDS = Vocabulary(MASK + 1, {text: END + n for n, text in enumerate(SPECIALS)}, end=TURN, mask=MASK, chat=True)
NEVER = (MASK, *range(MASK + 1, ROWS))
BLOCK = 32


def published(weights: dict[str, Tensor], kind: str) -> Published:
    """The forward pass, which differs in what a position sees; the head is the table of embeddings."""
    shape = plain.Shape(heads=4, keys=2, head=12, theta=300.0, eps=1e-3, rotated=12)
    layers, table = plain.llama_layers(weights, 2), weights["model.embed_tokens.weight"]

    def log_p(tokens: Tensor, start: int) -> Tensor:
        count = len(tokens)
        sees = plain.everything(count) if kind == "mdlm" else plain.block_causal(count, BLOCK, start)
        hidden = plain.body(table[tokens], layers, shape, sees)
        return plain.log_p(plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps), table, NEVER)

    return log_p


@pytest.mark.parametrize("kind", ["mdlm", "bd3lm"])
def test_log_p_is_that_of_the_published_forward_pass(pulled, written, kind):
    name = f"a2d-{kind}"
    core, expected = open_core(pulled(name)), published(read_weights(written(name)), kind)
    assert max(gaps(core, expected, [40, 12, 25], BLOCK).values()) <= TOLERANCE


def test_the_name_says_whether_it_sees_all_or_block_by_block(pulled):
    whole, in_blocks = (spec_of(pulled(f"a2d-{kind}")) for kind in ("mdlm", "bd3lm"))
    assert (whole.attention, in_blocks.attention) == ("full", "block-causal")
    assert (whole.late_ends, in_blocks.late_ends) == (True, False)
    for spec in (whole, in_blocks):
        assert (spec.process, spec.block_size, spec.shift, spec.context) == ("masked", BLOCK, False, 256)
        assert (spec.constants["mask_id"], spec.ends, spec.suppressed) == (MASK, (TURN, END), NEVER)


@pytest.mark.parametrize(
    ("name", "native"),
    [("A2DQwen2LMHeadModel", "qwen2"), ("A2DQwen3LMHeadModel", "qwen3"), ("A2DLlamaLMHeadModel", "llama")],
)
def test_each_class_is_known_as_what_it_was_made_from(name, native):
    config = {**CONFIG, "architectures": [name]}
    assert recognise(config, WORDS) is A2D
    assert A2D.native(config)["model_type"] == native
