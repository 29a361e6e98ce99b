"""A causal language model as a member, on toy Llamas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from ssdcli.engine import causal
from ssdcli.engine.causal import BranchingCausalDenoiser, CausalDenoiser, StepwiseCausalDenoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice, reverse_process
from ssdcli.engine.steps import SamplerConfig, Step
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from ssdcli.models.core_spec import CoreSpec

V, L, CONTEXT = 50, 8, 128
MASK = V  # a virtual id, which the model has no embedding for
PROCESS = Masked(V + 1, mask_id=MASK)
GREEDY = Picker(temperature=0.0)
PROMPT = [7, 8, 9, 10, 11]


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def denoiser(
    model: LlamaForCausalLM, kind: type[CausalDenoiser] = StepwiseCausalDenoiser, context: int = CONTEXT
) -> CausalDenoiser:
    spec = CoreSpec(
        process="masked",
        constants={"mask_id": MASK},
        block_size=L,
        context=context,
        attention="autoregressive",
        shift=True,
    )
    return kind(NativeCausalBackbone(model, spec), PROCESS)


MODEL = llama()
CORE = denoiser(MODEL)
BRANCHING = denoiser(MODEL, BranchingCausalDenoiser)
KINDS = pytest.mark.parametrize(
    "core", [CORE, denoiser(MODEL, CausalDenoiser), BRANCHING], ids=["stepwise", "at once", "branching"]
)


def canvas_of(*known: int) -> Tensor:
    return torch.tensor([[*known, *[MASK] * (L - len(known))]])


def canvases(*rows: Sequence[int]) -> Tensor:
    return torch.cat([canvas_of(*row) for row in rows])


def native_log_p(tokens: Sequence[int]) -> Tensor:
    """Log p of the token after these: (V,)."""
    return torch.log_softmax(MODEL(torch.tensor([list(tokens)])).logits[0, -1], dim=-1)


def run(members: Sequence[tuple[Any, float]], prompts: Sequence[Sequence[int]], **changes: Any) -> list[Step]:
    """All steps of members with weights that write from the left after prompts, two blocks unless changed."""
    ensemble = Ensemble(tuple(Member(f"m{i}", one, Constant(w)) for i, (one, w) in enumerate(members)))
    fields: dict[str, Any] = {"block_size": L, "max_tokens": 2 * L, "ends": (0,), "picker": Picker()}
    seeds = changes.pop("seeds", range(len(prompts)))
    reverse = reverse_process(PROCESS, Choice("left-to-right", ends=changes.pop("closing", ())))
    rows = [[Prompt(prompt) for prompt in prompts]] * len(members)
    return list(sample(ensemble, reverse, rows, seeds, SamplerConfig(**{**fields, **changes})))


def written(steps: Sequence[Step]) -> list[list[int]]:
    return torch.cat([step.canvas for step in steps if step.last], dim=1).tolist()


@KINDS
@pytest.mark.parametrize("known", [(), (5,), (5, 6, 7), (1, 2, 3, 4, 5, 6, 7)])
def test_the_leftmost_hidden_position_is_predicted_as_the_native_model_does_and_no_other(core, known):
    log_p = core.denoise(canvas_of(*known), 0.5, None, core.start([Prompt(PROMPT)]))
    assert log_p.shape == (1, L, V + 1)
    torch.testing.assert_close(log_p[0, len(known), :V], native_log_p([*PROMPT, *known]), rtol=0, atol=1e-5)
    assert log_p[0, len(known), MASK] == -math.inf
    log_p[0, len(known)] = math.nan
    assert log_p.isnan().all()


@KINDS
def test_a_canvas_without_a_hidden_position_is_not_predicted(core):
    assert core.denoise(canvas_of(*range(1, 9)), 0.5, None, core.start([Prompt(PROMPT)])).isnan().all()


@KINDS
def test_rows_may_be_known_to_different_places_and_nothing_behind_them_is_seen(core):
    prefixes = core.start([Prompt(PROMPT), Prompt(PROMPT[:2]), Prompt([3] * 40)])
    canvas = canvases((), (4, 5, 6), (9,))
    canvas[:, 6] = 12
    log_p = core.denoise(canvas, 0.5, None, prefixes)
    for row, tokens in enumerate([PROMPT, [*PROMPT[:2], 4, 5, 6], [*[3] * 40, 9]]):
        place = (0, 3, 1)[row]
        torch.testing.assert_close(log_p[row, place, :V], native_log_p(tokens), rtol=0, atol=1e-5)
        assert int(log_p[row, :, 0].isnan().sum()) == L - 1


def test_log_p_is_bit_for_bit_that_of_the_native_model_in_the_passes_of_its_own_generation():
    prompt, text = torch.tensor([PROMPT]), torch.randint(1, V, (1, 3 * L), generator=torch.Generator().manual_seed(1))
    prefixes, cache = CORE.start([Prompt(PROMPT)]), DynamicCache()
    logits = MODEL(prompt, past_key_values=cache, logits_to_keep=1).logits
    for place in range(3 * L):
        inside = place % L
        canvas = canvas_of(*text[0, place - inside : place].tolist())
        own = CORE.denoise(canvas, 1 - inside / L, None, prefixes)[0, inside, :V]
        assert torch.equal(own, torch.log_softmax(logits[0, -1], dim=-1))
        logits = MODEL(text[:, place : place + 1], past_key_values=cache).logits
        if inside == L - 1:
            prefixes = CORE.commit(text[:, place - inside : place + 1], prefixes)


def test_texts_after_one_prompt_share_passes_and_say_what_they_say_alone(monkeypatch):
    widths = []
    encode = NativeCausalBackbone._run
    monkeypatch.setattr(
        NativeCausalBackbone,
        "_run",
        lambda self, embedded, *rest: widths.append(tuple(embedded.shape[:2])) or encode(self, embedded, *rest),
    )
    prompts = [PROMPT, PROMPT, [3, 4], PROMPT]
    together = run([(BRANCHING, 1.0)], prompts, max_tokens=L)
    assert widths == [(1, len(PROMPT)), (1, 2), *[(3, 1), (1, 1)] * (L - 1)]
    assert written(together) == written(run([(CORE, 1.0)], prompts, max_tokens=L))


def test_texts_that_part_and_end_are_read_where_they_differ():
    prefix = BRANCHING.start([Prompt(PROMPT)] * 3)
    for rows in [[(), (), ()], [(4,), (5,), (6,)], [(4, 1), (5, *[0] * 7), (6, 2)], [(4, 3, 1), (5, *[0] * 7), (6, 2)]]:
        log_p = BRANCHING.denoise(canvases(*rows), 0.5, None, prefix)
        for row, known in enumerate(rows):
            if len(known) < L:
                expected = native_log_p([*PROMPT, *known])
                torch.testing.assert_close(log_p[row, len(known), :V], expected, rtol=0, atol=1e-5)
            else:
                assert log_p[row].isnan().all()


def test_each_token_is_read_once(monkeypatch):
    read = []
    run_body = NativeCausalBackbone._run
    monkeypatch.setattr(
        NativeCausalBackbone,
        "_run",
        lambda self, embedded, *rest: read.append(embedded.shape[:2]) or run_body(self, embedded, *rest),
    )
    run([(CORE, 1.0)], [PROMPT], ends=(-1,))
    # The last token of the second block is not followed by another one, and need not be read.
    assert [tuple(shape) for shape in read] == [(1, len(PROMPT)), *[(1, 1)] * (2 * L - 1)]


@KINDS
def test_weight_one_on_the_core_writes_its_own_greedy_text(core):
    for seed in range(4):
        model, prompt = llama(seed), [3 + seed, 8, 9]
        own = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 3),
            max_new_tokens=5 * L,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, 3:].tolist()
        (made,) = written(
            run([(denoiser(model, type(core)), 1.0)], [prompt], picker=GREEDY, max_tokens=5 * L, ends=(-1,))
        )
        assert made == own
        assert len(set(made)) > 5


@KINDS
@given(
    texts=st.lists(st.lists(st.integers(1, 3), max_size=L), min_size=1, max_size=6),
    commit=st.lists(st.integers(1, 3), min_size=L, max_size=L),
)
def test_what_was_predicted_before_does_not_change_a_prediction(core, texts, commit):
    """What is remembered of a canvas is used as far as the next one begins alike, and no further."""
    prefixes = core.start([Prompt(PROMPT)])
    core.commit(torch.tensor([commit]), prefixes)
    for known in texts:
        log_p = core.denoise(canvas_of(*known), 0.5, None, prefixes)
        fresh = core.denoise(canvas_of(*known), 0.5, None, core.start([Prompt(PROMPT)]))
        torch.testing.assert_close(log_p, fresh, rtol=0, atol=1e-5, equal_nan=True)
    after = core.denoise(canvas_of(), 1.0, None, core.commit(torch.tensor([commit]), prefixes))
    torch.testing.assert_close(after[0, 0, :V], native_log_p([*PROMPT, *commit]), rtol=0, atol=1e-5)


@KINDS
def test_a_token_that_returns_after_another_one_changed_is_read_anew(core):
    """What was read of it before came after another text."""
    prefix = core.start([Prompt(PROMPT)])
    for known in ((5, 6, 7), (5, 4), (5, 4, 7)):
        log_p = core.denoise(canvas_of(*known), 0.5, None, prefix)
        expected = native_log_p([*PROMPT, *known])
        torch.testing.assert_close(log_p[0, len(known), :V], expected, rtol=0, atol=1e-5)


@KINDS
def test_a_window_slides_as_others_do(core):
    small = denoiser(MODEL, type(core), context=32)
    text = torch.randint(1, V, (1, 4 * L), generator=torch.Generator().manual_seed(2))
    prefixes = small.start([Prompt(PROMPT)])
    for block in text.split(L, dim=1):
        prefixes = small.commit(block, prefixes)
    seen = [*PROMPT, *text[0].tolist()][-prefixes[0].tokens.shape[1] :]
    assert len(seen) < len(PROMPT) + 4 * L
    log_p = small.denoise(canvas_of(4), 0.5, None, prefixes)[0, 1, :V]
    torch.testing.assert_close(log_p, native_log_p([*seen, 4]), rtol=0, atol=1e-5)


@KINDS
def test_text_after_a_gap_is_not_seen(core):
    assert core.sight == 0
    blind, shown = core.start([Prompt(PROMPT, (), L)]), core.start([Prompt(PROMPT, (1, None, 3), L)])
    canvas = canvas_of(4, 5)
    assert torch.equal(core.denoise(canvas, 0.5, None, blind)[:, 2], core.denoise(canvas, 0.5, None, shown)[:, 2])


@pytest.mark.parametrize("picker", [Picker(top_p=0.9), GREEDY])
def test_a_row_is_bit_for_bit_what_it_is_alone(picker):
    prompts = [PROMPT, [5], PROMPT[:3], [3, 4] * 20, [9]]
    together = written(run([(CORE, 1.0)], prompts, picker=picker, max_tokens=3 * L, ends=(-1,)))
    for row, prompt in enumerate(prompts):
        alone = run([(CORE, 1.0)], [prompt], picker=picker, max_tokens=3 * L, ends=(-1,), seeds=[row])
        assert written(alone) == [together[row]]


def test_states_score_whole_texts_as_the_native_model_does():
    texts = torch.randint(1, V, (2, 30), generator=torch.Generator().manual_seed(3))
    log_p = torch.log_softmax(MODEL(texts).logits, dim=-1)[:, :-1]
    torch.testing.assert_close(CORE.score(texts), log_p.gather(-1, texts[:, 1:, None])[..., 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(CORE.log_p(CORE.states(texts)[:, :-1])[..., :V], log_p, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="a text of 129 tokens is longer than the context of 128"):
        CORE.states(torch.zeros(1, CONTEXT + 1, dtype=torch.int64))


@KINDS
def test_states_after_a_prefix_are_those_of_the_whole_text(core):
    (prefix,) = core.start([Prompt(PROMPT)])
    tokens = torch.tensor([[4, 5, 6]])
    whole = CORE.states(torch.tensor([[*PROMPT, 4, 5, 6]]))[:, len(PROMPT) - 1 :]
    torch.testing.assert_close(core.states_after(tokens, prefix), whole, rtol=0, atol=1e-4)


@KINDS
def test_several_texts_follow_one_prefix(core):
    texts = torch.tensor([[4, 5, 6], [9, 1, 2]])
    (prefix,) = core.start([Prompt(PROMPT)])
    states = core.states_after(texts, prefix)
    for row in range(2):
        alone = core.states_after(texts[row : row + 1], prefix)
        torch.testing.assert_close(states[row : row + 1], alone, rtol=0, atol=1e-5)


def test_a_causal_model_joins_the_masked_process_alone():
    with pytest.raises(ValueError, match="takes part in the masked process alone, not in uniform"):
        StepwiseCausalDenoiser(CORE.backbone, Uniform(V))


def test_costs_are_those_of_reading_each_token_once():
    sizes = CORE.backbone.sizes
    costs = CORE.costs(Prompt(PROMPT))
    blocks = [next(costs) for _ in range(3)]
    assert [reading for reading, _ in blocks] == [sizes.reading(len(PROMPT), 0), 0, 0]
    assert [step for _, step in blocks] == [
        sizes.reading(1, len(PROMPT) + n * L) + sizes.denoising(1, PROCESS) for n in (1, 2, 3)
    ]


def test_an_end_fills_its_block_at_once():
    (own,) = written(run([(CORE, 1.0)], [PROMPT], picker=GREEDY, ends=(-1,), max_tokens=L))
    end = own[2]
    steps = run([(CORE, 1.0)], [PROMPT], picker=GREEDY, ends=(end,), closing=(end,))
    place = own.index(end)
    assert written(steps) == [[*own[:place], *[end] * (L - place)]]
    assert len(steps) == place + 1


def _read_lengths(core: CausalDenoiser, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass of a core reads from now on."""
    read: list[int] = []
    extend = core.backbone.extend

    def counted(embedded: Tensor, *rest: Any) -> Any:
        read.append(embedded.shape[1])
        return extend(embedded, *rest)

    monkeypatch.setattr(core.backbone, "extend", counted)
    return read


def test_the_chunks_that_prompts_have_in_common_are_read_once(monkeypatch):
    monkeypatch.setattr(causal, "_CHUNK", 16)
    shared = [7 + place % 30 for place in range(40)]
    prompts = [Prompt([*shared, *own]) for own in (range(5), [9] * 20, [4])]
    alone = [denoiser(MODEL).start([prompt])[0].cache.states for prompt in prompts]
    core = denoiser(MODEL)
    read = _read_lengths(core, monkeypatch)
    rows = core.start(prompts)
    assert read == [16, 16, 13, 16, 12, 9]  # the second prompt's third chunk is its own
    for row, expected in zip(rows, alone, strict=True):
        assert torch.equal(row.cache.states, expected)
    read.clear()
    core.start([Prompt(shared[:33]), Prompt(shared[1:])])
    assert read == [1, 16, 16, 7]


def test_chunks_that_were_read_before_other_layers_were_asked_for_are_read_again(monkeypatch):
    monkeypatch.setattr(causal, "_CHUNK", 16)
    prompts = [Prompt([7 + place % 30 for place in range(40)])]
    core, other = denoiser(MODEL), denoiser(MODEL)
    core.start(prompts)
    for one in (core, other):
        one.backbone.tap((1,))
    (after,), (expected,) = core.start(prompts), other.start(prompts)
    assert torch.equal(after.cache.states, expected.cache.states)


def test_a_text_is_read_in_chunks_as_it_is_at_once(monkeypatch):
    text = [3 + place % 40 for place in range(70)]
    (at_once,) = denoiser(MODEL).start([Prompt(text)])
    monkeypatch.setattr(causal, "_CHUNK", 16)
    (in_chunks,) = denoiser(MODEL).start([Prompt(text)])
    torch.testing.assert_close(in_chunks.cache.states, at_once.cache.states, atol=1e-4, rtol=1e-5)


def test_the_last_tokens_of_a_prompt_can_be_heard_whatever_of_it_was_read_before(monkeypatch):
    monkeypatch.setattr(causal, "_CHUNK", 16)
    text = [3 + place % 40 for place in range(70)]
    core = denoiser(MODEL)
    whole = core.states(torch.tensor([text]))[0, -41:-1]
    for before in ([], [*text, *text], [*text[:40], 9]):
        core = denoiser(MODEL)
        core.start([Prompt(before)] * bool(before))
        prefixes = core.start([Prompt([5]), Prompt(text)])
        torch.testing.assert_close(core.recent_states(40, prefixes, 1), whole, atol=1e-4, rtol=1e-5)
