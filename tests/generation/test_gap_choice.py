"""A causal core chooses between fills of a gap by the text behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ssdcli.api import Options, Request, Writer
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.generation.gap_choice import GapChooser, candidate_keys
from ssdcli.generation.trace import WrittenBlock
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from tests.engine.test_causal import MODEL, V, denoiser
from tests.tiny import VOCABULARY, member, tiny_tokenizer

END = 0
BEFORE = [7, 3, 9]


def chooser(behind: Sequence[int], most: int = 8) -> GapChooser:
    return GapChooser(denoiser(MODEL), Prompt(BEFORE), tuple(behind), (END,), most)


def blocks(*tokens: int) -> list[WrittenBlock]:
    return [WrittenBlock(tokens, [(1.0,)], (), ())]


def log_p(tokens: list[int]) -> float:
    """Log p of everything after the prompt, by the model itself."""
    scores = torch.log_softmax(MODEL(torch.tensor([BEFORE + tokens])).logits[0], dim=-1)[len(BEFORE) - 1 : -1]
    return float(scores[range(len(tokens)), tokens].sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_best_beginning_makes_the_text_around_the_gap_likeliest(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    candidates = torch.randint(1, V, (3, 5), generator=draws).tolist()
    behind = torch.randint(1, V, (4,), generator=draws).tolist()
    best = chooser(behind).best([blocks(*tokens) for tokens in candidates])
    fills = [tokens[:count] for tokens in candidates for count in range(1, 6)]
    expected = max(fills, key=lambda fill: log_p(fill + behind))
    assert list(best.tokens) == expected
    assert best.score == pytest.approx(log_p(expected + behind), abs=1e-4)
    assert candidates[best.candidate][: len(expected)] == expected


def test_a_fill_ends_before_an_end_of_text_and_after_the_most_tokens() -> None:
    ended = [4, END, 5, 6]
    assert chooser([9]).best([blocks(*ended)]).tokens == (4,)
    assert len(chooser([9], most=2).best([blocks(4, 5, 6, 8)]).tokens) <= 2


def test_nothing_written_is_an_empty_fill() -> None:
    assert chooser([9]).best([blocks(END), blocks(END, 4)]).tokens == ()


def test_the_first_candidate_has_the_noise_of_the_gap_and_the_others_their_own() -> None:
    keys = candidate_keys(11, 5)
    assert keys[0] == 11
    assert len(set(keys)) == 5


def writer() -> Writer:
    """A causal core of the tiny vocabulary, with a virtual mask id behind it."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**MODEL.config.to_dict() | {"vocab_size": VOCABULARY})).eval()
    spec = replace(denoiser(MODEL).backbone.spec, constants={"mask_id": VOCABULARY})
    core = CausalDenoiser(NativeCausalBackbone(model.requires_grad_(False), spec), Masked(VOCABULARY + 1, VOCABULARY))
    return Writer([member("core", core, tiny_tokenizer())], "core")


def test_at_temperature_zero_a_fill_is_a_beginning_of_what_the_core_goes_on_with() -> None:
    greedy = Options(infill=True, gap=10, temperature=0, seed=1)
    chosen = writer().generate("Dear ____, the boiler", greedy).text
    unchosen = writer().generate("Dear ____, the boiler", greedy, candidates=1).text
    fill = chosen.removeprefix("Dear").removesuffix(", the boiler")
    assert chosen.endswith(", the boiler")
    assert unchosen.startswith("Dear" + fill)


def test_gaps_are_filled_alike_alone_and_in_a_batch() -> None:
    options = Options(infill=True, gap=10, candidates=3, seed=4)
    prompts = ["Dear ____, the boiler is ____ cold", "the ____", "stairs ____ dark"]
    together = writer().generate_batch([Request(prompt) for prompt in prompts], options)
    alone = [writer().generate(p, options, seed=4 + place) for place, p in enumerate(prompts)]
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.members for result in together] == [result.members for result in alone]


def test_all_candidates_are_counted() -> None:
    one, three = (
        writer().generate("Dear ____, the boiler", Options(infill=True, gap=8, candidates=n, seed=2)) for n in (1, 3)
    )
    assert three.members[0].forward_passes >= 2 * one.members[0].forward_passes
