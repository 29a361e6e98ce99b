from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ssdcli.models.families import CAUSAL, recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.masked_models import OPEN_DCODER
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.open_dcoder import CONFIG, END, MASK, ROWS, SPECIALS
from tests.models.families.parity import TOLERANCE, gaps, open_core, spec_of

WORDS = Vocabulary(MASK + 1, {text: END + n for n, text in enumerate(SPECIALS)}, end=END, mask=MASK)
NEVER = (MASK, *range(MASK + 1, ROWS))


def test_log_p_is_that_of_the_published_forward_pass(pulled, written):
    weights = read_weights(written("open_dcoder"))
    shape = plain.Shape(heads=4, keys=2, head=8, theta=300.0, eps=1e-3, rotated=8)
    layers, table = plain.llama_layers(weights, 2), weights["model.embed_tokens.weight"]

    def published(tokens: Tensor, start: int) -> Tensor:
        hidden = plain.body(table[tokens], layers, shape, plain.everything(len(tokens)))
        normed = plain.rms_norm(plain.shifted(hidden), weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, table, NEVER)

    assert max(gaps(open_core(pulled("open_dcoder")), published, [40, 12, 25], 16).values()) <= TOLERANCE


def test_it_is_known_by_its_mask(pulled):
    assert recognise(CONFIG, WORDS) is OPEN_DCODER
    assert recognise(CONFIG, replace(WORDS, mask=None)) in CAUSAL
    assert recognise({**CONFIG, "architectures": ["LlamaForCausalLM"]}, WORDS) is not OPEN_DCODER
    spec = spec_of(pulled("open_dcoder"))
    assert (spec.attention, spec.shift, spec.constants["mask_id"], spec.ends) == ("full", True, MASK, (END,))
