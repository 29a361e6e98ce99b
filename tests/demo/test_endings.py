"""Endings of a sentence are as likely as their tokens, one after the other."""

from __future__ import annotations

import pytest
import torch

from ssdcli.api import load
from ssdcli.demo.endings import Endings, predict_after, predict_together
from ssdcli.engine.prompt import Prompt
from tests.tiny import BLOCK, add_family

PROMPT = Prompt([0, 40, 41, 42])
IDS = [(50, 51, 52), (50, 51), (50, 60, 52), (70,)]


def test_a_beginning_stands_once_in_the_tree():
    endings = Endings.of(IDS)
    assert endings.nodes == ((), (50,), (50, 51), (50, 60))


def test_log_p_is_the_sum_over_an_endings_tokens():
    endings = Endings.of(IDS)
    predicted = torch.arange(400.0).view(4, 100)
    assert endings.log_p(predicted) == [50 + 151 + 252, 50 + 151, 50 + 160 + 352, 70]


def one_by_one(ensemble, ending):
    """Log p of an ending from canvases on which one token after the other is known."""
    mask_id = ensemble.members[0].model.process.mask_id
    total = 0.0
    for place, token in enumerate(ending):
        canvas = torch.tensor([[*ending[:place], *[mask_id] * (BLOCK - place)]])
        prefixes = ensemble.start([[PROMPT]] * len(ensemble.members), [1.0])
        log_p = ensemble.denoise(canvas, 1 - place / BLOCK, None, prefixes).log_p
        total += float(log_p[0, place, token])
    return total


def test_a_causal_core_reads_all_endings_in_one_pass(real_core):
    denoiser = load(real_core.name).members[0].model.denoiser
    ids = [(281, 4052, 282), (281, 4052), (281, 260, 282), (1000,)]
    endings = Endings.of(ids)
    found = endings.log_p(predict_after(denoiser, PROMPT, endings))
    before = len(PROMPT.before)
    texts = [denoiser.score(torch.tensor([[*PROMPT.before, *ending]]))[0, before - 1 :] for ending in ids]
    assert found == pytest.approx([float(text.sum()) for text in texts], abs=1e-3)


@pytest.mark.parametrize("members", [None, {"notes": 0.3}, {"notes": 1.0}])
def test_log_p_is_that_of_the_canvases_that_are_met_when_the_ending_is_written(members):
    add_family()
    ensemble, endings = load("big", members).ensemble, Endings.of(IDS)
    own = [predict_after(member.model, PROMPT, endings) for member in ensemble.members]
    found = endings.log_p(predict_together(ensemble, own, endings, BLOCK))
    assert found == pytest.approx([one_by_one(ensemble, ending) for ending in IDS], abs=1e-4)
