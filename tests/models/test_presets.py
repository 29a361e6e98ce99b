from __future__ import annotations

import pytest

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.presets import PRESETS, find_preset

DOCUMENTED = {"nano": 0.3e6, "micro": 2e6, "mini": 10e6, "small": 60e6, "base": 125e6}


def test_the_presets_are_the_documented_ones_from_small_to_large():
    assert [preset.name for preset in PRESETS] == list(DOCUMENTED)
    assert sorted(PRESETS, key=lambda preset: preset.parameters) == list(PRESETS)
    for name, count in DOCUMENTED.items():
        assert find_preset(name).parameters == pytest.approx(count, rel=0.15)


@pytest.mark.parametrize("name", ["nano", "micro", "mini"])
def test_a_body_has_the_parameters_that_its_preset_tells(name):
    preset = find_preset(name)
    model = BlockDiffusionLM(BackboneConfig(10, preset.hidden, preset.layers, rank=8, context=preset.context))
    count = sum(parameter.numel() for parameter in model.body.parameters())
    assert count == pytest.approx(preset.parameters, rel=0.05)
    assert count == pytest.approx(DOCUMENTED[name], rel=0.15)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_the_heads_of_a_preset_divide_its_width_evenly(preset):
    heads = BackboneConfig(10, preset.hidden, preset.layers, rank=8).heads
    assert preset.hidden % heads == 0
    assert preset.hidden // heads % 2 == 0


def test_there_is_no_preset_of_another_name():
    assert find_preset("Nano") is None
    assert find_preset("") is None
