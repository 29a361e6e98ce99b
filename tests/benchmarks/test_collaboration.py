from __future__ import annotations

import pytest

from benchmarks.collaboration import shape_for, size_of
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM

CORE = BackboneConfig(vocabulary=8192, hidden=256, layers=4, rank=256)


def test_a_size_counts_what_a_model_has() -> None:
    model = BlockDiffusionLM(BackboneConfig(vocabulary=500, hidden=64, layers=2, rank=64))
    size = size_of(model.config, 64, 2)
    assert size.everything == sum(weight.numel() for weight in model.parameters())
    assert size.everything - size.body == 500 * 64
    assert shape_for(model.config, 1) == size


@pytest.mark.parametrize("ratio", [3, 10, 30, 100])
def test_a_small_model_has_the_wanted_share_of_the_core_beyond_the_embeddings(ratio: float) -> None:
    size = shape_for(CORE, ratio)
    assert size.body * ratio == pytest.approx(size_of(CORE, 256, 4).body, rel=0.25)
