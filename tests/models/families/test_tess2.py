from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssdcli.engine.noise import GeneratorNoise
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import SsdError
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.tess2 import TESS2
from tests.models.families import plain
from tests.models.families.checkpoints import read_weights
from tests.models.families.parity import TOLERANCE, open_core
from tests.models.families.simplex import Published, dense_weights, gaps, noised, rounded, said, text
from tests.models.families.tess2 import BEGIN, CONFIG, END, HEADS, KEYS, LAYERS, PAD, ROWS, WIDTH

VOCABULARY = Vocabulary(ROWS, {"[PAD]": PAD}, begin=BEGIN, end=END, pad=PAD, chat=True)


@pytest.fixture(scope="module")
def published(written) -> Published:
    weights = read_weights(written("tess2"))
    shape = plain.Shape(HEADS, KEYS, WIDTH // HEADS, theta=500.0, eps=1e-2, rotated=WIDTH // HEADS)
    layers = [_layer(weights, f"model.layers.{n}.") for n in range(LAYERS)]

    def log_p(prompt: Prompt, x: Tensor, t: float, p: Tensor | None) -> Tensor:
        words = weights["model.embed_tokens.weight"]
        previous = torch.zeros_like(x).softmax(-1) if p is None else p
        block = (x.softmax(-1) + previous) / 2 @ words + t * weights["timestep_embed.weight"][:, 0]
        embedded = torch.cat([words[list(prompt.before)], block, words[list(prompt.after)]])
        hidden = plain.body(embedded, layers, shape, plain.everything(len(embedded)))
        normed = plain.rms_norm(hidden, weights["model.norm.weight"], shape.eps)
        start = len(prompt.before)
        return plain.log_p(plain.shifted(normed), weights["lm_head.weight"], ())[start : start + len(x)]

    return log_p


def _layer(weights: dict[str, Tensor], prefix: str) -> dict:
    attention = {name: weights[f"{prefix}self_attn.{name}_proj.weight"] for name in ("q", "k", "v", "o")}
    mlp = plain.gated(*(weights[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")))
    norms = [weights[f"{prefix}{name}_layernorm.weight"] for name in ("input", "post_attention")]
    return {**attention, "norm": norms[0], "norm 2": norms[1], "mlp": mlp}


@pytest.fixture(scope="module")
def core(pulled):
    return open_core(pulled("tess2"))


@pytest.mark.parametrize("conditioned", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("t", [1.0, 0.3])
@pytest.mark.parametrize("lengths", [[7], [40, 1, 25, 64]], ids=["alone", "in a batch"])
def test_log_p_is_that_of_the_published_forward_pass(core, published, lengths, t, conditioned):
    prompts = [Prompt(text(length, seed)) for seed, length in enumerate(lengths)]
    assert max(gaps(core, published, prompts, t, conditioned)) <= TOLERANCE


def test_log_p_in_a_gap_is_that_of_the_published_forward_pass(core, published):
    size = core.backbone.block_size
    prompt, x = Prompt(text(9, 1), text(20, 2), size), noised(core, [1], 0.5)
    log_p = core.denoise(x, 0.5, None, core.start([prompt]))
    assert float((log_p[0] - published(prompt, x[0].double(), 0.5, None)).abs().max()) <= TOLERANCE


def test_alone_it_is_conditioned_on_all_of_its_own_previous_prediction(core, published):
    """Its softmax without a nucleus or a temperature, which is what the engine hands on as log p."""
    prompt, x = Prompt(text(9, 1)), noised(core, [1, 2], 0.5)
    prefixes = core.start([prompt])
    first = core.denoise(x[:1], 0.8, None, prefixes)
    second = core.denoise(x[1:], 0.5, first, prefixes)
    expected = published(prompt, x[1].double(), 0.5, published(prompt, x[0].double(), 0.8, None).exp())
    assert float((second[0] - expected).abs().max()) <= TOLERANCE


def test_a_uniform_previous_prediction_is_as_good_as_none(core):
    prefixes, x = core.start([Prompt(text(9, 1))]), noised(core, [1], 0.5)
    uniform = torch.zeros_like(x).log_softmax(-1)
    none, even = (core.denoise(x, 0.5, previous, prefixes) for previous in (None, uniform))
    assert torch.allclose(none, even, atol=1e-5)
    assert not torch.allclose(none, core.denoise(x, 0.5, said(core, [3]), prefixes), atol=0.1)


def test_a_row_of_a_batch_equals_its_single_run(core):
    prompts = [Prompt(text(length, seed)) for seed, length in enumerate([40, 3, 25])]
    canvas, previous = noised(core, range(3), 0.5), said(core, range(3))
    together = core.denoise(canvas, 0.5, previous, core.start(prompts))
    for row, prompt in enumerate(prompts):
        one = slice(row, row + 1)
        assert torch.equal(together[row], core.denoise(canvas[one], 0.5, previous[one], core.start([prompt]))[0])


def test_a_sparse_canvas_is_embedded_as_what_it_stands_for(core):
    ids, shares = SparseSimplex(ROWS).prior(24, GeneratorNoise([1, 2])).unbind(2)
    dense = core.backbone.embed_mixture(dense_weights(ids.long(), shares, ROWS))
    assert torch.allclose(core.backbone.embed_sparse(ids.long(), shares), dense, atol=1e-5)


def test_the_core_is_a_simplex_model_with_full_attention_whose_answers_end_or_are_padded():
    spec = TESS2.spec(CONFIG, VOCABULARY)
    assert (spec.process, spec.attention, spec.shift) == ("simplex", "full", True)
    assert (spec.constants, spec.block_size) == ({"K": 5.0, "s": 1e-4, "steps": 100}, 128)
    assert (spec.begin, spec.ends, spec.suppressed) == (BEGIN, (END, PAD), ())
    assert (spec.format, spec.late_ends) == ("chat", False)


def test_a_base_model_reads_plain_text():
    assert TESS2.spec(CONFIG, replace(VOCABULARY, chat=False)).format == "plain"


def test_rows_without_a_token_are_never_text():
    assert TESS2.spec({**CONFIG, "vocab_size": ROWS + 2}, VOCABULARY).suppressed == (ROWS, ROWS + 1)


@pytest.mark.parametrize(("positions", "context"), [(512, 512), (32_768, 2048)])
def test_the_window_is_what_it_learned_on_or_shorter(positions, context):
    assert TESS2.spec({**CONFIG, "max_position_embeddings": positions}, VOCABULARY).context == context


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_it_predicts_nearly_the_same(core, pulled, dtype):
    half, prompts, canvas = rounded(core, pulled("tess2"), dtype), [Prompt(text(9, 1))], noised(core, [2], 0.5)
    exact, near = (one.denoise(canvas, 0.5, said(core, [3]), one.start(prompts)) for one in (core, half))
    assert half.backbone.embed(torch.tensor([[7]])).dtype is getattr(torch, dtype)
    assert torch.allclose(exact.exp(), near.exp(), atol=0.05)


def test_hearing_costs_a_mixture_and_the_noise_level_a_vector(core):
    assert (core.backbone.sizes.table, core.backbone.sizes.time, core.backbone.sizes.self_conditioning) == (
        ROWS * WIDTH,
        WIDTH,
        0,
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("is_causal", True),
        ("disable_timestep_embed", True),
        ("self_condition", "logits_addition"),
        ("self_condition_mix_before_weights", False),
    ],
)
def test_a_config_that_is_no_tess_2_is_refused_by_the_key_that_says_so(key, value):
    with pytest.raises(SsdError, match=repr(key)):
        TESS2.native({**CONFIG, key: value})


def test_it_is_known_by_its_self_conditioning_and_a_plain_mistral_is_not():
    assert recognise(CONFIG, VOCABULARY) is TESS2
    plain_mistral = {key: value for key, value in CONFIG.items() if not key.startswith("self_condition")}
    with pytest.raises(SsdError, match="not a language model that ssd knows"):
        recognise(plain_mistral, VOCABULARY)


def test_nothing_but_what_mistral_knows_is_carried_over():
    native = TESS2.native({**CONFIG, "auto_map": {"AutoModel": "code.Model"}})
    assert not [key for key in native if key.startswith(("auto_map", "self_condition", "classifier", "padding"))]
