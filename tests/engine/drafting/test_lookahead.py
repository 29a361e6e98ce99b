"""Several positions predicted at once are predicted as each is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.causal import BranchingCausalDenoiser, CausalDenoiser, StepwiseCausalDenoiser
from ssdcli.engine.drafting.lookahead import Lookahead, one_by_one
from ssdcli.engine.prompt import Prompt
from tests.engine.test_causal import MASK, MODEL, PROCESS, PROMPT, L, canvases, denoiser

NEVER = torch.zeros(2, dtype=torch.bool)


def ahead_of(*rows: tuple[tuple[int, ...], tuple[int, ...]], done: Tensor = NEVER) -> Lookahead:
    """Of canvases that are known so far, with these drafts."""
    width = max(len(draft) for _, draft in rows)
    draft = torch.tensor([[*draft, *[-1] * (width - len(draft))] for _, draft in rows]).long()
    return Lookahead.of(canvases(*(known for known, _ in rows)), draft, done, PROCESS)


def test_a_draft_is_filled_in_up_to_the_end_of_the_canvas():
    ahead = ahead_of(((5, 6), (7, 8, 9)), ((1, 2, 3, 4, 5, 6, 7), (8, 9)))
    assert ahead.canvas.tolist() == [[5, 6, 7, 8, 9, *[MASK] * 3], [1, 2, 3, 4, 5, 6, 7, 8]]
    assert (ahead.first.tolist(), ahead.drafted.tolist(), ahead.width) == ([2, 7], [3, 1], 4)
    assert ahead.places.tolist() == [[2, 3, 4, 5], [7, 7, 7, 7]]
    assert ahead.wanted.tolist() == [[True] * 4, [True, False, False, False]]
    assert ahead.canvases()[0].tolist() == [[5, 6, *[7, 8, 9][:n], *[MASK] * (L - 2 - n)] for n in range(4)]


def test_nothing_is_wanted_of_a_row_that_is_done():
    ahead = ahead_of(((5, 6), (7,)), ((1,), (2,)), done=torch.tensor([False, True]))
    assert ahead.wanted.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    "model",
    [denoiser(MODEL, kind) for kind in (StepwiseCausalDenoiser, CausalDenoiser, BranchingCausalDenoiser)],
    ids=["stepwise", "at once", "branching"],
)
def test_a_causal_core_predicts_ahead_what_it_predicts_one_by_one(model):
    prompts = [Prompt(PROMPT), Prompt([3, 4])]
    ahead = ahead_of(((5, 6), (7, 8, 9)), ((), (2,)))
    wanted = ahead.wanted
    alone = one_by_one(model, ahead, model.start(prompts))[wanted]
    together = model.ahead(ahead, model.start(prompts))[wanted]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert not together.isnan().any()


def test_what_was_read_of_a_rejected_draft_is_forgotten():
    model: Any = denoiser(MODEL)
    prefix = model.start([Prompt(PROMPT)])
    one = torch.zeros(1, dtype=torch.bool)
    model.ahead(ahead_of(((5, 6), (7, 8, 9)), done=one), prefix)
    other = ahead_of(((5, 6, 10), (11,)), done=one)
    fresh = model.ahead(other, model.start([Prompt(PROMPT)]))
    torch.testing.assert_close(model.ahead(other, prefix), fresh, rtol=0, atol=1e-5)
    grown = model.commit(torch.tensor([[5, 6, 10, 11, 12, 13, 14, 15]]), prefix)
    again = model.start([Prompt([*PROMPT, 5, 6, 10, 11, 12, 13, 14, 15])])
    after = ahead_of(((), (20, 21)), done=one)
    torch.testing.assert_close(model.ahead(after, grown), model.ahead(after, again), rtol=0, atol=1e-5)


def test_each_token_of_a_core_is_read_once_where_drafts_are_drawn(monkeypatch):
    model: Any = denoiser(MODEL)
    widths: list[int] = []
    write = model.backbone.write
    monkeypatch.setattr(
        model.backbone, "write", lambda embedded, *rest: widths.append(embedded.shape[1]) or write(embedded, *rest)
    )
    one = torch.zeros(1, dtype=torch.bool)
    prefix = model.start([Prompt(PROMPT)])
    model.ahead(ahead_of(((), (5, 6)), done=one), prefix)
    model.ahead(ahead_of(((5, 6, 7), (8, 9, 10, 11)), done=one), prefix)
    grown = model.commit(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]]), prefix)
    assert widths == [2, 5]
    model.ahead(ahead_of(((), (1, 2)), done=one), grown)
    assert widths == [2, 5, 3]  # the last token of the block is read with the next draft
