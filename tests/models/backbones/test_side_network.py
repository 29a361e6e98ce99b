"""A small model that reads a causal core: laws on toy Llamas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssdcli.engine.causal import StepwiseCausalDenoiser
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import SsdError
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import (
    SideConfig,
    SideNetwork,
    load_side_network,
    save_side_network,
)
from tests.engine.test_causal import CONTEXT, PROCESS, PROMPT, L, V, canvas_of, denoiser, llama

LAYERS = (0, 1)


def backbone() -> CausalCore:
    core = denoiser(llama()).backbone
    assert isinstance(core, CausalCore)
    return core


def network(core: CausalCore, *, trained: bool = True) -> SideNetwork:
    """A network on a core; a trained one has a last matrix that is not zero."""
    torch.manual_seed(1)
    side = SideNetwork(SideConfig(V + 1, 32, LAYERS, 24, L, CONTEXT), core)
    if trained:
        nn.init.normal_(side.body[-1].weight, std=0.3)
    return side.eval().requires_grad_(False)


@contextmanager
def passes(core: CausalCore, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of tokens that the core reads, pass by pass."""
    seen: list[int] = []
    run = core._run

    def counted(embedded: Tensor, *args: Any) -> Tensor:
        seen.append(embedded.shape[1])
        return run(embedded, *args)

    with monkeypatch.context() as patch:
        patch.setattr(core, "_run", counted)
        yield seen


@pytest.mark.parametrize("known", [(), (5, 6, 7)])
def test_an_untrained_network_predicts_what_the_core_predicts_bit_for_bit(known):
    core = backbone()
    small = StepwiseCausalDenoiser(network(core, trained=False), PROCESS)
    alone = denoiser(llama())
    expected = alone.denoise(canvas_of(*known), 0.5, None, alone.start([Prompt(PROMPT)]))
    found = small.denoise(canvas_of(*known), 0.5, None, small.start([Prompt(PROMPT)]))
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_a_core_that_is_read_predicts_as_before():
    core = backbone()
    network(core)
    read, alone = StepwiseCausalDenoiser(core, PROCESS), denoiser(llama())
    tokens = torch.tensor([[*PROMPT, 1, 2, 3]])
    assert torch.equal(read.score(tokens), alone.score(tokens))


def test_the_states_are_those_of_one_pass_whatever_way_the_text_was_read():
    small = StepwiseCausalDenoiser(network(backbone()), PROCESS)
    text = [*PROMPT, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
    whole = small.log_p(small.states(torch.tensor([text])))[0]
    prefixes = small.start([Prompt(text[:5])])
    prefixes = small.commit(torch.tensor([text[5 : 5 + L]]), prefixes)
    log_p = small.denoise(canvas_of(*text[5 + L :]), 0.5, None, prefixes)
    torch.testing.assert_close(log_p[0, len(text) - 5 - L], whole[-1], rtol=0, atol=1e-5)
    assert not torch.allclose(
        whole[-1], StepwiseCausalDenoiser(small.backbone.core, PROCESS).log_p(small.states(torch.tensor([text])))[0, -1]
    )


def test_a_core_and_what_reads_it_read_each_token_once(monkeypatch):
    core = backbone()
    models = [StepwiseCausalDenoiser(core, PROCESS), StepwiseCausalDenoiser(network(core), PROCESS)]
    ensemble = Ensemble(tuple(Member(str(i), model, Constant(0.5)) for i, model in enumerate(models)))
    with passes(core, monkeypatch) as seen:
        prefixes = ensemble.start([[Prompt(PROMPT)], [Prompt(PROMPT)]], [1.0])
        for count in range(L):
            ensemble.denoise(canvas_of(*range(10, 10 + count)), 1.0, None, prefixes)
        prefixes = ensemble.commit(torch.tensor([list(range(10, 10 + L))]), prefixes)
        ensemble.denoise(canvas_of(), 1.0, None, prefixes)
    assert sum(seen) == len(PROMPT) + L
    assert prefixes[0] is prefixes[1]


@pytest.mark.parametrize("shared", [0, 32])
def test_a_core_and_what_reads_it_are_scored_in_one_product_where_that_changes_no_bit(shared, monkeypatch):
    core, heads = backbone(), []
    score = core._head

    def counted(hidden: Tensor) -> Tensor:
        heads.append(hidden.shape[1])
        return score(hidden)

    monkeypatch.setattr(core, "_head", counted)
    side = network(core)
    for one in (core, side):
        one.shared_tokens = shared  # type: ignore[union-attr]  # 0 where a product over more tokens rounds otherwise
    models = [StepwiseCausalDenoiser(core, PROCESS), StepwiseCausalDenoiser(side, PROCESS)]
    ensemble = Ensemble(tuple(Member(str(i), model, Constant(0.5)) for i, model in enumerate(models)))
    prefixes = ensemble.start([[Prompt(PROMPT)], [Prompt(PROMPT)]], [1.0])
    canvas, draft = canvas_of(5, 6), torch.tensor([[7, 8]])
    ahead = Lookahead.of(canvas, draft, torch.tensor([False]), PROCESS)
    together = ensemble.ahead(ahead, prefixes).by_member
    assert heads == ([6] if shared else [3, 3])
    for model, said, prefix in zip(models, together, prefixes, strict=True):
        assert said is not None
        torch.testing.assert_close(said, model.ahead(ahead, prefix), atol=1e-6, rtol=1e-6)
    done = Lookahead.of(canvas, draft, torch.tensor([True]), PROCESS)
    assert all(said is not None and bool(said.isnan().all()) for said in ensemble.ahead(done, prefixes).by_member)


def test_a_private_prompt_is_read_in_passes_of_its_own():
    core = backbone()
    models = [StepwiseCausalDenoiser(core, PROCESS), StepwiseCausalDenoiser(network(core), PROCESS)]
    ensemble = Ensemble(tuple(Member(str(i), model, Constant(0.5)) for i, model in enumerate(models)))
    prefixes = ensemble.start([[Prompt(PROMPT)], [Prompt([3, 4, *PROMPT])]], [1.0])
    both = ensemble.denoise(canvas_of(5), 1.0, None, prefixes).by_member
    for model, said, prompt in zip(models, both, ([*PROMPT], [3, 4, *PROMPT]), strict=True):
        alone = model.denoise(canvas_of(5), 1.0, None, model.start([Prompt(prompt)]))
        assert said is not None
        assert torch.equal(said.nan_to_num(7.0), alone.nan_to_num(7.0))


def test_it_is_read_as_it_was_written(tmp_path):
    core = backbone()
    side = network(core)
    save_side_network(side, tmp_path, torch.float32)
    again = load_side_network(tmp_path, backbone())
    states = core.encode(core.embed(torch.tensor([PROMPT])), torch.arange(5)[None], None, None)
    assert torch.equal(again.logits(states), side.logits(states))


@pytest.mark.parametrize("trained", [False, True])
def test_beside_a_core_in_bfloat16_it_is_packed_and_corrects_as_before(trained):
    core = denoiser(llama().bfloat16()).backbone
    assert isinstance(core, CausalCore)
    side = network(core, trained=trained)
    states = torch.randn(2, 3, 3 * 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    expected = side.scored(states)
    found = side.pack().scored(states)
    assert side._packed is not None
    assert found.dtype == torch.bfloat16
    if trained:
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.03)
        assert not torch.equal(found, states[..., :32])
    else:
        assert torch.equal(found, states[..., :32])


def test_a_network_of_another_core_is_refused(tmp_path):
    save_side_network(network(backbone()), tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["SideNetwork"]}', encoding="utf-8")
    with pytest.raises(SsdError, match="cannot be read"):
        load_side_network(tmp_path, backbone())


def test_two_networks_that_read_other_layers_cannot_share_a_core():
    core = backbone()
    network(core)
    with pytest.raises(ValueError, match="other layers"):
        SideNetwork(SideConfig(V + 1, 32, (1,), 24, L, CONTEXT), core)
