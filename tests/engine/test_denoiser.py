from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser, Prefix, denoise_sequence
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.packed import Packed
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from tests.packed import block_ids

PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex"])
KINDS = pytest.mark.parametrize("kind", [Denoiser, FullDenoiser], ids=["block-causal", "full"])
VOCABULARY, MASK, BLOCK = 50, 49, 4  # of make_denoiser
CONTEXT, ROOM = 64, 60
WIDE = {"block_size": 16, "context": 160}  # canvases that all CPUs round alike in any batch


def text(count: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, vocabulary - 1, (count,), generator=generator).tolist()


def noised(denoiser: Denoiser, tokens: Tensor, t: float, key: int = 5) -> Tensor:
    noise = CounterNoise([key + row for row in range(tokens.shape[0])])
    return denoiser.process.corrupt(tokens, torch.full(tokens.shape, t), noise)


def canvas_of(denoiser: Denoiser, rows: int = 1, t: float = 0.6) -> Tensor:
    tokens = torch.tensor([text(BLOCK, seed=90 + row) for row in range(rows)])
    return noised(denoiser, tokens, t)


def previous_of(denoiser: Denoiser, *shape: int) -> Tensor | None:
    torch.manual_seed(3)
    previous = torch.log_softmax(3 * torch.randn(*(shape or (1, BLOCK)), denoiser.process.vocabulary), dim=-1)
    return previous if denoiser.process.self_conditioned else None


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def differ(a: Tensor, b: Tensor) -> bool:
    """Whether every position's log p is another."""
    return bool(((a - b).nan_to_num().abs().amax(-1) > 1e-6).all())


def starting(denoiser: Denoiser, *texts: list[int]) -> tuple[Prefix, ...]:
    return denoiser.start([Prompt(tokens) for tokens in texts])


def changed(tokens: Sequence[int], place: int) -> list[int]:
    """The same text but for one token."""
    return [*tokens[:place], tokens[place] % (VOCABULARY - 2) + 1, *tokens[place + 1 :]]


def known(prefix: Prefix, row: int = 0) -> list[int]:
    """What a row of a prefix has read, without the padding."""
    width = prefix.tokens.shape[1]
    return prefix.tokens[row][prefix.real(0)[row][:width]].tolist()


def predict_all(denoiser: Denoiser, canvas: Tensor, clean: Tensor, blocks: Tensor, previous: Tensor | None) -> Tensor:
    """log p of every block of clean sequences (B, T), noised to 0.6, in the one pass of training."""
    backbone, process = denoiser.backbone, denoiser.process
    level = torch.full(clean.shape, 0.6) if process.timed else None
    embedded_previous = None if previous is None else backbone.embed_mixture(previous.exp())
    embedded = process.embed(canvas, backbone)
    hidden = denoise_sequence(backbone, embedded, Packed.plain(clean, blocks), level, embedded_previous)
    return torch.log_softmax(backbone.logits(hidden), dim=-1)


@PROCESSES
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_training_in_one_pass_predicts_what_denoising_block_by_block_does(make_denoiser, process, offset):
    denoiser = make_denoiser(process)
    rows = torch.tensor([text(24 - offset, seed=1), text(24 - offset, seed=2)])
    canvas, previous = noised(denoiser, rows, 0.6), previous_of(denoiser, *rows.shape)
    blocks = block_ids(rows.shape[1], BLOCK, torch.full((2,), offset))
    trained = predict_all(denoiser, canvas, rows, blocks, previous)
    first = BLOCK - offset
    prefixes = starting(denoiser, *rows[:, :first].tolist())
    for start in range(first, rows.shape[1], BLOCK):
        here = slice(start, start + BLOCK)
        said = None if previous is None else previous[:, here]
        close(denoiser.denoise(canvas[:, here], 0.6, said, prefixes), trained[:, here])
        prefixes = denoiser.commit(rows[:, here], prefixes)


@PROCESSES
@pytest.mark.parametrize("left", [5, 7, 12])
def test_training_that_reads_a_gap_last_predicts_what_filling_it_does(make_denoiser, process, left):
    """The text: a left side, a gap of two blocks, and a right side."""
    denoiser, gap = make_denoiser(process), 2 * BLOCK
    right = text(9, seed=2)
    tokens = torch.tensor([[*text(left), *text(gap, seed=4), *right]])
    of_left = block_ids(left, BLOCK, torch.tensor([-left % BLOCK]))[0].tolist()
    of_right = [of_left[-1] + 1 + i // BLOCK for i in range(len(right))]
    blocks = [*of_left, *(of_right[-1] + 1 + i // BLOCK for i in range(gap)), *of_right]
    canvas, previous = noised(denoiser, tokens, 0.6), previous_of(denoiser, *tokens.shape)
    trained = predict_all(denoiser, canvas, tokens, torch.tensor([blocks]), previous)

    def check(first: int, end: int, prompt: Prompt) -> None:
        prefixes = denoiser.start([prompt])
        for start in range(first, end, BLOCK):
            here = slice(start, start + BLOCK)
            said = None if previous is None else previous[:, here]
            close(denoiser.denoise(canvas[:, here], 0.6, said, prefixes), trained[:, here])
            prefixes = denoiser.commit(tokens[:, here], prefixes)

    first = (left - 1) % BLOCK + 1
    check(first, left, Prompt(tokens[0, :first].tolist()))
    check(left, left + gap, Prompt(tokens[0, :left].tolist(), right, gap))


@PROCESSES
def test_in_training_a_block_depends_on_its_noise_and_earlier_clean_text_alone(make_denoiser, process):
    denoiser = make_denoiser(process)
    backbone = denoiser.backbone
    clean = torch.tensor([text(18)])
    canvas = noised(denoiser, clean, 0.6)
    embedded = denoiser.process.embed(canvas, backbone).requires_grad_(True)
    context = backbone.embed(clean).requires_grad_(True)
    blocks = block_ids(18, BLOCK, torch.tensor([2]))
    level = torch.full(clean.shape, 0.6) if denoiser.process.timed else None
    backbone.embed = lambda _: context
    hidden = denoise_sequence(backbone, embedded, Packed.plain(clean, blocks), level)
    torch.manual_seed(5)
    for query in range(18):
        loss = (hidden[0, query] * torch.randn(hidden.shape[-1])).sum()
        by_noise, by_text = torch.autograd.grad(loss, (embedded, context), retain_graph=True)
        assert torch.equal(by_noise[0].abs().sum(-1) > 0, blocks[0] == blocks[0, query])
        assert torch.equal(by_text[0].abs().sum(-1) > 0, blocks[0] < blocks[0, query])


def straight(denoiser: Denoiser, canvas: Tensor, previous: Tensor | None, prompt: Prompt, written: list[int]) -> Tensor:
    """log p of a canvas at 0.6 behind the written blocks of a gap: the text in its order, one pass, no cache."""
    backbone, process, left = denoiser.backbone, denoiser.process, len(prompt.before)
    at, behind = left + len(written), left + prompt.gap
    right = [i for i, token in enumerate(prompt.after) if token is not None]
    level = torch.full((1, BLOCK), 0.6) if process.timed else None
    embedded_previous = None if previous is None else backbone.embed_mixture(previous.exp())
    noisy = backbone.condition(process.embed(canvas, backbone), level, embedded_previous)
    first = backbone.embed(torch.tensor([[*prompt.before, *written]]))
    last = backbone.embed(torch.tensor([[prompt.after[i] for i in right]], dtype=torch.int64))
    read = torch.tensor(
        [-((left - 1 - i) // BLOCK) for i in range(left)] + [100 + i // BLOCK for i in range(at - left)]
    )
    read = torch.cat([read, torch.full((BLOCK,), 999), torch.tensor([1 + i // BLOCK for i in right])])
    full = isinstance(denoiser, FullDenoiser)
    hidden = backbone.body(
        inputs_embeds=torch.cat([first, noisy, last], dim=1),
        position_ids=torch.tensor([[*range(at + BLOCK), *(behind + i for i in right)]]),
        attention_mask=None if full else (read[None, :] <= read[:, None])[None, None],
    ).last_hidden_state[:, at : at + BLOCK]
    return torch.log_softmax(backbone.logits(hidden), dim=-1)


GAPS = pytest.mark.parametrize(
    "prompt",
    [
        Prompt(text(11)),
        Prompt(text(7), [*text(6, seed=1), *[None] * 7, *text(5, seed=2)], 12),
        Prompt(text(1), text(40, seed=1), 12),
        Prompt(text(33), [None, 8, None], 8),
    ],
    ids=["plain", "ragged", "short", "sparse"],
)


@KINDS
@PROCESSES
@GAPS
def test_a_canvas_sees_the_known_tokens_around_it_at_their_places(make_denoiser, kind, process, prompt):
    denoiser = make_denoiser(process, kind=kind)
    canvas, previous = canvas_of(denoiser), previous_of(denoiser)
    prefixes, written = denoiser.start([prompt]), []
    for block in range(3 if prompt.gap != 8 else 2):
        close(denoiser.denoise(canvas, 0.6, previous, prefixes), straight(denoiser, canvas, previous, prompt, written))
        written += text(BLOCK, seed=10 + block)
        prefixes = denoiser.commit(torch.tensor([written[-BLOCK:]]), prefixes)


@KINDS
@PROCESSES
def test_a_canvas_depends_on_every_token_that_is_known_and_on_itself_both_ways(make_denoiser, kind, process):
    denoiser = make_denoiser(process, kind=kind)
    before, after, block = text(11), [3, None, None, 4, 5, None, 6], torch.tensor([text(BLOCK)])
    canvas = canvas_of(denoiser)

    def predict(before: list[int], after: list[int | None], canvas: Tensor) -> Tensor:
        prefixes = denoiser.start([Prompt(before, after, 2 * BLOCK)])
        said = [denoiser.denoise(canvas, 0.6, None, each) for each in (prefixes, denoiser.commit(block, prefixes))]
        return torch.cat(said)

    log_p = predict(before, after, canvas)
    for place in range(len(before)):
        assert differ(predict(changed(before, place), after, canvas), log_p)
    for place in (i for i, token in enumerate(after) if token is not None):
        assert differ(predict(before, changed(after, place), canvas), log_p)
    for place in range(BLOCK):
        other = canvas.clone()
        other[:, place] = canvas[:, place].roll(1, -1) if canvas.ndim == 3 else 7
        assert differ(predict(before, after, other), log_p)


@KINDS
@PROCESSES
def test_a_gap_with_nothing_known_behind_it_is_like_the_end_of_the_text(make_denoiser, kind, process):
    denoiser = make_denoiser(process, kind=kind)
    before, canvas, previous = text(11), canvas_of(denoiser), previous_of(denoiser)
    plain = denoiser.denoise(canvas, 0.6, previous, starting(denoiser, before))
    for after in ((), (None, None)):
        prefixes = denoiser.start([Prompt(before, after, 2 * BLOCK)])
        assert torch.equal(denoiser.denoise(canvas, 0.6, previous, prefixes), plain)


@KINDS
def test_around_a_gap_what_is_near_it_is_kept_and_the_window_holds_it_all(make_denoiser, kind):
    denoiser, gap = make_denoiser(kind=kind), 16
    before, after, canvas = text(100), text(100, seed=1), canvas_of(denoiser)
    prefixes = denoiser.start([Prompt(before, after, gap)])
    half = (CONTEXT - gap) // 2
    cut = denoiser.start([Prompt(before[-half:], after[:half], gap)])
    for _ in range(gap // BLOCK):
        (prefix,) = prefixes
        assert known(prefix)[: 2 * half] == before[-half:] + after[:half]
        assert max(prefix.positions.max(), prefix.canvas_positions(BLOCK).max()) < CONTEXT
        assert torch.equal(denoiser.denoise(canvas, 0.6, None, prefixes), denoiser.denoise(canvas, 0.6, None, cut))
        prefixes, cut = (denoiser.commit(torch.tensor([text(BLOCK)]), each) for each in (prefixes, cut))


@KINDS
@PROCESSES
@pytest.mark.parametrize("length", [1, 3, 4, 9, 30])
def test_committing_gives_what_starting_from_the_longer_text_gives(make_denoiser, kind, process, length):
    denoiser = make_denoiser(process, kind=kind)
    everything = text(length + 4 * BLOCK)
    canvas, previous = canvas_of(denoiser), previous_of(denoiser)
    prefixes = starting(denoiser, everything[:length])
    for end in range(length, len(everything) + 1, BLOCK):
        fresh = starting(denoiser, everything[:end])
        assert known(prefixes[0]) == known(fresh[0]) == everything[:end]
        close(denoiser.denoise(canvas, 0.3, previous, prefixes), denoiser.denoise(canvas, 0.3, previous, fresh))
        if end < len(everything):
            prefixes = denoiser.commit(torch.tensor([everything[end : end + BLOCK]]), prefixes)


@PROCESSES
def test_with_full_attention_a_gap_that_is_filled_in_part_is_a_smaller_gap(make_denoiser, process):
    denoiser = make_denoiser(process, kind=FullDenoiser)
    before, after, block = text(9), [*text(5), None, 7], text(BLOCK, seed=1)
    canvas, previous = canvas_of(denoiser), previous_of(denoiser)
    grown = denoiser.commit(torch.tensor([block]), denoiser.start([Prompt(before, after, 12)]))
    fresh = denoiser.start([Prompt(before + block, after, 8)])
    close(denoiser.denoise(canvas, 0.3, previous, grown), denoiser.denoise(canvas, 0.3, previous, fresh))


def tensors_of(prefixes: tuple[Prefix, ...]) -> list[Tensor]:
    own = [tensor for p in prefixes for tensor in (p.rows, p.tokens, p.positions, p.ranks, p.canvas_at)]
    layers = [layer for p in prefixes if p.cache is not None for layer in p.cache.layers]
    return own + [tensor for layer in layers for tensor in (layer.keys, layer.values)]


@KINDS
@PROCESSES
def test_neither_denoising_nor_committing_changes_a_prefix(make_denoiser, kind, process):
    denoiser = make_denoiser(process, kind=kind)
    prefixes = denoiser.start([Prompt(text(9)), Prompt(text(5), [3], 8), Prompt(text(40))])
    before = [tensor.clone() for tensor in tensors_of(prefixes)]
    canvas, previous = canvas_of(denoiser, rows=3), previous_of(denoiser, 3, BLOCK)
    log_p = denoiser.denoise(canvas, 0.9, previous, prefixes)
    denoiser.commit(torch.tensor([text(BLOCK)] * 3), prefixes)
    assert torch.equal(denoiser.denoise(canvas, 0.9, previous, prefixes), log_p)
    after = tensors_of(prefixes)
    assert len(before) == len(after)
    assert all(map(torch.equal, before, after))


def stand_alone(denoiser: Denoiser, prompts: list[Prompt], blocks: int) -> None:
    """Check that rows of a batch, beside others' canvases and predictions, are bit for bit what they are alone."""
    rows, size = len(prompts), denoiser.backbone.block_size
    together, alone = denoiser.start(prompts), [denoiser.start([prompt]) for prompt in prompts]
    assert 1 < len(together) < rows
    for block in range(blocks):
        seeds = range(block * rows, block * rows + rows)
        tokens = torch.tensor([text(size, seed, denoiser.process.vocabulary) for seed in seeds])
        canvas = noised(denoiser, tokens, 0.6, key=block * rows)
        previous = previous_of(denoiser, rows, size) if block % 2 else None
        log_p = denoiser.denoise(canvas, 0.6, previous, together)
        for row, prefixes in enumerate(alone):
            said = None if previous is None else previous[row : row + 1]
            assert torch.equal(denoiser.denoise(canvas[row : row + 1], 0.6, said, prefixes)[0], log_p[row])
        together = denoiser.commit(tokens, together)
        alone = [denoiser.commit(tokens[row : row + 1], prefixes) for row, prefixes in enumerate(alone)]


@KINDS
@PROCESSES
def test_a_row_is_bit_for_bit_what_it_is_alone_however_long_the_texts_grow(make_denoiser, kind, process):
    lengths = (33, 1, 45, 13, 144, 31, 200, 32)
    stand_alone(make_denoiser(process, kind=kind, **WIDE), [Prompt(text(n, seed=n)) for n in lengths], blocks=10)


@KINDS
@PROCESSES
def test_a_row_with_a_gap_is_bit_for_bit_what_it_is_alone(make_denoiser, kind, process):
    sides = ((1, 0), (5, 9), (9, 5), (40, 40), (3, 1), (1, 90), (20, 20))
    gaps = [Prompt(text(n, seed=n), [None, *text(m, seed=m)], 48) for n, m in sides]
    stand_alone(make_denoiser(process, kind=kind, **WIDE), [*gaps, Prompt(text(14)), Prompt(text(140))], blocks=3)


@KINDS
def test_a_row_of_the_bundled_model_is_bit_for_bit_what_it_is_alone(kind):
    folder = Path(str(files("ssdcli") / "bundled" / "models" / "starter"))
    words = text(300, vocabulary=8192)
    prompts = [Prompt(words[:n]) for n in (1, 20, 230, 300)]  # the third soon fills the window
    gaps = [Prompt(words[:n], [*words[100:160], None, 5], 32) for n in (50, 40)]
    stand_alone(kind(load_backbone(folder), Simplex(8192)), [*prompts, *gaps], blocks=2)


@KINDS
@PROCESSES
def test_predictions_are_normalised_and_exclude_what_is_never_text(make_denoiser, kind, process):
    denoiser = make_denoiser(process, kind=kind)
    log_p = denoiser.denoise(canvas_of(denoiser), 0.5, previous_of(denoiser), starting(denoiser, text(5)))
    assert log_p.shape == (1, BLOCK, VOCABULARY)
    assert log_p.dtype == torch.float32
    close(log_p.exp().sum(-1), torch.ones(1, BLOCK))
    never = MASK if process == "masked" else 0
    assert log_p[..., never].isneginf().all()
    assert log_p.isneginf().sum() == BLOCK


def test_only_a_process_that_asks_tells_the_model_its_level_and_its_last_prediction(make_denoiser):
    for process in ("masked", "simplex"):
        denoiser = make_denoiser(process, timed=True, self_conditioned=True)
        canvas, prefixes = canvas_of(denoiser), starting(denoiser, text(5))
        log_p = denoiser.denoise(canvas, 0.5, None, prefixes)
        previous = torch.log_softmax(torch.arange(float(VOCABULARY)).expand(1, BLOCK, -1), dim=-1)
        assert torch.equal(log_p, denoiser.denoise(canvas, 0.2, None, prefixes)) == (process == "masked")
        assert torch.equal(log_p, denoiser.denoise(canvas, 0.5, previous, prefixes)) == (process == "masked")


def test_a_long_prompt_is_cut_from_the_left_to_the_room_there_is(make_denoiser):
    denoiser = make_denoiser()
    assert denoiser.room == ROOM
    prompt, canvas = text(100), canvas_of(denoiser)
    cut, whole = starting(denoiser, prompt[-ROOM:]), starting(denoiser, prompt)
    assert known(whole[0]) == prompt[-ROOM:]
    assert torch.equal(denoiser.denoise(canvas, 0.5, None, whole), denoiser.denoise(canvas, 0.5, None, cut))


@KINDS
@PROCESSES
@pytest.mark.parametrize("context", [CONTEXT, 24, BLOCK + 1])
def test_a_full_window_goes_on_from_the_later_part_of_its_text(make_denoiser, kind, process, context):
    denoiser = make_denoiser(process, kind=kind, context=context)
    written = text(denoiser.room - denoiser.room // 10)
    canvas, previous = canvas_of(denoiser), previous_of(denoiser)
    prefixes = starting(denoiser, written)
    for block in range(20):
        written += text(BLOCK, seed=block)
        prefixes = denoiser.commit(torch.tensor([written[-BLOCK:]]), prefixes)
        kept = known(prefixes[0])
        assert denoiser.room / 2 <= len(kept) <= denoiser.room
        assert kept == written[-len(kept) :]
        assert prefixes[0].canvas_positions(BLOCK).max() == len(kept) + BLOCK - 1 < context
        log_p = denoiser.denoise(canvas, 0.4, previous, prefixes)
        close(log_p, denoiser.denoise(canvas, 0.4, previous, starting(denoiser, kept)))


def test_texts_of_like_length_are_read_together_and_little_is_read_for_nothing(make_denoiser):
    denoiser = make_denoiser(context=1024)
    lengths = range(1, denoiser.room + 1, 23)
    groups = starting(denoiser, *(text(n) for n in lengths))
    assert sorted(row for prefix in groups for row in prefix.rows.tolist()) == list(range(len(lengths)))
    assert len(groups) <= 16
    for prefix in groups:
        for row in prefix.rows.tolist():
            assert prefix.tokens.shape[1] - lengths[row] < max(32, lengths[row] / 4)
