"""Drafts from the states of a causal language model, on toy Llamas."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from ssdcli.engine.causal import BranchingCausalDenoiser, CausalDenoiser, StepwiseCausalDenoiser
from ssdcli.engine.drafting.drafting import Drafting
from ssdcli.engine.drafting.state_drafter import StateDrafter
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.race import Race
from ssdcli.engine.sampling.reverse import Choice, reverse_process
from ssdcli.engine.steps import SamplerConfig, Step
from ssdcli.models.backbones.draft_head import DraftHead, DraftingCore
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from tests.engine.test_causal import MASK, PROCESS, PROMPT, L, V, canvas_of, canvases, denoiser, llama

IDS = torch.arange(0, V, 2)


class Seen:
    """Guesses nothing of worth, and keeps what it is asked with."""

    ids = IDS

    def __init__(self) -> None:
        self.begun: list[tuple[Tensor, Tensor]] = []
        self.stepped: list[Tensor] = []

    def begin(self, states: Tensor, tokens: Tensor) -> Tensor:
        self.begun.append((states, tokens))
        return states

    def step(self, guess: Tensor, tokens: Tensor) -> Tensor:
        self.stepped.append(tokens)
        return guess

    def log_p(self, guess: Tensor) -> Tensor:
        return torch.full((len(guess), len(IDS)), -1.0)


def race() -> Race:
    return Race(Picker(temperature=0.0), CounterNoise([0, 1]), 0)


def head_of(core: CausalDenoiser) -> DraftingCore:
    """An untrained head, whose drafts are of all kinds."""
    assert isinstance(core.backbone, NativeCausalBackbone)
    torch.manual_seed(2)
    head = DraftHead(32, 1, IDS).requires_grad_(False)
    nn.init.normal_(head.scale, std=3.0)
    return DraftingCore(head, core.backbone)


def text_of(count: int) -> list[int]:
    return [(7 * i) % V for i in range(count)]


@pytest.mark.parametrize("place", range(1, L))
def test_it_goes_on_from_the_state_at_the_last_token_read_however_that_was_read(place: int) -> None:
    core = denoiser(llama())
    text = text_of(L)
    whole = core.states(torch.tensor([[*PROMPT, *text]]))[0]
    for committed in (False, True):
        if committed:  # the same text, as a block behind a shorter prompt
            start = len(PROMPT) - 3
            read = core.start([Prompt(PROMPT[:start])])
            written = [*PROMPT[start:], *text]
            prefixes = core.commit(torch.tensor([written[:L]]), read)
            known = written[L : 3 + place]
            if len(known) < 1:
                continue
        else:
            prefixes, known = core.start([Prompt(PROMPT)]), text[:place]
        core.denoise(canvas_of(*known[:-1]), 1.0, None, prefixes)  # the last token is drawn from what this says
        seen = Seen()
        StateDrafter(seen, MASK).draft(canvas_of(*known), race(), 2, prefixes)
        ((states, tokens),) = seen.begun
        assert tokens.tolist() == [known[-1]]
        torch.testing.assert_close(states[0], whole[len(PROMPT) + place - 2], rtol=0, atol=1e-5)


def test_behind_a_block_it_begins_with_the_last_token_of_that() -> None:
    core, text = denoiser(llama()), text_of(L)
    whole = core.states(torch.tensor([[*PROMPT, *text]]))[0]
    prefixes = core.commit(torch.tensor([text]), core.start([Prompt(PROMPT)]))
    seen = Seen()
    draft = StateDrafter(seen, MASK).draft(canvas_of(), race(), 2, prefixes)
    ((states, tokens),) = seen.begun
    assert tokens.tolist() == text[-1:]
    torch.testing.assert_close(states[0], whole[len(PROMPT) + L - 2], rtol=0, atol=1e-5)
    assert draft.tokens.shape == (1, 2)


def test_tokens_that_were_not_read_come_one_after_the_other() -> None:
    core, seen = denoiser(llama()), Seen()
    prefixes = core.start([Prompt(PROMPT)])
    core.denoise(canvas_of(4), 1.0, None, prefixes)
    StateDrafter(seen, MASK).draft(canvas_of(4, 5, 6), race(), 1, prefixes)
    assert seen.begun[0][1].tolist() == [5]
    assert seen.stepped[0].tolist() == [6]


def test_what_the_model_has_read_to_its_end_is_left_to_the_model() -> None:
    core = denoiser(llama())
    draft = StateDrafter(Seen(), MASK).draft(canvas_of(), race(), 2, core.start([Prompt(PROMPT)]))
    assert draft.tokens.tolist() == [[-1, -1]]


def test_a_row_is_drafted_as_alone_and_never_beyond_its_block() -> None:
    core = denoiser(llama(), BranchingCausalDenoiser)
    drafter, rows = StateDrafter(head_of(core), MASK), [[4] * (L - 1), [8, 9]]
    prefixes = core.start([Prompt(PROMPT)] * 2)
    together = drafter.draft(canvases(*rows), race(), 4, prefixes)
    for place, row in enumerate(rows):
        alone = drafter.draft(canvas_of(*row), race(), 4, core.start([Prompt(PROMPT)]))
        assert together.tokens[place].tolist() == alone.tokens[0].tolist()
    assert (together.tokens[0, 1:] == -1).all()
    assert set(together.tokens[together.tokens >= 0].tolist()) <= set(IDS.tolist())


def written(core: CausalDenoiser, drafting: Drafting | None, picker: Picker, seeds: Sequence[int]) -> list[Step]:
    prompts = [Prompt(PROMPT)] * len(seeds)
    config = SamplerConfig(
        block_size=L, max_tokens=3 * L, ends=(V - 1,), picker=picker, shared=tuple(prompts), drafting=drafting
    )
    ensemble = Ensemble((Member("core", core, Constant(1.0)),))
    reverse = reverse_process(PROCESS, Choice("left-to-right", ends=(V - 1,)))
    return list(sample(ensemble, reverse, [prompts], list(seeds), config))


def texts(steps: Sequence[Step]) -> list[list[int]]:
    return torch.cat([step.canvas for step in steps if step.last], dim=1).tolist()


@pytest.mark.parametrize("picker", [Picker(temperature=0.0), Picker(0.8, 0.9)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", [StepwiseCausalDenoiser, BranchingCausalDenoiser])
def test_a_text_is_that_of_no_draft(kind: type[CausalDenoiser], picker: Picker) -> None:
    core = denoiser(llama(), kind)
    plain = written(core, Drafting(), picker, [3, 4])
    for most in (1, 3, L):
        drafting = Drafting((StateDrafter(head_of(core), MASK),), (0,), most)
        drafted = written(core, drafting, picker, [3, 4])
        assert sum(int(step.drafted.sum()) for step in drafted if step.drafted is not None) > 0
        assert texts(drafted) == texts(plain)
