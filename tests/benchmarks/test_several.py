from __future__ import annotations

import pytest
import torch

from benchmarks.several import _shared


def test_an_ensemble_counts_as_far_as_it_has_predicted_the_text_so_far() -> None:
    good, bad = torch.full((6,), 0.5).double(), torch.full((6,), 3.0).double()
    alone, texts = [good, bad], torch.tensor([0, 0, 0, 0, 1, 1])
    mean = _shared(alone, texts, 1.0)
    assert torch.allclose(mean, mean[:1])
    learned = _shared(alone, texts, 0.02)
    assert float(learned[0]) == pytest.approx(float(mean[0]))
    assert bool((learned[1:4] < learned[:3]).all())
    assert bool((learned[:4] > 0.5).all())
    assert float(learned[4]) == pytest.approx(float(mean[0]))  # each text begins anew
