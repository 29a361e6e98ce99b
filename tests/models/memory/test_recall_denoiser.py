"""A memory that recalls, as a member beside the core that it reads: laws on a toy Llama."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.prompt import Prompt
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.memory import recall, recall_denoiser
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
from ssdcli.models.memory.memory_files import Memory, Origin, remember
from ssdcli.models.memory.recall import Metric, Recall
from ssdcli.models.memory.recall_denoiser import RecallDenoiser, RecalledSurroundings
from ssdcli.models.memory.text_index import BORDER
from tests.engine.test_causal import PROCESS, PROMPT, L, V, canvas_of, denoiser, llama
from tests.models.backbones.test_side_network import passes

TEXTS = [[*PROMPT, 5, 6, 7, 8, 5, 6, 9, 10], [3, 9, 5, 6, 2, 7, 8, 3, 3, 4, 9, 2, 6, 5, 5, 7]]
HIDDEN = 32
OPENING = 1  # before a text, and no word


def recalling() -> tuple[RecallDenoiser, CausalCore]:
    """A memory of TEXTS that a core has read, each text as it stands."""
    core = denoiser(llama())
    backbone = core.backbone
    assert isinstance(backbone, CausalCore)
    backbone.tap((0, 1))
    torch.manual_seed(2)
    metric = Metric((0, 1), torch.zeros(HIDDEN), torch.randn(HIDDEN, 16), 0.05)
    memory = remember(TEXTS, [Origin("notes.md")] * len(TEXTS))
    keys = [metric(core.states(torch.tensor([[OPENING, *text[:-1]]]))[0]) for text in TEXTS]
    places = np.flatnonzero(memory.index.tokens != BORDER)
    memory = replace(memory, recall=Recall(metric, places, torch.cat(keys).bfloat16()))
    return RecallDenoiser(memory, core, lambda token: "" if token == OPENING else chr(97 + token), OPENING), backbone


def recalled(member: RecallDenoiser, query: Tensor, row: RecalledSurroundings) -> Tensor:
    (found,) = member.recalled(query[None], [row.written.tokens], [()], row)
    return found


def test_a_memory_without_keys_is_refused() -> None:
    member, _ = recalling()
    with pytest.raises(ValueError, match="no keys"):
        RecallDenoiser(Memory(member.index, ()), member.core, str, OPENING)


def test_it_recalls_at_the_leftmost_hidden_place_and_looks_up_elsewhere() -> None:
    member, _ = recalling()
    canvas = canvas_of(5)
    canvas[0, 3] = 9
    found = member.denoise(canvas, 0.5, None, member.start([Prompt(PROMPT)]))
    plain = MemoryDenoiser(member.memory, PROCESS, L)
    looked_up = plain.denoise(canvas, 0.5, None, plain.start([Prompt(PROMPT)]))
    assert found[0, 1].exp().sum() == pytest.approx(1, abs=1e-5)
    assert not torch.equal(found[0, 1], looked_up[0, 1])
    assert torch.equal(found[0, 4], looked_up[0, 4])
    assert torch.equal(found.isnan(), looked_up.isnan())


def test_it_says_what_follows_the_place_that_the_core_reads_alike() -> None:
    member, _ = recalling()
    text = TEXTS[0]
    for place in (len(PROMPT), len(PROMPT) + 3):
        log_p = member.denoise(canvas_of(), 1.0, None, member.start([Prompt([OPENING, *text[:place]])]))[0, 0]
        assert int(log_p.argmax()) == text[place]


def test_the_core_reads_for_both_and_what_it_reads_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    member, backbone = recalling()
    members = (Member("core", member.core, Constant(0.5)), Member("memory", member, Constant(0.5), "memory"))
    both, prompts = Ensemble(members, average), [[Prompt(PROMPT)], [Prompt(PROMPT, private=[5, 6])]]
    with passes(backbone, monkeypatch) as seen:
        prefixes = both.start(prompts, [1.0])
        both.denoise(canvas_of(5), 1.0, None, prefixes)
        prefixes = both.commit(torch.tensor([[5, 6, 7, 8][:L]]), prefixes)
        both.denoise(canvas_of(), 1.0, None, prefixes)
    with passes(backbone, monkeypatch) as alone:
        core = Ensemble(members[:1], average)
        prefix = core.start(prompts[:1], [1.0])
        core.denoise(canvas_of(5), 1.0, None, prefix)
        prefix = core.commit(torch.tensor([[5, 6, 7, 8][:L]]), prefix)
        core.denoise(canvas_of(), 1.0, None, prefix)
    assert seen == [alone[0], 2, *alone[1:]]  # the private context, in a pass of its own


def test_a_gap_is_read_once_for_both_whatever_stands_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    member, backbone = recalling()
    members = (Member("core", member.core, Constant(0.5)), Member("memory", member, Constant(0.5), "memory"))
    of_core, of_memory = Prompt(PROMPT, gap=L), Prompt(PROMPT, after=[7, 8], gap=L)
    with passes(backbone, monkeypatch) as seen:
        prefixes = Ensemble(members, average).start([[of_core], [of_memory]], [1.0])
    assert seen == [len(PROMPT)]
    assert prefixes[1].read is prefixes[0]


def test_of_a_long_private_context_the_beginning_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    member, backbone = recalling()
    monkeypatch.setattr(recall_denoiser, "_WINDOW", 8)
    monkeypatch.setattr(recall_denoiser, "_MOST_PRIVATE", 20)
    private = [12 + place % 30 for place in range(26)]
    with passes(backbone, monkeypatch) as seen:
        (row,) = member.start([Prompt(PROMPT, private=private)]).own
        member.start([Prompt([OPENING, 3], private=private)])
    assert seen == [len(PROMPT), 8, 8, 4, 2]
    assert row.places is not None
    assert row.places.recall.places.tolist() == [*range(1, 21)]
    second = member.core.states(torch.tensor([[OPENING, *private[8:15]]]))[0]
    assert torch.equal(row.places.recall.keys[8:16], member.queries(second).bfloat16())
    assert (
        member.denoise(canvas_of(), 1.0, None, member.start([Prompt(PROMPT, private=private)]))[0, 0].isfinite().any()
    )


def step_by_step(member: RecallDenoiser, text: list[int], count: int) -> list[Tensor]:
    """Log p of each of the last tokens of a text, each asked by itself."""
    starts = range(len(text) - count, len(text))
    prompts = [[OPENING, *text[:place]] for place in starts]
    return [member.denoise(canvas_of(), 1.0, None, member.start([Prompt(prompt)]))[0, 0] for prompt in prompts]


def test_a_text_that_has_ended_leaves_those_beside_it_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    member, _ = recalling()
    monkeypatch.setattr(recall, "_CANDIDATES", 5)  # so that places are found by the coarse keys
    draft = torch.tensor([[5, 6], [5, 6]])
    prefix, prompt = member.start([Prompt(PROMPT), Prompt(PROMPT)]), member.start([Prompt(PROMPT)])
    beside = Lookahead.of(canvas_of().repeat(2, 1), draft, torch.tensor([True, False]), PROCESS)
    alone = Lookahead.of(canvas_of(), draft[:1], torch.tensor([False]), PROCESS)
    found = member.ahead(beside, prefix)
    assert bool(found[0].isnan().all())
    assert torch.equal(found[1], member.ahead(alone, prompt)[0])


def test_a_draft_is_judged_as_the_same_text_would_be() -> None:
    member, _ = recalling()
    draft = [5, 6, 7][: L - 1]
    canvas = canvas_of()
    ahead = Lookahead.of(canvas, torch.tensor([draft]), torch.tensor([False]), PROCESS)
    found = member.ahead(ahead, member.start([Prompt([OPENING, *PROMPT])]))
    expected = step_by_step(member, [*PROMPT, *draft, 0], len(draft) + 1)
    assert torch.allclose(found[0], torch.stack(expected), atol=1e-4)


def test_conditionals_are_what_it_predicts_step_by_step() -> None:
    member, _ = recalling()
    text, count = TEXTS[1], 6
    places = range(len(text) - count, len(text))
    states = member.core.states(torch.tensor([[OPENING, *text[:-1]]]))[0, -count:]
    found = list(member.conditionals(text, places, states=states))
    for one, other in zip(found, step_by_step(member, text, count), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_row_is_what_it_is_alone_and_a_private_context_counts() -> None:
    member, _ = recalling()
    prompts = [Prompt(PROMPT), Prompt([OPENING, 3, 9], private=[9, V - 1] * 3)]
    canvas = torch.cat([canvas_of(5), canvas_of()])
    both = member.denoise(canvas, 1.0, None, member.start(prompts))
    for row, prompt in enumerate(prompts):
        alone = member.denoise(canvas[row : row + 1], 1.0, None, member.start([prompt]))
        assert torch.equal(both[row].nan_to_num(7.0), alone[0].nan_to_num(7.0))
    assert both[1, 0].argmax() == V - 1


def test_places_of_a_private_context_are_recalled_in_the_text_of_a_stranger() -> None:
    member, _ = recalling()
    private = [12, 13, 14, 15, 16, 12, 17, 18]
    query = member.queries(member.core.states(torch.tensor([[OPENING, *private]]))[0, -1])  # after all of it
    before = private[3:-1]  # other words than those right before the place that is asked for
    row, without = member.start([Prompt(before, private=private), Prompt(before)]).own
    gain = recalled(member, query, row).exp() - recalled(member, query, without).exp()
    assert set(gain.topk(3).indices.tolist()) <= set(private)
    assert gain[private].sum() > 0.3


def test_texts_that_are_taken_out_of_the_memory_are_recalled_no_more() -> None:
    member, _ = recalling()
    query = member.queries(member.core.states(torch.tensor([[OPENING, *PROMPT]]))[0, -1])
    (row,) = member.start([Prompt(PROMPT)]).own
    known = recalled(member, query, row)
    assert int(known.argmax()) == TEXTS[0][len(PROMPT)]
    member.memory = member.memory.without([TEXTS[0]])
    lacking = recalled(member, query, row)
    fresh = RecallDenoiser(member.memory, member.core, member._word_of, OPENING)
    assert torch.equal(lacking, recalled(fresh, query, row))
    assert lacking[TEXTS[0][len(PROMPT)]] < known[TEXTS[0][len(PROMPT)]]


def test_an_empty_memory_abstains_and_one_without_keys_of_what_is_left_looks_up() -> None:
    member, _ = recalling()
    whole = member.memory
    prompts = [Prompt(PROMPT)]
    member.memory = whole.without(TEXTS)
    assert member.denoise(canvas_of(), 1.0, None, member.start(prompts)).isnan().all()
    assert whole.recall is not None
    of_first = whole.recall.places < whole.index.borders[1]
    keys = whole.recall.keys[torch.from_numpy(of_first)]
    member.memory = replace(whole, recall=replace(whole.recall, places=whole.recall.places[of_first], keys=keys))
    member.memory = member.memory.without([TEXTS[0]])
    plain = MemoryDenoiser(member.memory, PROCESS, L)
    expected = plain.denoise(canvas_of(5), 1.0, None, plain.start(prompts))
    found = member.denoise(canvas_of(5), 1.0, None, member.start(prompts))
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_texts_without_keys_are_looked_up_as_far_as_there_are_such() -> None:
    member, _ = recalling()
    whole = member.memory
    assert whole.recall is not None
    places = whole.recall.places[:1]  # of the first token, which few others follow
    member.memory = replace(whole, recall=replace(whole.recall, places=places, keys=whole.recall.keys[:1]))
    query = member.queries(member.core.states(torch.tensor([[OPENING, *PROMPT]]))[0, -1])
    (row,) = member.start([Prompt(PROMPT)]).own
    found = recalled(member, query, row).exp()
    share = 0.95 / whole.index.size
    expected = (1 - share) * MemoryDenoiser(whole, PROCESS, L).log_p([BORDER, *PROMPT]).exp()
    expected[whole.index.tokens[places[0]]] += share
    assert torch.allclose(found, expected, atol=1e-5)
