"""Causal language models against transformers' own forward pass and greedy decoding, and how they are recognised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.process import make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import SsdError, UsageError
from ssdcli.machine.placement import Placement
from ssdcli.models.families import recognise
from ssdcli.models.families.causal import CAUSAL, CAUSAL_CLASSES
from ssdcli.models.families.family import Family, Vocabulary
from ssdcli.models.loading import load_model, make_denoiser
from ssdcli.registry.manifest import read_manifest
from tests.models.families.causal import (
    BEGIN,
    CONTEXT,
    END,
    END_OF_TEXT,
    MODEL_TYPES,
    ROWS,
    SPECIALS,
    TOKENS,
    WINDOW,
    config_of,
)
from tests.models.families.checkpoints import WORDS
from tests.models.families.parity import TOLERANCE, spec_of, text

BLOCK = 16
PROMPTS = (7, 30, 41)  # beyond the sliding window, and not in whole blocks
VOCABULARY = Vocabulary(TOKENS, dict(zip(SPECIALS, range(WORDS, TOKENS), strict=True)), begin=BEGIN, end=END)

# Log p (T, V) of the tokens of a text (T,), each given those before it; the first row is that of the second token.
Reference = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def native(written) -> Callable[[str], Any]:
    """The model as transformers loads it."""
    return cache(lambda kind: AutoModelForCausalLM.from_pretrained(written(f"causal-{kind}"), dtype=torch.float32))


@pytest.fixture(scope="module")
def opened(pulled) -> Callable[[str], CausalDenoiser]:
    """The denoiser of the pulled core."""
    return cache(lambda kind: _open(pulled(f"causal-{kind}")))


def _open(folder: Path) -> CausalDenoiser:
    manifest = read_manifest(folder)
    backbone = load_model(folder, Placement("float32"), BLOCK)
    process = make_process(manifest.process, manifest.vocabulary, manifest.constants)
    denoiser = make_denoiser(backbone, manifest.attention, process)
    assert isinstance(denoiser, CausalDenoiser)
    return denoiser


def reference(native: Any, denoiser: CausalDenoiser, tokens: Tensor) -> Tensor:
    """Transformers' log p (B, T, V) of the token after each of (B, T), without the ids that are never text."""
    with torch.no_grad():
        logits = native(input_ids=tokens).logits
    wide = torch.nn.functional.pad(logits, (0, denoiser.process.vocabulary - logits.shape[-1]))
    never = torch.tensor(denoiser.backbone.spec.suppressed)
    return wide.index_fill(-1, never, -torch.inf).log_softmax(-1)


def gap(log_p: Tensor, expected: Tensor) -> float:
    """The largest difference; what has no probability must have none on either side."""
    assert torch.equal(log_p.isinf(), expected.isinf())
    return float((log_p - expected)[~expected.isinf()].abs().max())


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_log_p_of_the_leftmost_hidden_token_is_that_of_transformers(opened, native, kind):
    core, mask = opened(kind), opened(kind).process.mask_id
    texts = [text(length + 2 * BLOCK, seed) for seed, length in enumerate(PROMPTS)]
    expected = [reference(native(kind), core, torch.tensor([tokens]))[0] for tokens in texts]
    prefixes = core.start([Prompt(tokens[:length]) for tokens, length in zip(texts, PROMPTS, strict=True)])
    for start in (0, BLOCK):
        clean = torch.tensor([tokens[n + start : n + start + BLOCK] for tokens, n in zip(texts, PROMPTS, strict=True)])
        for known in range(BLOCK):
            canvas = clean.masked_fill((torch.arange(BLOCK) >= known) & (torch.arange(BLOCK) != 11), mask)
            log_p = core.denoise(canvas, 0.5, None, prefixes)
            first = (canvas == mask).int().argmax(1)
            for row, length in enumerate(PROMPTS):
                place = int(first[row])
                assert gap(log_p[row, place], expected[row][length + start + place - 1]) <= TOLERANCE
                assert log_p[row].isnan().all(1).tolist() == [other != place for other in range(BLOCK)]
        prefixes = core.commit(clean, prefixes)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_whole_texts_are_scored_as_by_transformers(opened, native, kind):
    core = opened(kind)
    tokens = torch.tensor([text(80, 5), text(80, 6)])
    expected = reference(native(kind), core, tokens)
    assert gap(core.log_p(core.states(tokens)), expected) <= TOLERANCE
    assert gap(core.score(tokens), expected[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]) <= TOLERANCE


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_pass_of_the_same_shape_and_mask_is_the_same_bit_for_bit(opened, native, kind):
    core = opened(kind)
    tokens = torch.tensor([text(20, 7)])  # within the sliding window, so that one mask does for all layers
    mask = torch.ones(1, 1, 20, 20, dtype=torch.bool).tril()
    if native(kind).config._attn_implementation == "eager":
        mask = torch.zeros(1, 1, 20, 20).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = native(kind)(input_ids=tokens, attention_mask=mask).logits
    found = core.backbone.logits(core.states(tokens))[..., : logits.shape[-1]]
    spoken = ~found.isinf()
    assert torch.equal(found[spoken], logits[spoken])


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_greedy_text_is_that_of_transformers(opened, native, kind):
    core, mask = opened(kind), opened(kind).process.mask_id
    tokens, new = text(30, 3), 3 * BLOCK
    never = list(core.backbone.spec.suppressed)
    expected = native(kind).generate(
        torch.tensor([tokens]), do_sample=False, max_new_tokens=new, min_new_tokens=new, suppress_tokens=never
    )
    prefixes, written = core.start([Prompt(tokens)]), []
    end = native(kind).generation_config.eos_token_id  # which `min_new_tokens` suppresses
    for _ in range(new // BLOCK):
        canvas = torch.full((1, BLOCK), mask)
        for place in range(BLOCK):
            log_p = core.denoise(canvas, 0.5, None, prefixes)[0, place]
            canvas[0, place] = log_p.index_fill(0, torch.tensor(end), -torch.inf).argmax()
        prefixes = core.commit(canvas, prefixes)
        written += canvas[0].tolist()
    assert written == expected[0, 30:].tolist()
