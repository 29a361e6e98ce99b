from __future__ import annotations

import pytest

from ssdcli.errors import UsageError
from ssdcli.registry.compatibility import CanvasShape, check_fit, misfit

MASKED = {"process": "masked", "constants": {"mask_id": 1.0}}


@pytest.fixture
def pair(manifest):
    """Makes two manifests, the second with changes."""
    return lambda **changes: (manifest(**MASKED), manifest(**{**MASKED, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"constants": {"mask_id": 1.0, "t_min": 1e-3}},
        {"attention": "full", "block_size": 7},
        {"kind": "core", "core": None, "context": 64, "architecture": "dream"},
        {"begin": 3, "ends": (5,), "format": "chat"},
    ],
    ids=["alike", "usual constant left out", "full attention", "another kind", "another opening"],
)
def test_models_that_can_share_a_canvas_fit_both_ways(changes, pair):
    one, other = pair(**changes)
    assert misfit(one, other) is misfit(other, one) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokenizer": "cd" * 32}, "their tokenizers differ"),
        ({"process": "uniform", "constants": {}}, "its noise process is masked (mask_id 1, t_min 0.001), not uniform"),
        (
            {"constants": {"mask_id": 2.0}},
            "its noise process is masked (mask_id 1, t_min 0.001), not masked (mask_id 2, t_min 0.001)",
        ),
        ({"vocabulary": 8200}, "it predicts 8192 token ids, not 8200"),
        ({"block_size": 16}, "its block size is 25, not 16"),
        ({"attention": "causal", "block_size": 16}, "its block size is 25, not 16"),
    ],
)
def test_a_misfit_is_one_both_ways_and_says_what_differs(changes, problem, pair):
    one, other = pair(**changes)
    assert misfit(one, other) == problem
    assert misfit(other, one) is not None


def test_small_models_made_for_a_core_of_full_attention_have_blocks_of_their_own(manifest):
    core = manifest(**MASKED, kind="core", attention="full", block_size=32)
    small = CanvasShape.of(manifest(**MASKED, block_size=16))
    assert small.misfit(CanvasShape.of(core)) is None
    assert small.misfit(CanvasShape.of(core, 16)) is None
    assert small.misfit(CanvasShape.of(core, 32)) == "its block size is 16, not 32"


def test_a_refusal_names_the_models_that_fit(registry, add):
    add(registry, "big", **MASKED, kind="core", core=None)
    for name, changes in {
        "notes": {},
        "mail": {"kind": "adapter"},
        "odd": {"vocabulary": 9},
        "peer": {"kind": "core"},
    }.items():
        add(registry, name, **{**MASKED, **changes})
    with pytest.raises(UsageError, match="'odd' does not fit 'big': it predicts 9 token ids, not 8192") as caught:
        check_fit(registry.find("odd"), registry.find("big"), registry)
    assert caught.value.remedy == "These fit 'big': mail, notes."
    with pytest.raises(UsageError) as caught:
        check_fit(registry.find("notes"), registry.find("odd"), registry)
    assert caught.value.remedy == "No other small model fits 'odd': combine models that were made for the same core."
    check_fit(registry.find("notes"), registry.find("mail"), registry)


def test_a_core_that_nothing_fits_says_how_to_train_for_it(registry, add):
    add(registry, "big", **MASKED, kind="core", core=None)
    with pytest.raises(UsageError) as caught:
        check_fit(registry.find("starter"), registry.find("big"), registry)
    assert caught.value.remedy == "No small model fits 'big' yet: train one with 'ssd train-small --for big'."
