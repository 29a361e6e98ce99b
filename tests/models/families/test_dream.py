from __future__ import annotations

import pytest
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.masked_models import DREAM
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.dream import BEGIN, CONFIG, END, MASK, ROWS, SPECIALS, TURN
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, spec_of

WORDS = Vocabulary(
    MASK + 1, {text: END + n for n, text in enumerate(SPECIALS)}, begin=BEGIN, end=END, mask=MASK, chat=True
)
NEVER = (MASK, *range(MASK + 1, ROWS))


@pytest.fixture(scope="module")
def published(written) -> Published:
    weights = read_weights(written("dream"))
    shape = plain.Shape(heads=4, keys=2, head=8, theta=300.0, eps=1e-3, rotated=8)
    layers = plain.llama_layers(weights, 2)

    def log_p(tokens: Tensor, start: int) -> Tensor:
        x = weights["model.embed_tokens.weight"][tokens]
        hidden = plain.body(x, layers, shape, plain.everything(len(tokens)))
        normed = plain.rms_norm(plain.shifted(hidden), weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, weights["lm_head.weight"], NEVER)

    return log_p


@pytest.mark.parametrize("prompts", [[7], [40, 12, 25, 64]], ids=["alone", "in a batch"])
def test_log_p_is_that_of_the_published_forward_pass(pulled, published, prompts):
    assert max(gaps(open_core(pulled("dream")), published, prompts, block=16).values()) <= TOLERANCE


def test_the_core_is_a_masked_model_with_full_attention_whose_position_is_predicted_one_before(pulled):
    spec = spec_of(pulled("dream"))
    assert (spec.process, spec.attention, spec.shift) == ("masked", "full", True)
    assert (spec.constants, spec.block_size) == ({"mask_id": MASK, "t_min": 0.001}, 32)
    assert (spec.begin, spec.ends, spec.suppressed) == (BEGIN, (END, TURN), NEVER)
    assert (spec.format, spec.late_ends) == ("chat", True)


def test_the_window_is_what_the_model_was_trained_on_and_not_what_config_repeats_from_another():
    assert DREAM.spec(CONFIG, WORDS).context == 2048
    assert DREAM.spec({**CONFIG, "max_position_embeddings": 512}, WORDS).context == 512


@pytest.mark.parametrize(("key", "value"), [("use_sliding_window", True), ("hidden_size", None), ("vocab_size", "x")])
def test_a_config_that_is_no_dream_is_refused_by_the_key_that_says_so(key, value):
    with pytest.raises(SsdError, match=repr(key)):
        DREAM.native({**CONFIG, key: value})


def test_other_classes_of_the_same_model_type_are_not_known():
    assert recognise(CONFIG, WORDS) is DREAM
    with pytest.raises(SsdError, match=r"DreamForCausalLM.*not a language model that ssd knows"):
        recognise({**CONFIG, "architectures": ["DreamForCausalLM"]}, WORDS)
