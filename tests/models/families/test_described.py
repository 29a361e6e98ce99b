from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import RobertaForMaskedLM

from ssdcli.errors import SsdError
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY
from ssdcli.models.families import recognise
from ssdcli.models.families.described import DESCRIBED
from ssdcli.models.families.family import Vocabulary
from tests.models.families import described_roberta, plain
from tests.models.families.causal import config_of
from tests.models.families.checkpoints import read_weights
from tests.models.families.described import CONFIG, MASK, ROWS, SPEC
from tests.models.families.parity import TOLERANCE, gaps, open_core, spec_of

PROMPTS = pytest.mark.parametrize("prompts", [[7], [40, 12, 25, 64]], ids=["alone", "in a batch"])


@PROMPTS
def test_an_adapted_llama_reads_a_prefix_causally_and_sees_a_canvas_whole(pulled, written, prompts):
    weights = read_weights(written("described"))
    shape = plain.Shape(heads=4, keys=2, head=8, theta=300.0, eps=1e-3, rotated=8)
    layers = plain.llama_layers(weights, 2)

    def log_p(tokens: Tensor, start: int) -> Tensor:
        sees = plain.everything(len(tokens)).tril()
        sees[start:] = True
        hidden = plain.shifted(plain.body(weights["model.embed_tokens.weight"][tokens], layers, shape, sees))
        normed = plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps)
        return plain.log_p(normed, weights["lm_head.weight"], [MASK, 302, 303])

    assert max(gaps(open_core(pulled("described")), log_p, prompts, block=8).values()) <= TOLERANCE


@PROMPTS
def test_an_adapted_roberta_says_what_transformers_own_class_says(pulled, written, prompts):
    own: Any = RobertaForMaskedLM.from_pretrained(written("described_roberta"), dtype=torch.float64).eval()

    @torch.no_grad()
    def log_p(tokens: Tensor, start: int) -> Tensor:
        places = torch.arange(len(tokens)) + 2  # the padding's id is 1, and its row of the table is never used
        scores = own(input_ids=tokens[None], position_ids=places[None]).logits[0]
        scores[:, described_roberta.MASK] = float("-inf")
        return scores.log_softmax(-1)

    assert max(gaps(open_core(pulled("described_roberta")), log_p, prompts, block=8).values()) <= TOLERANCE


@pytest.mark.parametrize(("name", "spec"), [("described", SPEC), ("described_roberta", described_roberta.SPEC)])
def test_a_pulled_model_keeps_what_it_says_of_itself_and_no_remote_code(pulled, name, spec):
    found = spec_of(pulled(name))
    assert found.noise == spec.noise
    assert replace(found, constants=spec.constants) == spec
    assert "auto_map" not in read_config(pulled(name))


@pytest.mark.parametrize("table", [{}, {**SPEC.to_json(), "speed": 3}, [], None])
def test_a_table_that_does_not_tell_how_the_model_is_run_is_refused(table):
    config = {**CONFIG, KEY: table}
    assert recognise(config, Vocabulary(ROWS)) is DESCRIBED
    with pytest.raises(SsdError, match="does not say how the model is run"):
        DESCRIBED.spec(config, Vocabulary(ROWS))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_causal_core_out_of_a_registry_is_one_again(kind):
    spec = replace(SPEC, attention="autoregressive", shift=True)
    config = {**config_of(kind), KEY: spec.to_json()}
    assert recognise(config, Vocabulary(ROWS)) is DESCRIBED
    assert DESCRIBED.spec(config, Vocabulary(ROWS)) == spec
    native = DESCRIBED.native(config)
    assert KEY not in native
    assert native["architectures"] == config["architectures"]


def test_a_class_that_would_be_run_wrongly_is_refused():
    with pytest.raises(SsdError, match="Gemma3ForCausalLM"):
        DESCRIBED.native({**CONFIG, "architectures": ["Gemma3ForCausalLM"]})
