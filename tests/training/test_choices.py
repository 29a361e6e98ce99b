from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.models.presets import PRESETS
from ssdcli.training.choices import choose_batch_tokens, choose_preset, choose_rate, settled
from ssdcli.training.settings import TrainSettings

sizes = st.integers(1, 10**8)


def place(settings: TrainSettings, tokens: int) -> int:
    return PRESETS.index(choose_preset(settings, tokens))


@given(sizes, sizes, st.floats(0.1, 1000), st.floats(0.1, 1000))
def test_more_text_and_more_time_never_make_a_smaller_model(few, many, short, long):
    few, many, short, long = *sorted((few, many)), *sorted((short, long))
    assert place(TrainSettings(minutes=short), few) <= place(TrainSettings(minutes=long), many)


def test_time_limits_a_size_where_it_is_given_and_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    assert place(TrainSettings(minutes=0.1), 10**9) == 0
    assert place(TrainSettings(steps=10), 10**9) == len(PRESETS) - 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert place(TrainSettings(minutes=0.1), 10**9) == len(PRESETS) - 1


def test_a_size_and_a_step_that_are_asked_for_are_given():
    asked = TrainSettings(size="mini", batch_tokens=77, minutes=1)
    assert (choose_preset(asked, 1).name, choose_batch_tokens(asked, 1)) == ("mini", 77)


@given(sizes, st.floats(0.1, 100))
def test_a_small_text_gets_enough_steps_from_its_passes_unless_they_became_too_small(tokens, passes):
    batch = choose_batch_tokens(TrainSettings(passes=passes), tokens)
    assert 512 <= batch <= 2048
    assert batch in {512, 2048} or tokens * passes / batch == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize("changes", [{"steps": 10}, {"init": "notes"}])
def test_steps_that_are_counted_and_models_that_are_continued_get_large_steps(changes):
    assert choose_batch_tokens(TrainSettings(**changes), 1) == 2048


def test_weights_that_have_learned_before_learn_more_gently_and_an_adapter_as_fast_as_new_ones():
    fresh, continued, adapter = (
        choose_rate(TrainSettings(**changes)) for changes in ({}, {"init": "notes"}, {"init": "notes", "lora": 8})
    )
    assert continued < fresh == adapter
    assert choose_rate(TrainSettings(init="notes", learning_rate=0.5)) == 0.5


def test_what_was_settled_stays_when_a_resumed_training_gets_more_time():
    first = settled(TrainSettings(minutes=1), 10_000)
    longer = replace(first, minutes=1000.0, passes=1000.0)
    assert settled(longer, 10_000_000) == longer
    assert settled(TrainSettings(init="notes"), 10_000).size is None
