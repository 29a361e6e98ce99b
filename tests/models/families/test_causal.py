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

from ssdcli.doctor.fit import need_of_entry
from ssdcli.doctor.outlook import outlook
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.process import make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import SsdError, UsageError
from ssdcli.hub.pull import Watch, plan, pull
from ssdcli.machine.hardware import look
from ssdcli.machine.placement import Placement
from ssdcli.models.core_config import completed, native_part, read_config
from ssdcli.models.core_traits import read_core_traits
from ssdcli.models.families import recognise
from ssdcli.models.families.causal import CAUSAL, CAUSAL_CLASSES
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.loading import load_model, make_denoiser
from ssdcli.models.packable import PACKABLE, is_packable, shapes
from ssdcli.models.weights.blueprint import blueprint
from ssdcli.models.weights.pretrained import need_of
from ssdcli.models.weights.stored import announced_need, core_need, kept_dtype
from ssdcli.registry.manifest import read_manifest
from ssdcli.registry.store import Registry
from tests.models.families.causal import (
    BEGIN,
    CONTEXT,
    END,
    END_OF_TEXT,
    MODEL_TYPES,
    ROWS,
    SPECIALS,
    TOKENS,
    config_of,
    write_causal,
)
from tests.models.families.checkpoints import WORDS, write_json
from tests.models.families.parity import TOLERANCE, spec_of, text

BLOCK = 16
PROMPTS = (7, 30, 41)  # beyond the sliding window, and not in whole blocks
VOCABULARY = Vocabulary(TOKENS, dict(zip(SPECIALS, range(WORDS, TOKENS), strict=True)), begin=BEGIN, end=END)


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
        for known in (0, 1, 6, 10, BLOCK - 1):
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
    tokens, new = text(30, 3), 2 * BLOCK
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


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_causal_core_gets_a_mask_a_block_size_and_the_ends_of_its_files(pulled, kind):
    spec, manifest = spec_of(pulled(f"causal-{kind}")), read_manifest(pulled(f"causal-{kind}"))
    rows, ends = (TOKENS, (END_OF_TEXT,)) if kind == "gpt2" else (ROWS, (END, END_OF_TEXT))
    assert (spec.process, spec.attention, spec.shift, spec.block_size) == ("masked", "autoregressive", True, BLOCK)
    assert spec.constants["mask_id"] == TOKENS  # the first row without a token, or the virtual id
    assert manifest.vocabulary == max(rows, TOKENS + 1)
    assert spec.suppressed == tuple(range(TOKENS, manifest.vocabulary))
    assert (spec.begin, spec.ends, spec.format) == (END_OF_TEXT, ends, "plain")
    assert manifest.architecture == kind
    assert spec.context == (96 if kind == "phi3" else CONTEXT)  # beyond, Phi-3's frequencies depend on the text


def test_what_a_causal_core_needs_includes_the_keys_and_values_of_a_text(pulled):
    entry = Registry(pulled("causal-llama").parents[1]).find("causal-llama")
    need = need_of_entry(entry)
    assert need.cache == 2 * 4 * 2 * 8 * CONTEXT  # keys and values of four layers of two heads of eight numbers
    assert need.working == 4 * (3 * ROWS * BLOCK + need.cache)
    assert any(sentence.startswith("A token after 128 others takes about") for sentence in outlook(entry, look()))


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_what_the_files_say_of_a_need_is_what_the_model_says(pulled, kind):
    folder = pulled(f"causal-{kind}")
    spec, config = spec_of(folder), read_config(folder)
    if not is_packable(config):
        pytest.skip("its need is read off the model")
    twin = blueprint(native_part(config))
    expected = need_of(twin, kept_dtype(folder), spec.block_size, spec.cached_tokens)
    assert core_need(folder, config, spec) == announced_need(native_part(config), kept_dtype(folder), spec) == expected
    assert expected.packs


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}])
def test_the_tensors_that_a_configuration_announces_are_those_of_the_model(kind, changes):
    entry = next(entry for entry in CAUSAL_CLASSES if entry.model_type == kind)
    native = {**entry.native(config_of(kind)), **changes}
    if not is_packable(native):
        pytest.skip("its tensors are its class's own")
    twin = blueprint(native)
    tied = twin.all_tied_weights_keys
    expected = {name: tuple(weight.shape) for name, weight in twin.state_dict().items() if name not in tied}
    assert shapes(completed(native)) == expected


def test_what_a_configuration_leaves_open_is_what_its_class_has():
    sizes = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    for model_type, architecture in ((entry.model_type, entry.architecture) for entry in CAUSAL_CLASSES):
        if architecture in PACKABLE:
            native = {"model_type": model_type, "architectures": [architecture], **sizes}
            assert shapes(native) == shapes(completed(native)), architecture


def test_the_embedding_of_a_virtual_mask_is_the_mean_of_all(pulled):
    traits = read_core_traits(pulled("causal-gpt2"))
    assert len(traits.embeddings) == TOKENS + 1
    torch.testing.assert_close(traits.embeddings[TOKENS], traits.embeddings[:TOKENS].mean(0))


LLAMA = next(family for family in CAUSAL if family.name == "llama")
CONFIG = config_of("llama")


def test_every_class_has_a_checkpoint_here():
    assert {entry.model_type for entry in CAUSAL_CLASSES} == set(MODEL_TYPES)


@pytest.mark.parametrize("entry", CAUSAL_CLASSES, ids=lambda entry: entry.model_type)
def test_every_class_is_recognised_by_its_architecture_or_its_type_alone(entry):
    config = config_of(entry.model_type)
    bare = {key: value for key, value in config.items() if key != "architectures"}
    assert recognise(config, VOCABULARY).name == recognise(bare, VOCABULARY).name == entry.model_type
    run = entry if entry.part is None else entry.part
    native = entry.native(bare)
    assert (native["model_type"], native["architectures"]) == (run.model_type, [run.architecture])


@pytest.mark.parametrize(
    "architecture", ["MixtralForCausalLM", "JambaForCausalLM", "MambaForCausalLM", "LlamaForSequenceClassification"]
)
def test_an_architecture_without_an_entry_is_refused_by_what_ssd_knows(architecture):
    config = {**CONFIG, "model_type": "other", "architectures": [architecture]}
    with pytest.raises(UsageError, match=rf"{architecture}.*not a language model that ssd knows") as refusal:
        recognise(config, VOCABULARY)
    assert all(family.title in str(refusal.value.remedy) for family in CAUSAL)
    assert "LLaDA" in str(refusal.value.remedy)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised.*'gptq'"),
        ({"quantization_config": {"bits": 4}}, "quantised.*'unknown'"),
        ({"mask_token_id": 7}, "names a mask.*7"),
        ({"is_causal": False}, "'is_causal' as False"),
        ({"use_bidirectional_attention": True}, "'use_bidirectional_attention'"),
        ({"max_position_embeddings": None}, "'max_position_embeddings'"),
        ({"vocab_size": "many"}, "'vocab_size'"),
    ],
)
def test_a_checkpoint_that_is_no_plain_causal_model_is_refused(changes, problem):
    with pytest.raises(SsdError, match=problem):
        LLAMA.native({**CONFIG, **changes})


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path):
    (write_causal(tmp_path, "llama") / "tokenizer.json").unlink()
    with pytest.raises(SsdError, match=r"no tokenizer\.json"):
        plan(tmp_path)


def test_a_checkpoint_with_the_tensors_of_another_class_is_refused(tmp_path):
    write_json(write_causal(tmp_path, "olmo2") / "config.json", CONFIG)
    with pytest.raises(SsdError, match="contradicts the weights"):
        pull(plan(tmp_path), "lying", Registry(), Watch(lambda _: None, lambda: None))
    assert not Registry().models.exists() or not list(Registry().models.iterdir())


@pytest.mark.parametrize("part", [None, [], {"hidden_size": "wide"}])
def test_a_checkpoint_without_its_language_model_is_refused_by_the_missing_part(part):
    gemma = next(family for family in CAUSAL if family.name == "gemma3")
    with pytest.raises(SsdError, match=r"'text_config'.*describes no language model"):
        gemma.native({**config_of("gemma3"), "text_config": part})


def test_what_a_class_does_not_have_is_not_carried_over():
    foreign = {"auto_map": {"AutoModel": "code.Model"}, "layer_types": ["sliding_attention"] * 4}
    assert not LLAMA.native({**CONFIG, **foreign}).keys() & foreign.keys()
    assert "layer_types" in next(f for f in CAUSAL if f.name == "qwen2").native({**config_of("qwen2"), **foreign})


RESERVED = {"<|reserved_special_token_0|>": WORDS + 3, "<|reserved_special_token_1|>": WORDS + 4}


@pytest.mark.parametrize(
    ("added", "rows", "expected"),
    [
        ({"[MASK]": TOKENS}, ROWS, TOKENS),
        ({}, ROWS, TOKENS),
        (RESERVED, TOKENS + 2, TOKENS + 1),
        ({"<unused9>": TOKENS}, TOKENS + 1, TOKENS),
        ({"<tool_call>": TOKENS}, TOKENS + 1, TOKENS + 1),
        ({}, TOKENS, TOKENS),
    ],
    ids=["its own mask", "a row without a token", "a reserved token", "an unused token", "none", "a full table"],
)
def test_the_mask_is_an_id_that_no_text_contains(added, rows, expected):
    ids = {**VOCABULARY.ids, **added}
    vocabulary = replace(VOCABULARY, size=TOKENS + len(added), ids=ids, mask=added.get("[MASK]"))
    spec = LLAMA.spec({**CONFIG, "vocab_size": rows}, vocabulary)
    assert spec.constants["mask_id"] == expected
    assert spec.vocabulary(rows) == max(rows, expected + 1)
    assert expected in spec.suppressed


def test_a_reserved_token_that_pads_or_ends_texts_is_no_mask():
    vocabulary = replace(VOCABULARY, size=TOKENS + 2, ids={**VOCABULARY.ids, **RESERVED}, pad=TOKENS + 1)
    spec = LLAMA.spec({**CONFIG, "vocab_size": TOKENS + 2, "eos_token_id": TOKENS}, vocabulary)
    assert spec.constants["mask_id"] == TOKENS + 2


@pytest.mark.parametrize(
    ("vocabulary", "named", "expected"),
    [
        (replace(VOCABULARY, opening=BEGIN), None, BEGIN),
        (VOCABULARY, None, END_OF_TEXT),
        (replace(VOCABULARY, ids={}), None, BEGIN),
        (replace(VOCABULARY, ids={}, begin=None), 5, 5),
        (replace(VOCABULARY, ids={}, begin=None), None, None),
    ],
    ids=["put by the tokenizer", "end of text", "the tokenizer's", "the model's", "none"],
)
def test_what_begins_a_text_is_what_stood_there_in_training(vocabulary, named, expected):
    assert LLAMA.spec({**CONFIG, "bos_token_id": named}, vocabulary).begin == expected


def test_ends_are_those_of_all_files_and_of_turns_where_there_is_a_template():
    ids = {**VOCABULARY.ids, "<|im_end|>": TOKENS}
    config = {**CONFIG, "eos_token_id": [END, 7], "generation_config": {"eos_token_id": [9, END]}}
    vocabulary = replace(VOCABULARY, size=TOKENS + 1, ids=ids)
    assert LLAMA.spec(config, vocabulary).ends == (END, 7, 9, END_OF_TEXT)
    chat = LLAMA.spec(config, replace(vocabulary, chat=True))
    assert (chat.ends, chat.format) == ((END, 7, 9, TOKENS, END_OF_TEXT), "chat")
