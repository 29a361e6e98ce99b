from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.canvases import CanvasSettings, bound, canvas_losses, canvases_together
from ssdcli.evaluation.combinations import alone
from ssdcli.evaluation.estimates import ENOUGH, ratio, student
from ssdcli.evaluation.losses import GRID, LossesByLevel, LossSettings, Pace, measure, shares
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel, open_model
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.registry.store import Registry
from tests.pulled import add_core
from tests.tiny import member

V, MASK, L = 6, 5, 4
PROCESSES = {"masked": Masked(V, MASK), "simplex": Simplex(V)}


def reader(process, seed=0, kind=Denoiser) -> Member[LoadedModel]:
    timed = process.name == "simplex"
    config = BackboneConfig(V, 32, 1, 16, block_size=L, timed=timed, self_conditioned=timed, suppressed=(MASK,))
    torch.manual_seed(seed)
    model = BlockDiffusionLM(config).requires_grad_(False)
    model.table.mul_(6)
    return member("", kind(model, process), role="small")


def texts(count: int, length: int = 32) -> list[ScoredText]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(5, (count, length), generator=generator)
    return [ScoredText([0, *row], 2 * length) for row in drawn.tolist()]


def standard_error(losses: LossesByLevel) -> float:
    """Of the nats per token in the first column; documents are the independent draws."""
    return ratio(losses.sums[:, 0], losses.tokens).margin / student(len(losses.tokens) - 1)


def measure_canvases(members, heldout, weights, settings):
    """Mixtures of two members at each share of the second."""
    return canvas_losses(members, heldout, shares(weights, 2, members[0].model.denoiser.process), settings)


@pytest.mark.parametrize("name", PROCESSES)
def test_it_estimates_what_is_measured_in_one_pass_over_whole_texts(name):
    """Blocks begin anywhere here, and there on a grid: a model that looks at nothing shows no difference."""
    process, heldout = PROCESSES[name], texts(400)
    one = reader(process)
    body = one.model.denoiser.backbone.body
    for weight in body.layers.parameters():
        weight.zero_()
    settings = CanvasSettings()
    found = measure_canvases([one, one], heldout, [0.0], settings)
    exact = measure([one.model.denoiser.backbone], process, heldout, [0.0], LossSettings(33, repeats=8))
    error = math.hypot(standard_error(found), standard_error(exact))
    assert abs(found.nats_per_token()[0] - exact.nats_per_token()[0]) < 4.5 * error
    assert found.tokens.tolist() == exact.tokens.tolist() == [32] * 400


@pytest.mark.parametrize("kind", [Denoiser, FullDenoiser])
def test_at_the_ends_of_the_grid_are_the_members_alone(kind):
    process, heldout = PROCESSES["masked"], texts(ENOUGH)
    core, small = reader(process, 0, kind), reader(process, 1)
    both = measure_canvases([core, small], heldout, GRID, CanvasSettings()).sums
    for column, one in ((0, core), (-1, small)):
        only = measure_canvases([one, one], heldout, [0.5], CanvasSettings()).sums
        np.testing.assert_allclose(both[:, column], only[:, 0], rtol=1e-4)


def test_a_seed_repeats_the_canvases():
    process, heldout = PROCESSES["simplex"], texts(ENOUGH)
    one = reader(process)
    sums = [measure_canvases([one, one], heldout, [0.5], CanvasSettings(seed=seed)).sums for seed in (3, 3, 4)]
    np.testing.assert_array_equal(sums[0], sums[1])
    assert not np.allclose(sums[0], sums[2])


@pytest.mark.parametrize(
    ("heldout", "seconds"),
    [
        pytest.param(texts(ENOUGH - 1), math.inf, id="too few texts"),
        pytest.param(texts(50, length=L - 1), math.inf, id="texts shorter than a canvas"),
        pytest.param(texts(50), 0.0, id="no time"),
    ],
)
def test_where_it_cannot_tell_it_says_nothing(heldout, seconds):
    one = reader(PROCESSES["masked"])
    assert measure_canvases([one, one], heldout, GRID, CanvasSettings(Pace(seconds))) is None


@pytest.mark.parametrize("name", PROCESSES)
def test_its_stretches_of_levels_add_up_to_the_whole_and_are_all_met(name):
    one = reader(PROCESSES[name])
    losses = measure_canvases([one, one], texts(40), [0.0, 0.5], CanvasSettings())
    np.testing.assert_allclose(losses.level_sums.sum(0), losses.sums.sum(0), rtol=1e-6)
    assert losses.level_tokens.sum() == 40 * 32
    assert all(3 * 32 <= tokens <= 5 * 32 for tokens in losses.level_tokens)


@pytest.mark.parametrize("name", PROCESSES)
def test_canvases_of_a_conversation_begin_in_answers_which_alone_are_scored(name):
    """A model that knows the token of all answers and no other loses nothing."""
    process = PROCESSES[name]
    scored = [place in {9, 10, 30, 31, 32} for place in range(33)]
    answers = [
        ScoredText(
            [3 if counts else int(token) for token, counts in zip(text.tokens, scored, strict=True)], 9, scored=scored
        )
        for text in texts(50)
    ]

    class Knowing(BlockDiffusionLM):
        def logits(self, hidden):
            scores = torch.full((*hidden.shape[:-1], V), -50.0)
            scores[..., 3] = 50.0
            return scores

    one = reader(process)
    one.model.denoiser.backbone.__class__ = Knowing
    found = measure_canvases([one, one], answers, [0.0], CanvasSettings())
    assert found.tokens.tolist() == [5] * 50
    assert abs(found.nats_per_token()[0]) < 1e-3


def test_later_rounds_measure_other_canvases_of_the_same_documents():
    one, heldout = reader(PROCESSES["simplex"]), texts(40)
    spread = []
    for rounds in (1, 8):
        settings = [CanvasSettings(seed=seed, rounds=rounds) for seed in range(3)]
        found = [measure_canvases([one, one], heldout, [0.5], how) for how in settings]
        assert all(losses.tokens.tolist() == [32] * 40 for losses in found)
        assert found[0].level_tokens.sum() == pytest.approx(40 * 32)
        spread.append(np.std([losses.sums[:, 0] for losses in found], axis=0).mean())
    assert spread[1] < 0.6 * spread[0]


def test_a_private_context_is_read_before_the_text_and_stays_in_view_of_a_long_one():
    one = reader(PROCESSES["simplex"])
    model, context = one.model, (1, 2, 3)
    assert model.after([4, 4], context).before == [0, 1, 2, 3, 4, 4]
    room = model.denoiser.room
    long = model.after([*range(room), 4], context).before
    assert list(long[:5]) == [0, 1, 2, 3, 5]
    assert len(long) == room
    assert long[-1] == 4
    cutting = replace(model, format=replace(model.format, cuts_documents=True))
    assert cutting.after([4, 4], context).before == [1, 2, 3, 4, 4]
    assert cutting.after([4, 4]).before == [0, 4, 4]
    assert len(cutting.after([*range(room), 4], context).before) == room
    heldout, told = texts(ENOUGH), CanvasSettings(context=context)
    plain, informed = (canvas_losses([one], heldout, [alone(0, 1)], how) for how in (CanvasSettings(), told))
    assert (plain.sums != informed.sums)[plain.sums > 1].all()
    for role in ("core", "base"):
        unseeing = canvas_losses([replace(one, role=role)], heldout, [alone(0, 1)], told)
        np.testing.assert_array_equal(plain.sums, unseeing.sums)


class CountingOn:
    """A denoiser that knows the text after its prompt: ids that rise by one from the prompt's last one."""

    def __init__(self, process) -> None:
        self.process = process
        self.backbone = SimpleNamespace(block_size=L, device=torch.device("cpu"))

    def start(self, prompts):
        (prompt,) = prompts
        return prompt.before

    def denoise(self, canvas, _t, _previous, before):
        following = (before[-1] + 1 + torch.arange(L)) % MASK
        scores = torch.nn.functional.one_hot(following, V) * 100.0
        return torch.log_softmax(scores, -1)[None]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("context", [(), (3, 0)])
def test_a_prompt_ends_right_before_its_canvas(name, context):
    """A prompt that holds the canvas's first token, or is a token short, makes such a model lose nearly everything."""
    denoiser = CountingOn(PROCESSES[name])
    denoiser.room = 100
    rising = [ScoredText([place % MASK for place in range(18)], 17)] * 50
    knowing, how = member("", denoiser, role="small"), CanvasSettings(context=context)
    found = canvas_losses([knowing], rising, [alone(0, 1)], how)
    assert found.sums.max() < 1e-3
    unlike = canvas_losses([knowing], texts(50), [alone(0, 1)], how)
    assert unlike.nats_per_token()[0] > 10


class AllHidden(Masked):
    """The masked process at t = 1 alone, so that no noise is left to chance."""

    def corrupt(self, tokens, t, noise):
        return torch.full_like(tokens, MASK)

    def loss_weights(self, canvas, t):
        return torch.ones_like(t)


def test_after_whole_blocks_a_canvas_loses_what_the_block_does_in_a_pass_over_the_text():
    """The model attends to what it reads: an answer of one token, which alone is scored, begins every document's last
    block."""
    process = AllHidden(V, MASK)
    heldout = []
    for blocks, text in enumerate(texts(3 * ENOUGH)):
        start = L * (1 + blocks % 3)
        scored = [place == start for place in range(start + L)]
        heldout.append(ScoredText(text.tokens[: start + L], 1, scored=scored))
    one = reader(process)
    found = canvas_losses([one], heldout, [alone(0, 1)], CanvasSettings())
    exact = measure([one.model.denoiser.backbone], process, heldout, [0.0], LossSettings(33, repeats=1))
    np.testing.assert_allclose(found.sums, exact.sums, rtol=1e-4)
    assert len(np.unique(found.sums.round(3))) > ENOUGH  # what stands before tells


def test_canvases_at_one_place_share_its_prefix_and_lie_evenly_over_the_levels(monkeypatch):
    started = []
    start = Denoiser.start
    monkeypatch.setattr(Denoiser, "start", lambda self, prompts: started.append(prompts) or start(self, prompts))
    one, heldout = reader(PROCESSES["simplex"]), texts(40)
    found = measure_canvases([one, one], heldout, [0.5], CanvasSettings(together=4))
    assert len(started) == 2 * 40
    assert found.level_tokens.sum() == pytest.approx(40 * 32)
    alone_found = measure_canvases([one, one], heldout, [0.5], CanvasSettings())
    error = math.hypot(standard_error(found), standard_error(alone_found))
    assert abs(found.nats_per_token()[0] - alone_found.nats_per_token()[0]) < 4 * error
    spread = [
        np.std(
            [
                measure_canvases([one, one], heldout, [0.5], CanvasSettings(seed=seed, together=together)).sums
                for seed in range(4)
            ],
            axis=0,
        ).mean()
        for together in (1, 4)
    ]
    assert spread[1] < 0.8 * spread[0]


def test_a_core_with_full_attention_is_measured_at_other_places_instead():
    process = PROCESSES["masked"]
    made_here, full = reader(process), reader(process, kind=FullDenoiser)
    assert canvases_together([made_here, full]) == canvases_together([made_here]) == 1
    add_core("pulled", attention="causal")
    apart = member("", open_model(Registry().find("pulled")).denoiser)
    assert canvases_together([apart, made_here]) > 1


@pytest.mark.parametrize("kind", [Denoiser, FullDenoiser])
def test_a_bound_is_the_mean_over_all_orders_and_hides_what_does_not_count(kind):
    """Of one token it is the code length, whatever follows."""
    one, (text,) = reader(PROCESSES["masked"], kind=kind), texts(1, 12)
    expected = -float(_log_p(one, text.tokens[:6], text.tokens[6]))
    for tail in ([], [3], text.tokens[7:]):
        scored = [place == 6 for place in range(7 + len(tail))]
        longer = ScoredText([*text.tokens[:7], *tail], 9, scored=scored)
        assert bound([one], longer, alone(0, 1), 0, levels=3) == pytest.approx(expected)
    blocks = [place >= 3 for place in range(13)]
    several = [bound([one], ScoredText(text.tokens, 9, scored=blocks), alone(0, 1), s, levels=16) for s in range(9)]
    assert len(set(several)) == 9
    assert np.mean(several) == pytest.approx(_nelbo(one, text.tokens, 3), rel=0.05)


def _log_p(one, before, token):
    denoiser = one.model.denoiser
    canvas = torch.full((1, L), MASK)
    return denoiser.denoise(canvas, 1.0, None, denoiser.start([Prompt(before)]))[0, 0, token]


def _nelbo(one, tokens, start):
    """By every order in which the tokens of each block may be revealed: their mean is the integral over the level."""
    denoiser, total = one.model.denoiser, 0.0
    for first in range(start, len(tokens), L):
        block = tokens[first : first + L]
        prefix = denoiser.start([Prompt(tokens[:first])])
        orders = list(permutations(range(len(block))))
        for order in orders:
            canvas = torch.full((1, L), MASK)
            for place in order:
                total -= float(denoiser.denoise(canvas, 1.0, None, prefix)[0, place, block[place]]) / len(orders)
                canvas[0, place] = block[place]
    return total
