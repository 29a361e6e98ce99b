"""What `Repetition` guarantees of the text that samplers write."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.repetition import Repetition
from ssdcli.engine.sampling.reverse import Choice, reverse_process
from ssdcli.engine.steps import Step
from tests.engine.samples import PROCESSES, L, P, generated, run

VOCABULARY = 40  # so many that some are always left
MASKED = Masked(VOCABULARY, mask_id=VOCABULARY - 1)
PROMPT = [0, 1, 1, 0, 0, 1]


class Looping:
    """Says the same everywhere, and mostly two tokens."""

    log_p = torch.tensor([0.4, 0.3, *[0.3 / (VOCABULARY - 3)] * (VOCABULARY - 3), 0.0]).log()

    def start(self, prompts: Any) -> int:
        return 0

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: int) -> Tensor:
        return self.log_p.expand(*canvas.shape[:2], -1)

    def commit(self, tokens: Tensor, prefix: int) -> int:
        return 0


def looped(process: Any, seeds: list[int], n: int, **changes: Any) -> list[Step]:
    """The steps of texts after PROMPT without repeated n-grams."""
    shared = (Prompt(PROMPT),) * len(seeds)
    return run(Looping(), process, seeds, repetition=Repetition(no_repeat=n), shared=shared, **changes)


def repeated(text: list[int], n: int, start: int) -> set[tuple[int, int]]:
    """The pairs of places of which the same n known tokens begin, the second copy ending at `start` or later."""
    grams = [tuple(text[first : first + n]) for first in range(len(text) - n + 1)]
    pairs = combinations(range(len(grams)), 2)
    return {(a, b) for a, b in pairs if grams[a] == grams[b] and min(grams[a]) >= 0 and b + n > start}


@pytest.mark.parametrize(
    "choice",
    [Choice("left-to-right"), Choice("top-k"), Choice("threshold", 1), Choice("ancestral")],
    ids=lambda c: c.name,
)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_where_a_step_reveals_one_position_no_n_gram_of_the_prompt_or_the_text_is_repeated(choice, n):
    sampler, seeds = reverse_process(MASKED, choice).sampler, list(range(20))
    met = dict.fromkeys((0, n), 0)
    for allowed in met:
        steps = looped(sampler, seeds, allowed, steps=L, max_tokens=5 * L)
        for row in generated(steps, MASKED).tolist():
            met[allowed] += len(repeated([*PROMPT, *row], n, len(PROMPT)))
    assert met[n] == 0 < met[0]


@pytest.mark.parametrize("process", [MASKED, Uniform(VOCABULARY), Simplex(VOCABULARY)], ids=lambda one: one.name)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_repeated_n_gram_has_two_tokens_or_more_that_one_step_changed(process, n):
    rows, met = list(range(40)), 0
    steps = looped(process, rows, n, steps=3)
    written = [PROMPT for _ in rows]
    for before, step in zip(canvases_before(steps, process), steps, strict=True):
        if process.mixes and not step.last:
            continue  # noise hides which tokens were drawn
        shown, after = visible(before, process), visible(step.canvas, process)
        for row in rows:
            start = len(written[row])
            pairs = repeated(written[row] + after[row], n, start)
            if process.hides:  # a token that is known stays, and so does a pair
                pairs -= repeated(written[row] + shown[row], n, start)
            for pair in pairs:
                places = {first + k - start for first in pair for k in range(n)}
                assert sum(place >= 0 and shown[row][place] != after[row][place] for place in places) >= 2
            met += len(pairs)
        if step.last:
            written = [text + block for text, block in zip(written, after, strict=True)]
    assert met > 0


def canvases_before(steps: list[Step], process: Process) -> list[Tensor]:
    """What each step denoised."""
    rows = range(len(steps[0].active))
    priors = {step.block: process.prior(L, CounterNoise(rows).derive(step.block, 1 << 32)) for step in steps}
    return [priors[step.block] if step.index == 0 else steps[i - 1].canvas for i, step in enumerate(steps)]


def visible(canvas: Tensor, process: Process) -> list[list[int]]:
    """The tokens that a canvas shows, -1 where there is noise."""
    tokens: list[list[int]] = process.tokens(canvas).where(process.shows(canvas), -1).tolist()
    return tokens


class Toy:
    """A causal LM as a member: exact at the first hidden position, and abstaining at the others."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=VOCABULARY, initializer_range=1.0, **shape, bos_token_id=1, eos_token_id=2)
        self.model = LlamaForCausalLM(config).eval()
        self.model.register_forward_hook(self._normalised)

    @staticmethod
    def _normalised(model: Any, given: Any, output: Any) -> Any:
        """Logits that are zero where a token is as likely as under the uniform distribution, the mask impossible."""
        logits = output.logits.index_fill(-1, torch.tensor([MASKED.mask_id]), -math.inf)
        output.logits = logits.log_softmax(-1) + math.log(VOCABULARY)
        return output

    def start(self, prompts: Any) -> Tensor:
        return torch.tensor([list(prompt.before) for prompt in prompts])

    @torch.no_grad()
    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Tensor) -> Tensor:
        hidden = canvas == MASKED.mask_id
        text = torch.cat([prefix, canvas.masked_fill(hidden, 0)], dim=1)
        log_p = self.model(text).logits[:, prefix.shape[1] - 1 : -1].log_softmax(-1)
        first = hidden & (hidden.cumsum(-1) == 1)
        return log_p.where(first[..., None], math.nan)

    def commit(self, tokens: Tensor, prefix: Tensor) -> Tensor:
        return torch.cat([prefix, tokens], dim=1)


@pytest.mark.parametrize("repetition", [Repetition(), Repetition(1.3), Repetition(no_repeat=2), Repetition(1.1, 3)])
def test_from_the_left_a_causal_lm_writes_greedily_what_transformers_generates(repetition):
    toy, prompts = Toy(), [PROMPT, [3, 4, 5, 3, 4, 5]]
    ids = torch.tensor(prompts)
    expected = toy.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8 * L,
        eos_token_id=None,
        pad_token_id=0,
        repetition_penalty=repetition.penalty,
        no_repeat_ngram_size=repetition.no_repeat,
    )
    sampler, shared = reverse_process(MASKED, Choice("left-to-right")).sampler, tuple(map(Prompt, prompts))
    changes: dict[str, Any] = {"repetition": repetition, "shared": shared, "steps": L, "max_tokens": 8 * L}
    steps = run(toy, sampler, [1, 2], prompts, picker=Picker(0.0), **changes)
    assert torch.equal(generated(steps, MASKED), expected[:, ids.shape[1] :])


@PROCESSES
@pytest.mark.parametrize("repetition", [Repetition(1.2), Repetition(no_repeat=2), Repetition(1.1, 3)])
def test_a_row_without_repetition_is_the_same_bytes_in_any_batch(known_denoiser, process, repetition):
    seeds, shared = [3, 5, 8], tuple(map(Prompt, ([0, 1, 2, 3], [], [4, 4])))
    changes: dict[str, Any] = {"repetition": repetition, "max_tokens": 4 * L, "picker": Picker(0.8, 0.9, 0.05)}
    together = run(known_denoiser(P), process, seeds, shared=shared, **changes)
    for row, seed in enumerate(seeds):
        single = run(known_denoiser(P), process, [seed], shared=shared[row : row + 1], **changes)
        assert torch.equal(generated(single, process)[0], generated(together, process)[row])
    free = run(known_denoiser(P), process, seeds, **(changes | {"repetition": Repetition()}))
    assert not torch.equal(generated(free, process), generated(together, process))


@PROCESSES
def test_the_text_that_is_shared_counts_and_no_member_s_own_prompt(known_denoiser, process):
    changes: dict[str, Any] = {"repetition": Repetition(5.0), "max_tokens": L, "steps": 2}
    seeds = list(range(40))
    texts = [
        generated(
            run(known_denoiser(P), process, seeds, [[own]] * 40, shared=(Prompt([shared]),) * 40, **changes), process
        )
        for own, shared in ((1, 1), (2, 1), (1, 2))
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


@PROCESSES
def test_a_canvas_shows_noise_nowhere_at_the_end_and_no_token_at_first_where_tokens_are_hidden(process):
    tokens = torch.tensor([[0, 1, 2, 3]])
    noise = CounterNoise([1])
    assert process.shows(process.corrupt(tokens, torch.zeros(1, L), noise)).all()
    if not process.mixes:
        assert not process.shows(process.prior(L, noise)).any()
