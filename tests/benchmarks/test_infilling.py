"""Gaps between words, and the choice between two ways of filling them."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks.infilling import LONGEST, from_left, gaps_of, likelier
from ssdcli.engine.prompt import Prompt
from ssdcli.text.codec import Codec
from tests.tiny import tiny_tokenizer

CODEC = Codec(tiny_tokenizer())
TEXT = "stairs are dark and the boiler is cold again, dear landlord; " * 30


def test_gaps_are_whole_words_of_one_to_eight_tokens_that_are_encoded_alike_apart():
    gaps = gaps_of([f"{place} {TEXT}" for place in range(10)], CODEC, 10)
    assert {len(gap.own) for gap in gaps} <= set(range(1, LONGEST + 1))
    assert len(gaps) > 1
    for gap in gaps:
        before, own, behind = (CODEC.decode(part) for part in (gap.before, gap.own, gap.behind))
        assert own.startswith(" ")
        assert behind.startswith(" ")
        assert CODEC.encode(own) == list(gap.own)
        assert before + own + behind in TEXT or (before + own + behind).partition(" ")[2] in TEXT


def test_the_likelier_of_two_fills_is_that_of_fewer_nats_in_all():
    one = {"exact": [True, False], "own": [1.0, 5.0], "behind": [3.0, 3.0], "seconds": 1.0}
    other = {"exact": [False, True], "own": [2.0, 1.0], "behind": [3.0, 3.5], "seconds": 2.0}
    chosen = likelier(one, other)
    assert chosen == {"exact": [True, True], "own": [1.0, 1.0], "behind": [3.0, 3.5], "seconds": 3.0}


def test_a_masked_model_says_each_token_of_a_gap_when_those_before_it_are_known():
    seen = []

    def denoise(canvas, t, previous, prefixes):
        seen.append((canvas, prefixes))
        return canvas[..., None].expand(-1, -1, 3) + torch.arange(3)

    fake = SimpleNamespace(
        backbone=SimpleNamespace(block_size=4),
        process=SimpleNamespace(mask_id=90),
        start=len,
        denoise=denoise,
    )
    log_p = from_left(fake, Prompt([1]), torch.tensor([7, 8]))
    ((canvas, rows),) = seen
    assert rows == 2
    assert canvas.tolist() == [[90, 90, 90, 90], [7, 90, 90, 90]]
    assert log_p.tolist() == [[90, 91, 92], [90, 91, 92]]
