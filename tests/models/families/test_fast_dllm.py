from __future__ import annotations

import pytest
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import CAUSAL, recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.masked_models import FAST_DLLM
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.fast_dllm import BLOCK, CONFIG, END, MASK, ROWS, SPECIALS, TURN
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, row_gaps, spec_of

WORDS = Vocabulary(MASK + 1, {text: END + n for n, text in enumerate(SPECIALS)}, end=TURN, chat=True)
NEVER = (MASK, *range(MASK + 1, ROWS))


@pytest.fixture(scope="module")
def weights(written) -> dict[str, Tensor]:
    return read_weights(written("fast_dllm"))


def published(weights: dict[str, Tensor], grid: int | None) -> Published:
    """The forward pass with a grid of blocks that begins at a position, or at the canvas if there is none.

    The token after a block is predicted at the block's last token, which never sees what comes after.
    """
    shape = plain.Shape(heads=4, keys=2, head=8, theta=300.0, eps=1e-3, rotated=8)
    layers = plain.llama_layers(weights, 2)
    table = weights["model.embed_tokens.weight"]

    def log_p(tokens: Tensor, start: int) -> Tensor:
        sees = plain.block_causal(len(tokens), BLOCK, start if grid is None else grid)
        hidden = plain.shifted(plain.body(table[tokens], layers, shape, sees))
        return plain.log_p(plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps), table, NEVER)

    return log_p


@pytest.fixture(scope="module")
def core(pulled):
    return open_core(pulled("fast_dllm"))


@pytest.mark.parametrize("prompts", [[32], [64, 288, 32, 128]], ids=["alone", "in a batch"])
def test_log_p_after_whole_blocks_is_that_of_the_published_forward_pass(core, weights, prompts):
    assert max(gaps(core, published(weights, grid=0), prompts, BLOCK).values()) <= TOLERANCE


def test_log_p_after_other_prompts_is_that_of_a_grid_that_ends_at_the_canvas(core, weights):
    prompts = [7, 41, 13, 60, 1]
    assert max(gaps(core, published(weights, grid=None), prompts, BLOCK).values()) <= TOLERANCE


def test_a_row_of_a_batch_equals_its_single_run(core):
    assert max(row_gaps(core, [40, 12, 25, 64], BLOCK)) == 0


def test_the_core_is_a_masked_model_with_blocks_whose_position_is_predicted_one_before(pulled):
    spec = spec_of(pulled("fast_dllm"))
    assert (spec.process, spec.attention, spec.shift) == ("masked", "block-causal", True)
    assert (spec.constants, spec.block_size, spec.context) == ({"mask_id": MASK, "t_min": 0.001}, BLOCK, 512)
    assert (spec.begin, spec.ends, spec.suppressed) == (None, (TURN, END), NEVER)
    assert (spec.format, spec.late_ends) == ("chat", False)


@pytest.mark.parametrize("key", ["bd_size", "max_position_embeddings", "vocab_size"])
def test_a_config_without_what_the_core_needs_is_refused_by_the_missing_key(key):
    with pytest.raises(SsdError, match=repr(key)):
        FAST_DLLM.spec({name: value for name, value in CONFIG.items() if name != key}, WORDS)


def test_a_checkpoint_without_a_mask_is_refused():
    with pytest.raises(SsdError, match="names a mask"):
        FAST_DLLM.spec(CONFIG, Vocabulary(MASK, end=TURN))


def test_only_its_own_class_is_known():
    assert recognise(CONFIG, WORDS) is FAST_DLLM
    assert recognise({**CONFIG, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, WORDS) in CAUSAL
