"""The code length is the probability of the whole text, by the predictions that a sampler from the left draws from."""

from __future__ import annotations

import itertools
import math
from importlib.resources import files

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, contrast, mix
from ssdcli.engine.ensemble.schedules import Constant, Leaning, Sandwich
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.code_length import CodeSettings, code_lengths, has_code_length
from ssdcli.evaluation.combinations import Combination, alone
from ssdcli.evaluation.losses import Pace
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import open_model
from ssdcli.machine.placement import Placement
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM, NativeBody
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from ssdcli.models.core_spec import CoreSpec
from tests.tiny import member

V, MASK, BLOCK = 12, 11, 4
PROCESS = Masked(V, MASK)
HALVES = Combination(mix, (Constant(0.5), Constant(0.5)))


def model(seed, context=64, block=BLOCK, kind=Denoiser, process=PROCESS, **changes):
    """A member of random weights, whose predictions are far from flat; an opening of 0."""
    size = process.vocabulary
    fields = {"timed": False, "self_conditioned": False, "suppressed": (process.mask_id,)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BlockDiffusionLM(
            BackboneConfig(size, 32, 1, 32, block_size=block, context=context, **fields, **changes)
        )
        backbone.table.data.mul_(2)
    return member(f"m{seed}", kind(backbone.eval().requires_grad_(False), process))


def texts(*lengths, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    rows = [torch.randint(MASK, (length,), generator=drawn).tolist() for length in lengths]
    return [ScoredText([0, *row], 2 * len(row)) for row in rows]


def measured(members, heldout, combinations, **settings):
    return code_lengths(members, heldout, combinations, CodeSettings(**settings)).sums


def step_by_step(members, combination, prompts, tokens):
    """Nats of tokens after prompts, from one prediction a token, with blocks committed as in sampling."""
    one = members[0].model.denoiser
    size, mask = one.backbone.block_size, one.process.mask_id
    schedules = combination.schedules
    ensemble = Ensemble(
        tuple(
            type(m)(m.name, m.model.denoiser, schedule, m.role) for m, schedule in zip(members, schedules, strict=True)
        ),
        combination.rule,
    )
    prefixes, nats = ensemble.start([[prompt] for prompt in prompts], [1 - i / size for i in range(size)]), 0.0
    for start in range(0, len(tokens), size):
        block = tokens[start : start + size]
        canvas = torch.full((1, size), mask)
        for place, token in enumerate(block):
            predicted = ensemble.denoise(canvas, 1 - place / size, None, prefixes)
            log_p = one.process.carry_over(canvas, predicted.log_p)
            nats -= float(log_p[0, place, token])
            canvas[0, place] = token
        if len(block) == size:
            prefixes = ensemble.commit(canvas, prefixes)
    return nats


SHIFTED = NativeBody(
    native={
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    },
    own_head=False,
    shift=True,
)  # fmt: skip


@pytest.mark.parametrize("length", [1, 4, 5, 43, 90])
@pytest.mark.parametrize(
    ("contexts", "changes"),
    [((64, 64), {}), ((64, 40), {}), ((64, 64), {"native_body": SHIFTED})],
    ids=["alike", "of two windows", "shifted"],
)
def test_it_is_what_the_left_to_right_sampler_gives_the_text(length, contexts, changes):
    members = [model(seed, context, **changes) for seed, context in enumerate(contexts)]
    (text,) = texts(length)
    combinations = [
        HALVES,
        Combination(average, (Constant(0.3), Constant(0.7))),
        Combination(mix, (Constant(0.7), Leaning(0.3, 3.0))),
        Combination(average, (Sandwich(0.5, 0.5), Constant(0.5))),
    ]
    found = measured(members, [text], combinations)[0]
    prompts = [one.model.after([]) for one in members]
    expected = [step_by_step(members, combination, prompts, text.tokens[1:]) for combination in combinations]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_a_model_that_reads_its_prefix_token_by_token_is_read_so():
    one = model(1)
    one.model.denoiser.backbone.reading_block = 1
    (text,) = texts(21)
    expected = step_by_step([one], alone(0, 1), [one.model.after([])], text.tokens[1:])
    assert measured([one], [text], [alone(0, 1)])[0, 0] == pytest.approx(expected, rel=1e-5)


def test_a_text_may_follow_no_opening():
    """Then its first token is its own, and the same token as an opening changes nothing."""
    one, (text,) = model(1), texts(90)
    parts = [False] * 5 + [True] * 86
    given, own = (measured([one], [ScoredText(text.tokens, 9, scored=parts, opened=o)], [alone(0, 1)]) for o in (1, 0))
    assert given == pytest.approx(own)
    tokens = text.tokens[1:]
    found = measured([one], [ScoredText(tokens, 9, scored=parts[1:], opened=False)], [alone(0, 1)])[0, 0]
    assert found == pytest.approx(step_by_step([one], alone(0, 1), [Prompt(tokens[:4])], tokens[4:]), rel=1e-5)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize(
    "combination",
    [
        HALVES,
        Combination(average, (Constant(0.3), Constant(0.7))),
        Combination(contrast, (Constant(1.0), Constant(-0.4))),
    ],
    ids=["mix", "average", "contrast"],
)
def test_the_probabilities_of_all_texts_of_a_length_sum_to_one(length, combination):
    """An NELBO or a prediction that sees a token that comes later would not."""
    process = Masked(5, 4)
    members = [model(seed, block=2, process=process) for seed in (1, 2)]
    every = [ScoredText([0, *tokens], 1) for tokens in itertools.product(range(4), repeat=length)]
    nats = measured(members, every, [combination])
    assert np.exp(-nats).sum() == pytest.approx(1, rel=1e-5)
    assert np.std(nats) > 0.1


def test_under_weight_1_an_ensemble_is_that_member():
    members, heldout = [model(1), model(2, 40)], texts(5, 70)
    both = measured(members, heldout, [*(alone(place, 2) for place in (0, 1)), HALVES])
    for place, one in enumerate(members):
        np.testing.assert_array_equal(measured([one], heldout, [alone(0, 1)])[:, 0], both[:, place])
    assert (both[:, 2] != both[:, 0]).all()


def test_a_mixture_of_a_member_with_itself_is_the_member():
    heldout = texts(5, 30)
    one, itself = model(1), model(1)
    found = measured([one, itself], heldout, [HALVES, alone(0, 2)])
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-5)


def test_of_a_conversation_the_answers_alone_are_scored_each_after_all_before_it():
    members = [model(1), model(2)]
    (text,) = texts(40)
    scored = [place in {*range(7, 13), *range(25, 31)} for place in range(41)]
    talk = ScoredText(text.tokens, 9, scored=scored)
    losses = code_lengths(members, [talk], [HALVES], CodeSettings())
    expected = sum(
        step_by_step(
            members, HALVES, [one.model.after(text.tokens[1:start]) for one in members], text.tokens[start:stop]
        )
        for start, stop in ((7, 13), (25, 31))
    )
    assert losses.sums[0, 0] == pytest.approx(expected, rel=1e-5)
    assert (losses.tokens.tolist(), losses.bytes.tolist()) == ([12], [9])


def test_a_private_context_is_read_by_those_who_see_it():
    core, small = model(1), member("small", model(2).model.denoiser, role="small")
    context = (3, 1, 2, 2)
    (short, long) = texts(9, 200)
    found = measured([core, small], [short, long], [alone(0, 2), alone(1, 2)], context=context)
    plain = measured([core, small], [short, long], [alone(0, 2), alone(1, 2)])
    np.testing.assert_array_equal(found[:, 0], plain[:, 0])
    expected = step_by_step([small], alone(0, 1), [small.model.after([], context)], short.tokens[1:])
    assert found[0, 1] == pytest.approx(expected, rel=1e-5)


def test_a_private_context_stays_in_view_when_the_window_slides():
    small, context = member("small", model(2).model.denoiser, role="small"), (3, 1, 2, 2, 4, 3)
    (text,) = texts(150)
    first = small.model.denoiser.reach(small.model.after([], context))
    assert first < 75
    parts = [ScoredText(text.tokens[: 1 + first], 1), text]
    (begun, whole), (begun_so, whole_so) = (
        measured([small], parts, [alone(0, 1)], context=ids)[:, 0] for ids in (context, (9, 8, 10, 7, 9, 8))
    )
    assert whole - begun != pytest.approx(whole_so - begun_so, abs=1e-2)  # what follows the first window


def test_what_has_no_prediction_has_no_code():
    members = [model(1), model(2)]
    backbone = members[1].model.denoiser.backbone
    spread = backbone.logits
    backbone.logits = lambda hidden: spread(hidden) * math.nan
    found = measured(members, texts(6), [alone(0, 2), alone(1, 2)])[0]
    assert math.isfinite(found[0])
    assert found[1] == math.inf


def test_models_that_see_their_canvas_from_the_prefix_have_no_code_length_here():
    assert has_code_length(model(1).model)
    assert not has_code_length(model(1, kind=FullDenoiser).model)


def causal(context=64):
    """A causal language model as a member, and the same model in transformers; an opening of 0."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, is_causal=True,
    )  # fmt: skip
    native = LlamaForCausalLM(config).eval().requires_grad_(False)
    spec = CoreSpec(
        process="masked", constants={"mask_id": MASK}, block_size=BLOCK, context=context,
        attention="autoregressive", shift=True,
    )  # fmt: skip
    return member("core", CausalDenoiser(NativeCausalBackbone(native, spec), PROCESS)), native


@pytest.mark.parametrize("length", [1, 2, 30])
def test_of_a_causal_model_it_is_the_loss_that_transformers_computes(length):
    core, native = causal()
    (text,) = texts(length)
    ids = torch.tensor([text.tokens])
    loss = native(ids, labels=ids).loss.item() * length
    assert measured([core], [text], [alone(0, 1)])[0, 0] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("length", [5, 43, 90])
@pytest.mark.parametrize("context", [64, 40])
def test_beside_a_causal_model_it_is_what_the_left_to_right_sampler_gives_the_text(length, context):
    core, _ = causal(context)
    members = [core, model(1)]
    (text,) = texts(length)
    combinations = [
        alone(0, 2),
        HALVES,
        Combination(average, (Constant(0.3), Constant(0.7))),
        Combination(mix, (Constant(0.7), Leaning(0.3, 3.0))),
    ]
    found = measured(members, [text], combinations)[0]
    prompts = [one.model.after([]) for one in members]
    expected = [step_by_step(members, combination, prompts, text.tokens[1:]) for combination in combinations]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("combination", [HALVES, Combination(average, (Constant(0.3), Constant(0.7)))])
def test_beside_a_causal_model_the_probabilities_of_all_texts_of_a_length_sum_to_one(combination):
    core, _ = causal()
    every = [ScoredText([0, *tokens], 1) for tokens in itertools.product(range(MASK), repeat=2)]
    never = torch.tensor([MASK])
    core.model.denoiser.backbone._suppressed = never
    assert np.exp(-measured([core, model(1)], every, [combination])).sum() == pytest.approx(1, rel=1e-5)


class Forgetful(Denoiser):
    """May have no prediction at a position."""

    abstains = True


def test_where_a_member_abstains_the_others_predict():
    """One that abstains everywhere leaves all weight to the others; under a rule that needs it, nothing is left."""
    members = [model(1), model(2, kind=Forgetful)]
    backbone = members[1].model.denoiser.backbone
    spread = backbone.logits
    backbone.logits = lambda hidden: spread(hidden) * math.nan
    combinations = [
        alone(0, 2),
        HALVES,
        Combination(average, HALVES.schedules),
        Combination(contrast, HALVES.schedules),
    ]
    first, *others = measured(members, texts(6), combinations)[0]
    assert others[:2] == pytest.approx([first, first])
    assert others[2] == math.inf


def test_when_the_time_is_over_whole_documents_were_measured():
    told = []
    losses = code_lengths([model(1)], texts(5, 5, 5), [alone(0, 1)], CodeSettings(Pace(1e-9, told.append)))
    assert losses.sums.shape == (1, 1)
    assert losses.tokens.tolist() == [5]
    assert told == [1.0]


def test_of_the_real_core_it_is_the_loss_that_transformers_computes(real_core):
    model = open_model(real_core, Placement("float32"))  # transformers' own layers
    note = (files("ssdcli") / "bundled" / "notebook" / "heldout" / "h05-nessa.md").read_text(encoding="utf-8")
    ids = model.codec.encode(note)[:120]
    core = Member("core", model, Constant(1.0))
    text = ScoredText([0, *ids], len(model.codec.tokenizer.decode(ids).encode()))
    losses = code_lengths([core], [text], [alone(0, 1)], CodeSettings())
    read = torch.tensor([[model.format.opening, *ids]])
    with torch.no_grad():
        loss = model.denoiser.backbone.model(read, labels=read).loss.item() * len(ids)
    assert losses.sums[0, 0] == pytest.approx(loss, rel=1e-5)
    assert 1 < losses.bits_per_byte()[0] < 2
