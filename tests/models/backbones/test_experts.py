from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from ssdcli.models.backbones.native import IN_FOURS

EXPERTS, WIDTH, INNER = 5, 48, 32
in_fours = ALL_EXPERTS_FUNCTIONS[IN_FOURS]


def experts() -> Any:
    """Stands in for a native module with random weights."""
    generator = torch.Generator().manual_seed(0)
    made = SimpleNamespace(num_experts=EXPERTS, has_gate=True, has_bias=False, is_transposed=False)
    made.has_post_expert_norm = made._is_expert_parallel = False
    made.gate_up_proj = torch.randn(EXPERTS, 2 * INNER, WIDTH, generator=generator) * WIDTH**-0.5
    made.down_proj = torch.randn(EXPERTS, WIDTH, INNER, generator=generator) * INNER**-0.5
    made._apply_gate = lambda x: torch.nn.functional.silu(x[..., :INNER]) * x[..., INNER:]
    return made


def routed(tokens: int, chosen: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their experts and the experts' weights."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.rand(tokens, EXPERTS, generator=generator).argsort(-1)[:, :chosen]
    weights = torch.rand(tokens, chosen, generator=generator)
    return torch.randn(tokens, WIDTH, generator=generator), index, weights


@pytest.mark.parametrize(("tokens", "chosen"), [(1, 1), (7, 2), (32, 3), (33, EXPERTS)])
def test_experts_say_what_they_say_in_groups_of_any_size(tokens, chosen):
    module, given = experts(), routed(tokens, chosen)
    torch.testing.assert_close(in_fours(module, *given), grouped_mm_experts_forward(module, *given))


def test_experts_to_whom_no_token_goes_change_nothing():
    hidden, _, weights = routed(6, 1)
    index = torch.full((6, 1), EXPERTS - 1)
    module = experts()
    gate, up = (hidden @ module.gate_up_proj[-1].T).chunk(2, dim=-1)
    expected = (torch.nn.functional.silu(gate) * up) @ module.down_proj[-1].T * weights
    torch.testing.assert_close(in_fours(module, hidden, index, weights), expected)


def test_what_is_said_for_a_token_is_the_same_bits_whatever_the_others_are():
    module, given = experts(), routed(61, 2)
    together = in_fours(module, *given)
    for part in (slice(0, 1), slice(3, 8), slice(20, 61), slice(60, 61)):
        assert torch.equal(in_fours(module, *(tensor[part] for tensor in given)), together[part])
