"""Members that abstain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssdcli.engine.ensemble import abstention
from ssdcli.engine.ensemble.abstention import combine
from ssdcli.engine.ensemble.attribution import shares
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import Gated, average, contrast, mix
from ssdcli.engine.ensemble.schedules import Constant
from tests.engine.ensemble.test_rules import predictions

V = 7


def silenced(log_p: Tensor, where: Tensor) -> Tensor:
    """Log p (B, L, V) of a member that abstains at some positions (B, L) bool."""
    return log_p.masked_fill(where[..., None], math.nan)


@st.composite
def silences(draw: st.DrawFn, members: int) -> list[Tensor]:
    """For each member, where it abstains in canvases of (2, 3)."""
    flags = st.lists(st.booleans(), min_size=6, max_size=6)
    return [torch.tensor(draw(flags)).view(2, 3) for _ in range(members)]


@pytest.mark.parametrize("rule", [mix, average])
@given(silent=silences(3), seed=st.integers(0, 100))
def test_weights_are_shared_among_those_that_predict_at_a_position(rule, silent, seed):
    log_ps = [silenced(p, where) for p, where in zip(predictions(3, V, seed), silent, strict=True)]
    weights = [0.2, 0.5, 0.3]
    combined = combine(rule, log_ps, weights, [True, True, True])
    for row in range(2):
        for place in range(3):
            speaking = [i for i in range(3) if not silent[i][row, place]]
            if speaking:
                alone = rule([log_ps[i][row, place] for i in speaking], [weights[i] for i in speaking])
                torch.testing.assert_close(combined[row, place], alone)
            else:
                assert combined[row, place].isnan().all()


@pytest.mark.parametrize("rule", [mix, average, Gated(0.5, -0.5)])
def test_where_all_predict_an_ensemble_is_what_it_is_without_abstaining_members(rule):
    core, small = predictions(2, V, seed=1)
    silent = torch.tensor([[False, True, True], [True, True, False]])
    combined = combine(rule, [silenced(core, silent), small], [0.6, 0.4], [True, False])
    assert torch.equal(combined[~silent], rule([core, small], [0.6, 0.4])[~silent])
    assert torch.equal(combined[silent], small[silent])


def test_a_device_combines_what_the_host_combines(monkeypatch):
    log_ps = [silenced(p, torch.eye(2, 3).roll(i, 1).bool()) for i, p in enumerate(predictions(2, V, seed=7))]
    log_ps += predictions(1, V, seed=8)
    arguments = [0.2, 0.3, 0.5], [True, True, False]
    host = combine(mix, log_ps, *arguments)
    monkeypatch.setattr(abstention, "readable", lambda x: False)
    torch.testing.assert_close(combine(mix, log_ps, *arguments), host)


def test_predictions_are_left_as_they_were():
    core, small = predictions(2, V, seed=2)
    kept = small.clone()
    combine(mix, [silenced(core, torch.eye(2, 3).bool()), small], [0.6, 0.4], [True, False])
    assert torch.equal(small, kept)


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_contrast_predicts_nothing_where_one_of_its_members_abstains(silent):
    log_ps, where = predictions(3, V, seed=3), torch.eye(2, 3).bool()
    expected = contrast(log_ps, [1.0, 0.5, -0.5])
    log_ps[silent] = silenced(log_ps[silent], where)
    combined = combine(contrast, log_ps, [1.0, 0.5, -0.5], [i == silent for i in range(3)])
    assert combined[where].isnan().all()
    assert torch.equal(combined[~where], expected[~where])


def test_a_rule_never_meets_a_member_that_abstains():
    def strict(log_ps: Any, weights: Any) -> Tensor:
        assert not any(log_p.isnan().any() for log_p in log_ps)
        return mix(log_ps, weights)

    log_ps = [silenced(p, torch.eye(2, 3).roll(i, 1).bool()) for i, p in enumerate(predictions(2, V, seed=4))]
    combine(strict, log_ps, [0.5, 0.5], [True, True])


class Silent:
    """Abstains, or does not."""

    def __init__(self, abstains: bool) -> None:
        self.abstains = abstains


def ensemble(*abstain: bool, rule: Any = mix) -> Ensemble:
    members = [Member(f"m{i}", Silent(may), Constant(0.5)) for i, may in enumerate(abstain)]
    return Ensemble(tuple(members), rule)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("abstain", "rule", "full"),
    [
        ((True,), mix, False),
        ((True, False), mix, True),
        ((True, True), average, False),
        ((False, False), contrast, True),
        ((True, False), contrast, False),
    ],
)
def test_an_ensemble_knows_whether_it_predicts_everywhere(abstain, rule, full):
    assert ensemble(*abstain, rule=rule).fully_predicts(0.5) == full


@pytest.mark.parametrize("rule", [mix, average])
def test_a_token_is_owed_to_those_that_predicted_it(rule):
    core, small = predictions(2, V, seed=5)
    silent = torch.tensor([[True, False, False], [True, True, False]])
    tokens = small.argmax(-1)
    owed = shares(ensemble(True, False, rule=rule), [silenced(core, silent), small], [0.5, 0.5], tokens)
    assert torch.equal(owed[silent], torch.tensor([0.0, 1.0]).expand(3, 2))
    together = shares(ensemble(False, False, rule=rule), [core, small], [0.5, 0.5], tokens)
    assert torch.equal(owed[~silent], together[~silent])


def test_nothing_is_owed_where_nobody_predicts():
    (core,) = predictions(1, V, seed=6)
    owed = shares(ensemble(True), [silenced(core, torch.eye(2, 3).bool())], [1.0], core.argmax(-1))
    assert owed[torch.eye(2, 3).bool()].isnan().all()
    assert (owed[~torch.eye(2, 3).bool()] == 1).all()
