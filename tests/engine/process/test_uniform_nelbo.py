"""The bounds are bounds: no prediction beats the entropy of what is predicted, and the true one reaches it."""

from __future__ import annotations

import pytest
import torch

from ssdcli.engine.process.uniform import uniform_nelbo

P = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
V = len(P)
ENTROPY = float(-(P * P.log()).sum())
LEVELS = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000


def expected(predict) -> float:
    """The mean bound over tokens of probabilities P, what is shown of them, and levels; all summed, nothing drawn."""
    t = LEVELS.repeat_interleave(V * V)
    clean = torch.arange(V).repeat_interleave(V).repeat(len(LEVELS))
    shown = torch.arange(V).repeat(V * len(LEVELS))
    chance = P[clean] * (t / V + (1 - t) * (clean == shown))
    log_p = predict(shown, t).log()
    nats = uniform_nelbo(log_p, clean, shown, t)
    return float((chance * nats).sum() / len(LEVELS))


def posterior(prior: torch.Tensor):
    """Predicts the clean token by Bayes' rule from a prior."""

    def predict(shown: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        likelihood = (t / V)[:, None] + (1 - t)[:, None] * torch.nn.functional.one_hot(shown, V)
        joint = prior * likelihood
        return joint / joint.sum(-1, keepdim=True)

    return predict


def test_the_true_posterior_reaches_the_entropy():
    assert expected(posterior(P)) == pytest.approx(ENTROPY, rel=2e-3)


@pytest.mark.parametrize("prior", [torch.full((V,), 1 / V), torch.tensor([0.1, 0.2, 0.3, 0.4])], ids=["flat", "wrong"])
def test_a_wrong_prior_costs_its_divergence(prior):
    """The bound of a model that would generate from the wrong prior is the cross-entropy with that prior."""
    assert expected(posterior(prior.double())) == pytest.approx(float(-(P * prior.log()).sum()), rel=2e-3)


def test_another_prediction_loses_more_than_the_entropy():
    assert expected(lambda shown, t: P.expand(len(t), V)) > 1.1 * ENTROPY


def test_who_knows_the_text_loses_nothing():
    tokens = torch.arange(V)
    for shown in (tokens, tokens.roll(1)):
        log_p = torch.nn.functional.one_hot(tokens, V).float().log()
        nats = uniform_nelbo(log_p, tokens, shown, torch.tensor([0.0, 0.1, 0.9, 1]))
        assert nats.tolist() == pytest.approx([0.0] * V, abs=1e-4)


def test_at_any_level_the_bound_is_finite_and_not_below_zero():
    generator = torch.Generator().manual_seed(0)
    log_p = torch.log_softmax(5 * torch.randn(500, 50, generator=generator), -1)
    tokens, shown = torch.randint(50, (2, 500), generator=generator)
    nats = uniform_nelbo(log_p, tokens, shown, torch.rand(500, generator=generator))
    assert (nats >= -1e-4).all()
    assert nats.isfinite().all()
