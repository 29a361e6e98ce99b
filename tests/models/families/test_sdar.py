from __future__ import annotations

import pytest
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.masked_models import SDAR
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, row_gaps, spec_of
from tests.models.families.sdar import CONFIG, END, MASK, ROWS, SPECIALS, TURN

WORDS = Vocabulary(MASK + 1, {text: END + n for n, text in enumerate(SPECIALS)}, end=TURN, mask=MASK, chat=True)
NEVER = (MASK, *range(MASK + 1, ROWS))
BLOCK = 4


@pytest.fixture(scope="module")
def weights(written) -> dict[str, Tensor]:
    return read_weights(written("sdar"))


def published(weights: dict[str, Tensor], grid: int | None) -> Published:
    """The forward pass with a grid of blocks that begins at a position, or at the canvas if there is none."""
    shape = plain.Shape(heads=4, keys=2, head=12, theta=300.0, eps=1e-3, rotated=12)
    layers = plain.llama_layers(weights, 2)

    def log_p(tokens: Tensor, start: int) -> Tensor:
        sees = plain.block_causal(len(tokens), BLOCK, start if grid is None else grid)
        hidden = plain.body(weights["model.embed_tokens.weight"][tokens], layers, shape, sees)
        normed = plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, weights["lm_head.weight"], NEVER)

    return log_p


@pytest.fixture(scope="module")
def core(pulled):
    return open_core(pulled("sdar"))


@pytest.mark.parametrize("prompts", [[8], [40, 12, 24, 64]], ids=["alone", "in a batch"])
def test_log_p_after_whole_blocks_is_that_of_the_published_forward_pass(core, weights, prompts):
    assert max(gaps(core, published(weights, grid=0), prompts, BLOCK).values()) <= TOLERANCE


def test_log_p_after_other_prompts_is_that_of_a_grid_that_ends_at_the_canvas(core, weights):
    prompts = [7, 41, 13, 26, 63]
    assert max(gaps(core, published(weights, grid=None), prompts, BLOCK).values()) <= TOLERANCE


def test_a_row_of_a_batch_equals_its_single_run(core):
    assert max(row_gaps(core, [40, 12, 25, 64], BLOCK)) == 0


def test_the_core_is_a_masked_model_with_blocks_of_its_own_that_ends_turns(pulled):
    spec = spec_of(pulled("sdar"))
    assert (spec.process, spec.attention, spec.shift) == ("masked", "block-causal", False)
    assert (spec.constants, spec.block_size, spec.context) == ({"mask_id": MASK, "t_min": 0.001}, BLOCK, 256)
    assert (spec.begin, spec.ends, spec.suppressed) == (None, (END, TURN), NEVER)
    assert (spec.format, spec.late_ends) == ("chat", False)


def test_the_block_size_is_the_checkpoints_and_never_guessed():
    assert SDAR.spec({**CONFIG, "block_size": 64}, WORDS).block_size == 64
    for guess in (None, 0, 2.5, "4"):
        with pytest.raises(SsdError, match="'block_size'"):
            SDAR.spec({**CONFIG, "block_size": guess}, WORDS)


def test_a_window_of_attention_is_refused():
    with pytest.raises(SsdError, match="'use_sliding_window'"):
        SDAR.native({**CONFIG, "use_sliding_window": True})


def test_other_classes_are_not_known():
    assert recognise(CONFIG, WORDS) is SDAR
    with pytest.raises(SsdError, match=r"SDARMoeForCausalLM.*not a language model that ssd knows"):
        recognise({**CONFIG, "architectures": ["SDARMoeForCausalLM"]}, WORDS)
