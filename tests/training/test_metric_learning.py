"""A metric is learned from what it makes of a text's own tokens with all other texts."""

from __future__ import annotations

import math

import pytest
import torch

from ssdcli.models.memory.recall import Metric
from ssdcli.training.metric_learning import Effort, Examples, in_order, learn_metric, mean_loss, whitening

TOKENS, TEXTS, HIDDEN = 12, 8, 24


@pytest.fixture(scope="module")
def toy() -> Examples:
    """States that tell the token in a few directions, the text in others more loudly, and the rest is noise."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(TOKENS, (1200,), generator=random)
    texts = torch.arange(1200) % TEXTS
    of_token, of_text = (
        torch.nn.functional.pad(torch.randn(count, 6, generator=random), (shift, HIDDEN - 6 - shift))
        for count, shift in ((TOKENS, 0), (TEXTS, 6))
    )
    states = of_token[tokens] + 3 * of_text[texts] + torch.randn(1200, HIDDEN, generator=random)
    return Examples(states.bfloat16(), tokens, texts, torch.full((600,), 1 / TOKENS))


def loss_of(metric: Metric, given: Examples) -> float:
    every, asked = torch.arange(len(given.states)), torch.arange(len(given.core))
    return float(mean_loss(metric, torch.tensor(metric.temperature), given, asked, every))


def test_learning_lowers_the_loss_over_other_texts(toy: Examples) -> None:
    first, learned = whitening(toy.states, (1,)), learn_metric(toy, (1,), Effort(seed=0))
    assert loss_of(first, toy) < math.log(TOKENS)
    assert loss_of(learned, toy) < loss_of(first, toy) - 0.2
    assert learned.taps == (1,)


def test_the_same_seed_gives_the_same_metric(toy: Examples) -> None:
    one, same, other = (learn_metric(toy, (1,), Effort(seed, steps=3)) for seed in (0, 0, 1))
    assert torch.equal(one.projection, same.projection)
    assert one.temperature == same.temperature
    assert not torch.equal(one.projection, other.projection)


def test_a_text_tells_nothing_of_its_own_tokens(toy: Examples) -> None:
    alone = Examples(toy.states, toy.tokens, torch.zeros_like(toy.texts), toy.core)
    assert loss_of(whitening(toy.states, (1,)), alone) == pytest.approx(-math.log(1 / TOKENS / 2), abs=1e-5)


def test_whitened_states_have_variance_one_in_all_directions(toy: Examples) -> None:
    metric = whitening(toy.states, (1,))
    normed = torch.nn.functional.rms_norm(toy.states.float(), (HIDDEN,)) - metric.mean
    covariance = torch.cov((normed @ metric.projection).T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(HIDDEN), rtol=0, atol=1e-3)


def test_every_step_can_be_stopped(toy: Examples) -> None:
    def stop(step: int, steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt(steps)

    with pytest.raises(KeyboardInterrupt, match="5"):
        learn_metric(toy, (1,), Effort(0, 5, watch=stop))


def test_learning_ends_when_its_time_is_over(toy: Examples) -> None:
    taken: list[int] = []

    def watch(step: int, _steps: int) -> None:
        taken.append(step)

    learn_metric(toy, (1,), Effort(0, 50, gone=lambda: len(taken) / 4, watch=watch))
    assert taken == [0, 1, 2, 3]


def test_dimensions_come_in_the_order_of_what_they_tell_and_cosines_stay(toy: Examples) -> None:
    metric = whitening(toy.states, (1,))
    ordered = in_order(metric, toy.states)
    before, after = metric(toy.states), ordered(toy.states)
    torch.testing.assert_close(after @ after.T, before @ before.T, rtol=0, atol=1e-4)
    energy = after.square().sum(0)
    assert bool((energy[:-1] >= energy[1:] - 1e-3).all())
