from __future__ import annotations

import torch

from ssdcli.engine.ensemble.rules import average
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform, uniform_nelbo
from ssdcli.evaluation.bounds import DENOISING_LOSS, NELBO, bound_of
from ssdcli.evaluation.combinations import Combined, Positions, cross_entropy

V = 4


def test_each_process_has_its_measure():
    assert bound_of(Masked(V, 0)) == (NELBO, cross_entropy)
    assert bound_of(Simplex(V)) == (DENOISING_LOSS, cross_entropy)


def test_the_terms_of_a_nelbo_are_those_of_what_the_members_predict_together():
    name, score = bound_of(Uniform(V))
    said = [torch.log_softmax(torch.randn(9, V), -1) for _ in range(2)]
    tokens, shown, levels = torch.randint(V, (9,)), torch.randint(V, (9,)), torch.rand(9)
    found = score(Combined(average, said, [0.3, 0.7]), Positions(tokens, levels, shown))
    assert name == NELBO
    assert torch.equal(found, uniform_nelbo(average(said, [0.3, 0.7]), tokens, shown, levels))
