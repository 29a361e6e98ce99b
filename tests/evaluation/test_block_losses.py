"""Losses of whole texts by members that read them as they read prefixes are those of their blocks one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.rules import average, mix
from ssdcli.engine.ensemble.schedules import Constant, Leaning
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.noise import fold
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.whole_text import can_be_read_whole
from ssdcli.evaluation import block_losses as module
from ssdcli.evaluation.block_losses import BlockSettings, block_losses
from ssdcli.evaluation.combinations import Combination, alone
from ssdcli.evaluation.losses import LEVELS, LossSettings, Pace, level_bin, measure
from ssdcli.evaluation.runs import runs_of
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from tests.tiny import member

V, MASK, BLOCK = 12, 11, 4
PROCESSES = {"masked": Masked(V, MASK), "simplex": Simplex(V)}


def model(seed, process, context=64, reading=BLOCK):
    timed = process.name == "simplex"
    fields = {"timed": timed, "self_conditioned": timed, "suppressed": (MASK,)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BlockDiffusionLM(BackboneConfig(V, 32, 1, 32, block_size=BLOCK, context=context, **fields))
        backbone.table.data.mul_(2)
    backbone.reading_block = reading
    return member(f"m{seed}", Denoiser(backbone.eval().requires_grad_(False), process))


def texts(*lengths, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    rows = [torch.randint(MASK, (length,), generator=drawn).tolist() for length in lengths]
    return [ScoredText([0, *row], 2 * len(row)) for row in rows]


def one_by_one(members, combination, text, settings):
    """The same losses, by bins of levels: each block is denoised after the blocks before it, as in generation."""
    found = np.zeros(LEVELS)
    process = members[0].model.denoiser.process
    for run in runs_of(text):
        for repeat in range(settings.repeats):
            noised = module._noised(members[0].model, run, fold(settings.seed, 0, run.start, repeat))
            prefixes = [one.model.denoiser.start([one.model.after(text.tokens[1 : run.start])]) for one in members]
            for start in range(0, noised.tokens.shape[1], BLOCK):
                here = slice(start, start + BLOCK)
                tokens, t = noised.tokens[:, here], float(noised.t[0, start])
                said = [
                    one.model.denoiser.denoise(noised.canvas[:, here], t, None, prefix)
                    for one, prefix in zip(members, prefixes, strict=True)
                ]
                log_p = combination.rule(said, combination.weights(t)).gather(-1, tokens[..., None])[0, :, 0]
                due = process.loss_weights(noised.canvas[:, here], noised.t[:, here])[0]
                due[len(run) - start :] = 0
                found[int(level_bin(torch.tensor(t)))] -= float((log_p * due).sum()) / settings.repeats
                prefixes = [
                    one.model.denoiser.commit(tokens, prefix) for one, prefix in zip(members, prefixes, strict=True)
                ]
    return found


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("reading", [1, BLOCK])
@pytest.mark.parametrize("length", [3, 30, 90])
def test_all_blocks_at_once_lose_what_they_lose_one_by_one(name, reading, length):
    process = PROCESSES[name]
    members, settings = [model(1, process, reading=reading), model(2, process, 40)], BlockSettings(seed=3)
    (text,) = texts(length)
    combinations = [
        Combination(mix, (Constant(0.5), Constant(0.5))),
        Combination(average, (Constant(0.6), Leaning(0.4, 2.0))),
    ]
    losses = block_losses(members, [text], combinations, settings)
    for column, combination in enumerate(combinations):
        expected = one_by_one(members, combination, text, settings)
        np.testing.assert_allclose(losses.level_sums[:, column], expected, rtol=1e-4, atol=1e-4)
        assert losses.sums[0, column] == pytest.approx(expected.sum(), rel=1e-4)
    assert losses.level_tokens.sum() == pytest.approx(length)


def test_of_a_conversation_the_answers_alone_are_scored():
    process = PROCESSES["masked"]
    members, settings = [model(1, process), model(2, process)], BlockSettings()
    (text,) = texts(40)
    talk = ScoredText(text.tokens, 9, scored=[place in {*range(7, 13), *range(25, 31)} for place in range(41)])
    combination = Combination(mix, (Constant(0.5), Constant(0.5)))
    losses = block_losses(members, [talk], [combination], settings)
    expected = one_by_one(members, combination, talk, settings)
    np.testing.assert_allclose(losses.level_sums[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert (losses.tokens.tolist(), losses.bytes.tolist()) == ([12], [9])


def test_they_estimate_what_windows_of_several_texts_do():
    """On other noise, and with blocks that begin after the opening, not with it."""
    process = PROCESSES["masked"]
    one, heldout = model(1, process), texts(*[32] * 60)
    found = block_losses([one], heldout, [alone(0, 1)], BlockSettings(repeats=4))
    other = measure([one.model.denoiser.backbone], process, heldout, [0.0], LossSettings(33, repeats=4))
    assert found.nats_per_token()[0] == pytest.approx(other.nats_per_token()[0], rel=0.05)
    assert np.isfinite(found.level_margins).all()


def test_a_seed_repeats_them_and_time_ends_them_after_a_whole_text():
    process = PROCESSES["simplex"]
    one = model(1, process)
    sums = [block_losses([one], texts(9, 5), [alone(0, 1)], BlockSettings(seed=seed)).sums for seed in (1, 1, 2)]
    np.testing.assert_array_equal(sums[0], sums[1])
    assert (sums[0] != sums[2]).all()
    hasty = block_losses([one], texts(9, 5), [alone(0, 1)], BlockSettings(Pace(1e-9), seed=1))
    np.testing.assert_array_equal(hasty.sums, sums[0][:1])


def test_what_reads_a_prefix_with_the_canvas_or_forgets_it_is_not_read_whole():
    process = PROCESSES["masked"]
    backbone = model(1, process).model.denoiser.backbone
    assert can_be_read_whole(Denoiser(backbone, process))
    assert not can_be_read_whole(FullDenoiser(backbone, process))
    backbone.forgets = True
    assert not can_be_read_whole(Denoiser(backbone, process))
