from __future__ import annotations

import pytest
import torch

from ssdcli.engine.blocks import block_ids
from ssdcli.engine.denoiser import Denoiser, denoise_sequence
from ssdcli.engine.noise import CounterNoise

PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex"])
VOCABULARY, MASK, BLOCK = 50, 49, 4  # of make_denoiser
ROOM = 60


def text(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY - 1, (count,), generator=generator).tolist()


def noised(denoiser: Denoiser, tokens: torch.Tensor, t: float, key: int = 5) -> torch.Tensor:
    noise = CounterNoise([key + row for row in range(tokens.shape[0])])
    return denoiser.process.corrupt(tokens, torch.full(tokens.shape, t), noise)


def canvas_of(denoiser: Denoiser, rows: int = 1, t: float = 0.6) -> torch.Tensor:
    tokens = torch.tensor([text(BLOCK, seed=90 + row) for row in range(rows)])
    return noised(denoiser, tokens, t)


def heard_by(denoiser: Denoiser, rows: int = 1) -> torch.Tensor | None:
    torch.manual_seed(3)
    heard = torch.log_softmax(3 * torch.randn(rows, BLOCK, VOCABULARY), dim=-1)
    return heard if denoiser.process.hears_itself else None


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def predict_all(denoiser: Denoiser, canvas, clean, blocks, t: float, heard=None) -> torch.Tensor:
    """log p of every block of clean sequences (B, T) in the one pass of training."""
    backbone, process = denoiser.backbone, denoiser.process
    level = torch.full(clean.shape, t) if process.timed else None
    echo = None if heard is None else backbone.embed_mixture(heard.exp())
    embedded = process.embed(canvas, backbone)
    hidden = denoise_sequence(backbone, embedded, backbone.embed(clean), blocks, (level, echo))
    return torch.log_softmax(backbone.logits(hidden), dim=-1)


@PROCESSES
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_training_in_one_pass_predicts_what_denoising_block_by_block_does(make_denoiser, process, offset):
    denoiser = make_denoiser(process)
    rows = torch.tensor([text(24 - offset, seed=1), text(24 - offset, seed=2)])
    canvas = noised(denoiser, rows, 0.6)
    torch.manual_seed(4)
    heard = torch.log_softmax(3 * torch.randn(*rows.shape, VOCABULARY), dim=-1)
    heard = heard if denoiser.process.hears_itself else None
    blocks = block_ids(rows.shape[1], BLOCK, torch.full((2,), offset))
    trained = predict_all(denoiser, canvas, rows, blocks, 0.6, heard)
    first = BLOCK - offset
    prefix = denoiser.start(rows[:, :first].tolist())
    for start in range(first, rows.shape[1], BLOCK):
        here = slice(start, start + BLOCK)
        said = None if heard is None else heard[:, here]
        close(denoiser.denoise(canvas[:, here], 0.6, said, prefix), trained[:, here])
        prefix = denoiser.commit(rows[:, here], prefix)


@PROCESSES
def test_in_training_a_block_depends_on_its_noise_and_earlier_clean_text_alone(make_denoiser, process):
    denoiser = make_denoiser(process)
    backbone = denoiser.backbone
    clean = torch.tensor([text(18)])
    canvas = noised(denoiser, clean, 0.6)
    embedded = denoiser.process.embed(canvas, backbone).requires_grad_(True)
    known = backbone.embed(clean).requires_grad_(True)
    blocks = block_ids(18, BLOCK, torch.tensor([2]))
    level = torch.full(clean.shape, 0.6) if denoiser.process.timed else None
    hidden = denoise_sequence(backbone, embedded, known, blocks, (level, None))
    torch.manual_seed(5)
    for query in range(18):
        loss = (hidden[0, query] * torch.randn(hidden.shape[-1])).sum()
        by_noise, by_text = torch.autograd.grad(loss, (embedded, known), retain_graph=True)
        assert torch.equal(by_noise[0].abs().sum(-1) > 0, blocks[0] == blocks[0, query])
        assert torch.equal(by_text[0].abs().sum(-1) > 0, blocks[0] < blocks[0, query])


@PROCESSES
def test_a_canvas_depends_on_all_of_its_prefix_and_on_itself_both_ways(make_denoiser, process):
    denoiser = make_denoiser(process)
    prompt = text(11)
    canvas = canvas_of(denoiser)
    log_p = denoiser.denoise(canvas, 0.6, None, denoiser.start([prompt]))
    for place in range(len(prompt)):
        changed = [*prompt[:place], prompt[place] % (VOCABULARY - 2) + 1, *prompt[place + 1 :]]
        other = denoiser.denoise(canvas, 0.6, None, denoiser.start([changed]))
        assert ((other - log_p).nan_to_num().abs().amax(-1) > 1e-6).all()
    for place in range(BLOCK):
        changed_canvas = canvas.clone()
        changed_canvas[:, place] = canvas[:, place].roll(1, -1) if canvas.ndim == 3 else 7
        other = denoiser.denoise(changed_canvas, 0.6, None, denoiser.start([prompt]))
        assert ((other - log_p).nan_to_num().abs().amax(-1) > 1e-6).all()


@PROCESSES
@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_the_cache_gives_what_reading_from_scratch_gives(make_denoiser, process, length):
    denoiser = make_denoiser(process)
    everything = text(length + 4 * BLOCK)
    canvas, heard = canvas_of(denoiser), heard_by(denoiser)
    prefix = denoiser.start([everything[:length]])
    for end in range(length, len(everything) + 1, BLOCK):
        fresh = denoiser.start([everything[:end]])
        assert torch.equal(prefix.tokens, fresh.tokens)
        assert torch.equal(prefix.lengths, fresh.lengths)
        close(
            denoiser.denoise(canvas, 0.3, heard, prefix),
            denoiser.denoise(canvas, 0.3, heard, fresh),
        )
        if end + BLOCK <= len(everything):
            prefix = denoiser.commit(torch.tensor([everything[end : end + BLOCK]]), prefix)


@PROCESSES
def test_neither_denoising_nor_committing_changes_a_prefix(make_denoiser, process):
    denoiser = make_denoiser(process)
    prefix = denoiser.start([text(9), text(5, seed=1)])
    before = [prefix.tokens.clone(), prefix.lengths.clone()]
    kept = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.cache.layers]
    canvas, heard = canvas_of(denoiser, rows=2), heard_by(denoiser, rows=2)
    log_p = denoiser.denoise(canvas, 0.9, heard, prefix)
    denoiser.commit(torch.tensor([text(BLOCK), text(BLOCK)]), prefix)
    assert torch.equal(denoiser.denoise(canvas, 0.9, heard, prefix), log_p)
    assert torch.equal(prefix.tokens, before[0])
    assert torch.equal(prefix.lengths, before[1])
    for layer, (keys, values) in zip(prefix.cache.layers, kept, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


@PROCESSES
def test_a_row_among_others_is_as_it_is_alone(make_denoiser, process):
    denoiser = make_denoiser(process)
    rows = [text(length, seed=length) for length in (13, 1, 6, 20)]
    canvas, heard = canvas_of(denoiser, rows=4), heard_by(denoiser, rows=4)
    committed = torch.tensor([text(BLOCK, seed=50 + row) for row in range(4)])
    together = denoiser.start(rows)
    grown = denoiser.commit(committed, together)
    for row in range(4):
        one = slice(row, row + 1)
        said = None if heard is None else heard[one]
        alone = denoiser.start([rows[row]])
        for many, single in ((together, alone), (grown, denoiser.commit(committed[one], alone))):
            batched = denoiser.denoise(canvas, 0.5, heard, many)[one]
            close(batched, denoiser.denoise(canvas[one], 0.5, said, single))


@PROCESSES
def test_predictions_are_normalised_and_exclude_what_is_never_text(make_denoiser, process):
    denoiser = make_denoiser(process)
    log_p = denoiser.denoise(canvas_of(denoiser), 0.5, heard_by(denoiser), denoiser.start([text(5)]))
    assert log_p.shape == (1, BLOCK, VOCABULARY)
    assert log_p.dtype == torch.float32
    close(log_p.exp().sum(-1), torch.ones(1, BLOCK))
    never = MASK if process == "masked" else 0
    assert log_p[..., never].isneginf().all()
    assert log_p.isneginf().sum() == BLOCK


def test_only_a_process_that_asks_tells_the_model_its_level_and_its_last_prediction(make_denoiser):
    for process in ("masked", "simplex"):
        denoiser = make_denoiser(process, timed=True, hears_itself=True)
        canvas, prefix = canvas_of(denoiser), denoiser.start([text(5)])
        log_p = denoiser.denoise(canvas, 0.5, None, prefix)
        torch.manual_seed(3)
        heard = torch.log_softmax(3 * torch.randn(1, BLOCK, VOCABULARY), dim=-1)
        assert torch.equal(log_p, denoiser.denoise(canvas, 0.2, None, prefix)) == (process == "masked")
        assert torch.equal(log_p, denoiser.denoise(canvas, 0.5, heard, prefix)) == (process == "masked")


def test_a_long_prompt_is_cut_from_the_left_to_the_room_there_is(make_denoiser):
    denoiser = make_denoiser()
    assert denoiser.room == ROOM
    prompt = text(100)
    prefix = denoiser.start([prompt])
    assert prefix.tokens.tolist() == [prompt[-ROOM:]]
    canvas = canvas_of(denoiser)
    assert torch.equal(
        denoiser.denoise(canvas, 0.5, None, prefix),
        denoiser.denoise(canvas, 0.5, None, denoiser.start([prompt[-ROOM:]])),
    )


@PROCESSES
def test_a_full_window_goes_on_from_the_later_half_of_its_text(make_denoiser, process):
    denoiser = make_denoiser(process)
    written = text(ROOM - 2)
    canvas, heard = canvas_of(denoiser), heard_by(denoiser)
    prefix = denoiser.start([written])
    for _ in range(20):
        block = text(BLOCK, seed=len(written))
        written += block
        prefix = denoiser.commit(torch.tensor([block]), prefix)
        length = prefix.tokens.shape[1]
        assert ROOM // 2 <= length <= ROOM
        assert prefix.tokens.tolist() == [written[-length:]]
        log_p = denoiser.denoise(canvas, 0.4, heard, prefix)
        assert log_p.isfinite().sum() == BLOCK * (VOCABULARY - 1)
        close(log_p, denoiser.denoise(canvas, 0.4, heard, denoiser.start([written[-length:]])))


@pytest.mark.parametrize("lengths", [(60, 50), (60, 3), (57, 59), (60, 28), (58, 40)])
def test_a_row_whose_neighbour_fills_the_window_is_as_it_is_alone(make_denoiser, lengths):
    denoiser = make_denoiser()
    rows = [text(length, seed=length) for length in lengths]
    canvas = canvas_of(denoiser, rows=2)
    together = denoiser.start(rows)
    alone = [denoiser.start([row]) for row in rows]
    for step in range(12):
        blocks = torch.tensor([text(BLOCK, seed=step), text(BLOCK, seed=step + 100)])
        together = denoiser.commit(blocks, together)
        log_p = denoiser.denoise(canvas, 0.5, None, together)
        for row in range(2):
            one = slice(row, row + 1)
            alone[row] = denoiser.commit(blocks[one], alone[row])
            assert together.lengths[row] == alone[row].lengths[0]
            close(log_p[one], denoiser.denoise(canvas[one], 0.5, None, alone[row]))
