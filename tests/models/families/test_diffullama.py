from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.families import CAUSAL, recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.masked_models import DIFFULLAMA
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.diffullama import BEGIN, CONFIG, END, ROWS, SPECIALS, mask_id
from tests.models.families.parity import TOLERANCE, Published, gaps, open_core, spec_of

WORDS = Vocabulary(ROWS, {text: BEGIN - 1 + n for n, text in enumerate(SPECIALS)}, begin=BEGIN, end=END, mask=mask_id())


@pytest.fixture(scope="module")
def published(written) -> Published:
    weights = read_weights(written("diffullama"))
    shape = plain.Shape(heads=4, keys=4, head=8, theta=300.0, eps=1e-3, rotated=8)
    layers = plain.llama_layers(weights, 2)

    def log_p(tokens: Tensor, start: int) -> Tensor:
        x = weights["model.embed_tokens.weight"][tokens]
        hidden = plain.body(x, layers, shape, plain.everything(len(tokens)))
        normed = plain.rms_norm(plain.shifted(hidden), weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, weights["lm_head.weight"], [mask_id()])

    return log_p


@pytest.mark.parametrize("prompts", [[7], [40, 12, 25, 64]], ids=["alone", "in a batch"])
def test_log_p_is_that_of_the_published_forward_pass(pulled, published, prompts):
    assert max(gaps(open_core(pulled("diffullama")), published, prompts, block=16).values()) <= TOLERANCE


def test_the_core_is_a_base_model_with_full_attention_whose_position_is_predicted_one_before(pulled):
    spec = spec_of(pulled("diffullama"))
    assert (spec.process, spec.attention, spec.shift) == ("masked", "full", True)
    assert (spec.constants, spec.block_size, spec.context) == ({"mask_id": mask_id(), "t_min": 0.001}, 32, 2048)
    assert (spec.begin, spec.ends, spec.suppressed) == (BEGIN, (END,), (mask_id(),))
    assert (spec.format, spec.late_ends) == ("plain", False)


def test_it_is_known_by_the_word_that_its_tokenizer_names_as_the_mask():
    assert recognise(CONFIG, WORDS) is DIFFULLAMA
    assert recognise(CONFIG, replace(WORDS, ids={**WORDS.ids, "mask": mask_id()})) is DIFFULLAMA


@pytest.mark.parametrize("mask", [None, "[MASK]", "<mask>", "<|mask|>"])
def test_a_causal_llama_is_none_even_if_a_mask_was_added_to_its_tokenizer(mask):
    added = {} if mask is None else {mask: ROWS - 1}
    vocabulary = replace(WORDS, ids={**WORDS.ids, **added}, mask=added.get(mask))
    assert recognise(CONFIG, vocabulary) in CAUSAL


def test_a_config_without_sizes_is_refused_by_the_missing_key():
    with pytest.raises(SsdError, match="'intermediate_size'"):
        DIFFULLAMA.native({**CONFIG, "intermediate_size": None})
