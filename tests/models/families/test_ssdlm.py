from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssdcli.engine.noise import GeneratorNoise
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import SsdError
from ssdcli.models.core_traits import read_core_traits
from ssdcli.models.families import recognise
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.families.ssdlm import SSDLM
from tests.models.families.parity import TOLERANCE, open_core
from tests.models.families.simplex import Published, dense_weights, gaps, noised, rounded, said, text
from tests.models.families.ssdlm import BEGIN, CONFIG, END, HEADS, LAYERS, MASK, PAD, ROWS, WIDTH

VOCABULARY = Vocabulary(ROWS, {"<mask>": MASK}, begin=BEGIN, end=END, mask=MASK, pad=PAD)
EPS = CONFIG["layer_norm_eps"]


@pytest.fixture(scope="module")
def weights(written) -> dict[str, Tensor]:
    """All tensors in float64, those of the two layers under the names of their files."""
    found = {}
    for file, prefix in [("pytorch_model.bin", ""), ("embed_sum_layer.pt", "sum."), ("timestep_layer.pt", "time.")]:
        table = torch.load(written("ssdlm") / file, weights_only=True)
        found |= {prefix + name.removeprefix("module."): tensor.double() for name, tensor in table.items()}
    return found


@pytest.fixture(scope="module")
def published(weights) -> Published:
    def log_p(prompt: Prompt, x: Tensor, t: float, p: Tensor | None) -> Tensor:
        words = weights["roberta.embeddings.word_embeddings.weight"]
        block = x.softmax(-1) @ weights["sum.weight"].T + t * weights["time.weight"][:, 0] + weights["time.bias"]
        known = [words[torch.tensor(side, dtype=torch.int64)] for side in (prompt.before, prompt.after)]
        start, stop = len(prompt.before), len(prompt.before) + prompt.gap
        places = [*range(start + len(x)), *range(stop, stop + len(prompt.after))]
        scores = _roberta(weights, torch.cat([known[0], block, known[1]]), places)[start : start + len(x)]
        scores[:, [PAD, MASK]] = -math.inf
        return scores.log_softmax(-1)

    return log_p


def _roberta(weights: dict[str, Tensor], x: Tensor, places: list[int]) -> Tensor:
    """RoBERTa's scores (T, V) of embeddings (T, H) at these places, of which the first is row 2 of its table."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + EPS)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def heads(x: Tensor, name: str) -> Tensor:
        return linear(x, name).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(0, 1)

    table = "roberta.embeddings"
    rows = torch.tensor(places) + 2
    x = x + weights[f"{table}.position_embeddings.weight"][rows] + weights[f"{table}.token_type_embeddings.weight"]
    x = norm(x, f"{table}.LayerNorm")
    for layer in (f"roberta.encoder.layer.{n}" for n in range(LAYERS)):
        q, k, v = (heads(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        mixed = (q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS)).softmax(-1) @ v
        attended = linear(mixed.transpose(0, 1).flatten(1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        inner = linear(gelu(linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
        x = norm(x + inner, f"{layer}.output.LayerNorm")
    x = norm(gelu(linear(x, "lm_head.dense")), "lm_head.layer_norm")
    return x @ weights[f"{table}.word_embeddings.weight"].T + weights["lm_head.bias"]


@pytest.fixture(scope="module")
def core(pulled):
    return open_core(pulled("ssdlm"))


@pytest.mark.parametrize("t", [1.0, 0.6, 0.04])
@pytest.mark.parametrize("lengths", [[7], [40, 3, 25, 64]], ids=["alone", "in a batch"])
def test_log_p_is_that_of_the_published_forward_pass(core, published, lengths, t):
    prompts = [Prompt(text(length, seed)) for seed, length in enumerate(lengths)]
    assert max(gaps(core, published, prompts, t, conditioned=False)) <= TOLERANCE


def test_log_p_in_a_gap_is_that_of_the_published_forward_pass(core, published):
    prompts = [Prompt(text(9, 1), text(20, 2), 72), Prompt(text(3, 3), text(5, 4), 72)]
    assert max(gaps(core, published, prompts, 0.5, conditioned=False)) <= TOLERANCE


def test_it_is_not_self_conditioned(core):
    prefixes, canvas = core.start([Prompt(text(9, 1))]), noised(core, [2], 0.5)
    assert torch.equal(*(core.denoise(canvas, 0.5, previous, prefixes) for previous in (None, said(core, [3]))))


def test_a_row_of_a_batch_equals_its_single_run(core):
    prompts = [Prompt(text(length, seed)) for seed, length in enumerate([40, 3, 25])]
    canvas = noised(core, range(3), 0.5)
    together = core.denoise(canvas, 0.5, None, core.start(prompts))
    for row, prompt in enumerate(prompts):
        alone = core.denoise(canvas[row : row + 1], 0.5, None, core.start([prompt]))
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("steps", [1000, 2500, 5000])
def test_noise_at_t_is_that_of_the_published_schedule_at_step_t_times_T(core, steps):
    def share(step: Tensor) -> Tensor:
        return (
            torch.cos((step / steps + 1e-4) / (1 + 1e-4) * torch.pi / 2) ** 2
            / math.cos(1e-4 / 1.0001 * math.pi / 2) ** 2
        )

    step = torch.arange(0, steps + 1, steps // 50).double()
    tokens = torch.full((1, len(step)), 7)
    z = 5 * GeneratorNoise([1]).normal(len(step), ROWS)
    clean = 10 * torch.nn.functional.one_hot(tokens, ROWS) - 5
    signal, noise = share(step)[None, :, None].sqrt(), (1 - share(step))[None, :, None].clamp(min=0).sqrt()
    drawn = core.process.corrupt(tokens, (step / steps)[None], GeneratorNoise([1]))
    assert torch.allclose(drawn.double(), signal * clean + noise * z, atol=2e-3)
    assert torch.allclose(core.process.abar(step / steps), share(step), atol=1e-12)


def test_a_sparse_canvas_is_embedded_as_what_it_stands_for(core):
    ids, shares = SparseSimplex(ROWS).prior(24, GeneratorNoise([1, 2])).unbind(2)
    dense = core.backbone.embed_mixture(dense_weights(ids.long(), shares, ROWS))
    assert torch.allclose(core.backbone.embed_sparse(ids.long(), shares), dense, atol=1e-5)


@pytest.mark.parametrize("t", [0.9, 0.4])
def test_the_input_at_a_sparsely_noised_position_has_the_mean_and_covariance_of_a_dense_one(core, t):
    means, products = [], []
    for process in (Simplex(ROWS), SparseSimplex(ROWS)):
        tokens = torch.full((40, 200), 7)
        canvas = process.corrupt(tokens, torch.full(tokens.shape, t), GeneratorNoise(range(40)))
        x = process.embed(canvas, core.backbone).flatten(0, 1)[:, :6].double()
        means.append(x)
        products.append((x[:, :, None] * x[:, None, :]).flatten(1))
    for a, b in (means, products):
        error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
        assert float(((a.mean(0) - b.mean(0)) / error).abs().max()) < 4.5


def test_the_core_is_a_timed_simplex_model_with_full_attention_of_plain_text():
    spec = SSDLM.spec(CONFIG, VOCABULARY)
    assert (spec.process, spec.attention, spec.shift) == ("simplex", "full", False)
    assert (spec.constants, spec.block_size) == ({"K": 5.0, "s": 1e-4, "steps": 1000}, 24)
    assert (spec.begin, spec.ends, spec.suppressed) == (BEGIN, (END,), (PAD, MASK))
    assert (spec.format, spec.late_ends) == ("plain", False)


@pytest.mark.parametrize(("positions", "context"), [(130, 128), (514, 200)])
def test_the_window_is_what_it_learned_on_or_as_long_as_its_table_of_positions(positions, context):
    assert SSDLM.spec({**CONFIG, "max_position_embeddings": positions}, VOCABULARY).context == context


def test_small_models_take_after_the_table_of_clean_tokens(pulled, weights):
    words = weights["roberta.embeddings.word_embeddings.weight"]
    assert torch.equal(read_core_traits(pulled("ssdlm")).embeddings.double(), words)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_it_predicts_nearly_the_same(core, pulled, dtype):
    half, prompts, canvas = rounded(core, pulled("ssdlm"), dtype), [Prompt(text(9, 1))], noised(core, [2], 0.5)
    exact, near = (one.denoise(canvas, 0.5, None, one.start(prompts)) for one in (core, half))
    assert half.backbone.embed(torch.tensor([[7]])).dtype is getattr(torch, dtype)
    assert torch.allclose(exact.exp(), near.exp(), atol=0.05)


def test_the_mixture_costs_a_table_and_the_noise_level_a_vector(core):
    assert (core.backbone.sizes.table, core.backbone.sizes.time, core.backbone.sizes.self_conditioning) == (
        ROWS * WIDTH,
        WIDTH,
        None,
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "relu"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("tie_word_embeddings", False),
    ],
)
def test_a_config_that_is_no_ssd_lm_is_refused_by_the_key_that_says_so(key, value):
    with pytest.raises(SsdError, match=repr(key)):
        SSDLM.native({**CONFIG, key: value})


def test_a_tokenizer_without_a_mask_is_refused():
    with pytest.raises(SsdError, match="<mask>"):
        SSDLM.spec(CONFIG, Vocabulary(ROWS))


def test_it_is_known_by_its_config():
    assert recognise(CONFIG, VOCABULARY) is SSDLM
    assert "auto_map" not in SSDLM.native({**CONFIG, "auto_map": {"AutoModel": "code.Model"}})
