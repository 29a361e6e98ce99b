from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.engine.sampling.stopping import EarlyStop
from ssdcli.errors import SsdError
from ssdcli.models.core_config import read_config
from ssdcli.models.families import recognise
from ssdcli.models.families.diffusion_gemma import DIFFUSION_GEMMA
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.native_checkpoint import input_embeddings
from ssdcli.text.chat_template import read_chat
from ssdcli.text.messages import Message
from tests.models.families import diffusion_gemma as tiny
from tests.models.families.parity import TOLERANCE, open_core, spec_of

BLOCK, ROWS, WINDOW = tiny.BLOCK, tiny.ROWS, tiny.WINDOW
WORDS = Vocabulary(ROWS, {token: id for id, token in enumerate(tiny.TOKENS)}, begin=tiny.BEGIN, end=tiny.END, chat=True)
CONSTANTS = {"timed": 0, "hot": 0.1, "cold": 0.05, "bound": 4.0, "sure": 0.5, "stable": 1, "steps": 14}


@pytest.fixture(scope="module")
def core(pulled) -> Denoiser:
    return open_core(pulled("diffusion_gemma"))


@pytest.fixture(scope="module")
def native(written) -> Any:
    return tiny.open_native(written("diffusion_gemma"))


def text(length: int, seed: int) -> list[int]:
    return torch.randint(ROWS, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def natively(native: Any, known: list[int], canvas: Tensor, previous: Tensor | None) -> Tensor:
    """Log p (L, V) of the native forward pass: its encoder over a text, its decoder over a canvas."""
    said = native(
        input_ids=torch.tensor([known]),
        decoder_input_ids=canvas[None],
        self_conditioning_logits=None if previous is None else previous[None].double(),
    )
    return said.logits[0].index_fill(-1, torch.tensor(tiny.NEVER), -torch.inf).log_softmax(-1)


@pytest.mark.parametrize("lengths", [[40], [3], [33, 3, 25, WINDOW, 64, 12]], ids=str)
def test_log_p_is_that_of_the_native_class_with_and_without_self_conditioning_and_after_blocks(core, native, lengths):
    texts = [text(length, seed) for seed, length in enumerate(lengths)]
    prefixes = core.start([Prompt(known) for known in texts])
    for block in range(3):
        canvas = torch.tensor([text(BLOCK, 100 + 10 * block + row) for row in range(len(texts))])
        previous = None
        for _ in range(2):
            said = core.denoise(canvas, 0.5, previous, prefixes)
            for row, known in enumerate(texts):
                expected = natively(native, known, canvas[row], None if previous is None else previous[row])
                torch.testing.assert_close(said[row].double(), expected.double(), rtol=0, atol=TOLERANCE)
            previous = said
        clean = torch.tensor([text(BLOCK, 200 + 10 * block + row) for row in range(len(texts))])
        prefixes = core.commit(clean, prefixes)
        texts = [known + row for known, row in zip(texts, clean.tolist(), strict=True)]


def test_the_previous_prediction_and_what_is_further_back_than_a_window_count(core):
    known, canvas = text(40, 1), torch.tensor([text(BLOCK, 2)])
    unconditioned, other = (
        core.denoise(canvas, 0.5, None, core.start([Prompt(tokens)])) for tokens in (known, [0, *known[1:]])
    )
    previous = core.denoise(canvas, 0.5, unconditioned, core.start([Prompt(known)]))
    spoken = unconditioned.isfinite()
    assert (previous - unconditioned)[spoken].abs().max() > 0.01
    assert (other - unconditioned)[spoken].abs().max() > 1e-4


def test_a_row_is_the_same_bits_in_any_batch(core):
    prompts = [Prompt(text(length, length)) for length in (3, 40, 9, 33, 12, 5, 60)]
    canvas = torch.tensor([text(BLOCK, row) for row in range(len(prompts))])
    together = core.denoise(canvas, 0.5, None, core.start(prompts))
    for row, prompt in enumerate(prompts):
        assert torch.equal(core.denoise(canvas[row : row + 1], 0.5, None, core.start([prompt]))[0], together[row])


def test_a_canvas_leaves_the_prefix_as_it_was_and_windows_keep_no_more_than_they_show(core):
    (prefix,) = core.start([Prompt(text(40, 1))])
    before = [(layer.keys, layer.keys.clone()) for layer in prefix.cache.layers]
    core.denoise(torch.tensor([text(BLOCK, 2)]), 0.5, None, (prefix,))
    core.commit(torch.tensor([text(BLOCK, 2)]), (prefix,))
    for layer, (keys, copy) in zip(prefix.cache.layers, before, strict=True):
        assert layer.keys is keys
        assert torch.equal(keys, copy)
    columns = prefix.tokens.shape[1]
    kept = [columns if kind == "full_attention" else WINDOW - 1 for kind in tiny.KINDS]
    assert [layer.keys.shape[-2] for layer in prefix.cache.layers] == kept


def test_mixtures_of_embeddings_are_scaled_as_embeddings_are(core):
    tokens = torch.tensor([[5, 300, 7]])
    onehot = torch.nn.functional.one_hot(tokens, ROWS).float()
    embedded = core.backbone.embed(tokens)
    torch.testing.assert_close(core.backbone.embed_mixture(onehot), embedded)
    torch.testing.assert_close(core.backbone.embed_sparse(tokens[..., None], torch.ones(1, 3, 1)), embedded)
    even = core.backbone.embed(torch.arange(ROWS)[None]).mean(1)
    torch.testing.assert_close(core.backbone.embed_sparse(tokens[..., None], torch.zeros(1, 3, 1))[0, :1], even)


def test_of_the_layers_what_a_token_runs_through_is_counted_and_nothing_that_reads_images(core):
    sliding, full = (
        tiny.WIDTH * (2 * tiny.HEADS * head + parts * keys * head)
        for head, keys, parts in ((tiny.HEAD, tiny.KEYS, 2), (tiny.GLOBAL_HEAD, tiny.GLOBAL_KEYS, 1))
    )
    networks = 3 * tiny.WIDTH * tiny.MLP + tiny.EXPERTS * tiny.WIDTH + 2 * 3 * tiny.WIDTH * tiny.EXPERT_MLP
    kinds = [kind == "sliding_attention" for kind in tiny.KINDS]
    sizes = core.backbone.sizes
    assert sizes.body == sum((sliding if slides else full) + networks for slides in kinds)
    assert sizes.attention == tiny.HEADS * sum(tiny.HEAD if slides else tiny.GLOBAL_HEAD for slides in kinds)
    assert (sizes.table, sizes.lift, sizes.self_conditioning) == (ROWS * tiny.WIDTH, 0, 3 * tiny.WIDTH * tiny.MLP)


def test_the_files_are_linked_and_the_table_for_small_models_is_found_in_them(pulled, written):
    folder, published = pulled("diffusion_gemma"), written("diffusion_gemma")
    weights = sorted(folder.glob("*.safetensors"))
    assert len(weights) == 2
    assert all(file.is_symlink() or file.stat().st_nlink > 1 for file in weights)
    assert [file.read_bytes() for file in weights] == [
        file.read_bytes() for file in sorted(published.glob("*.safetensors"))
    ]
    table = tiny.tensors(tiny.Draw(0))["model.decoder.embed_tokens.weight"]
    assert torch.equal(input_embeddings(folder, read_config(folder)), table)


def test_the_core_is_run_as_its_configuration_and_that_of_its_generation_say(pulled):
    spec = spec_of(pulled("diffusion_gemma"))
    assert (spec.process, spec.constants) == ("uniform", CONSTANTS)
    assert (spec.attention, spec.block_size, spec.context, spec.shift) == ("causal", BLOCK, 128, False)
    assert (spec.begin, spec.ends) == (tiny.BEGIN, (tiny.END, tiny.TURN, tiny.RESPONSE))
    assert (spec.suppressed, spec.format, spec.late_ends) == (tiny.NEVER, "chat", False)


def test_its_process_is_made_from_its_constants_and_gives_them_back(core):
    process = core.process
    assert process.constants() == CONSTANTS
    assert not process.timed
    reverse = reverse_process(process)
    assert (reverse.temperatures, reverse.steps, reverse.stop) == ((0.1, 0.05), 14, EarlyStop(0.5, 1))
    assert core.backbone.reading_block == 1


def test_what_no_file_says_is_as_the_native_class_has_it():
    config = {key: value for key, value in tiny.CONFIG.items() if key not in ("canvas_length", "eos_token_id")}
    spec = DIFFUSION_GEMMA.spec(config, Vocabulary(ROWS))
    native = {"hot": 0.8, "cold": 0.4, "bound": 0.1, "sure": 0.005, "stable": 1, "steps": 48}
    assert (spec.constants, spec.block_size, spec.ends) == ({"timed": 0, **native}, 256, (tiny.END,))
    assert (spec.begin, spec.format) == (None, "plain")


def test_rows_without_a_token_are_never_text():
    config = {**tiny.CONFIG, "text_config": {**tiny.CONFIG["text_config"], "vocab_size": ROWS + 2}}
    assert DIFFUSION_GEMMA.spec(config, WORDS).suppressed == (*tiny.NEVER, ROWS, ROWS + 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tie_word_embeddings": False}, "'tie_word_embeddings' as False"),
        ({"text_config": {"use_bidirectional_attention": "all"}}, "'use_bidirectional_attention' as 'all'"),
    ],
    ids=["untied", "both ways"],
)
def test_a_checkpoint_that_would_be_read_otherwise_is_refused(change, complaint):
    with pytest.raises(SsdError, match=complaint):
        DIFFUSION_GEMMA.native({**tiny.CONFIG, **change})


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({**tiny.CONFIG, "canvas_length": "long"}, "'canvas_length'"),
        ({**tiny.CONFIG, "text_config": None}, "'max_position_embeddings'"),
        ({**tiny.CONFIG, "generation_config": {"t_max": "hot"}}, "'t_max'"),
    ],
    ids=["canvas", "text", "temperature"],
)
def test_what_should_be_a_number_and_is_none_is_named(config, complaint):
    with pytest.raises(SsdError, match=complaint):
        DIFFUSION_GEMMA.spec(config, WORDS)


def test_it_is_known_by_its_class_or_its_type():
    for key in ("architectures", "model_type"):
        assert recognise({key: tiny.CONFIG[key]}, WORDS) is DIFFUSION_GEMMA
    assert "auto_map" not in DIFFUSION_GEMMA.native({**tiny.CONFIG, "auto_map": {"AutoModel": "theirs.Model"}})


def test_a_conversation_goes_through_its_template(pulled):
    chat = read_chat(pulled("diffusion_gemma"), "tiny")
    assert chat.render([Message("user", "hello")]) == "<bos><|turn>user\nhello<turn|>\n<|turn>model\n"
