"""What the tests of the simplex families share: their denoisers held against what was published, at equal noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.machine.placement import Placement
from ssdcli.models.core_checkpoint import load_core

# Log p (L, V), in float64, of the clean tokens of a canvas x_t (L, V) between known ones, at t, after a prediction
# p (L, V) at the step before, or none.
Published = Callable[[Prompt, Tensor, float, Tensor | None], Tensor]

WORDS = 250  # ids above the special tokens of either family, and below their last ones


def text(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 5 + WORDS, (length,), generator=generator).tolist()


def rounded(core: Denoiser, folder: Path, dtype: str) -> Denoiser:
    """The same core, its weights read in another dtype."""
    return FullDenoiser(load_core(folder, Placement(dtype, "cpu"), None), core.process)


def noised(core: Denoiser, rows: Sequence[int], t: float) -> Tensor:
    """A canvas x_t of random tokens for each seed: (B, L, V)."""
    process = core.process
    assert isinstance(process, Simplex)
    tokens = torch.tensor([text(core.backbone.block_size, row) for row in rows])
    return process.corrupt(tokens, torch.full(tokens.shape, t), CounterNoise(rows))


def said(core: Denoiser, rows: Sequence[int]) -> Tensor:
    """A prediction for each seed, as an ensemble's, which may favour any token: log p (B, L, V)."""
    shape = (core.backbone.block_size, core.process.vocabulary)
    scores = [torch.randn(shape, generator=torch.Generator().manual_seed(row)) for row in rows]
    return (3 * torch.stack(scores)).log_softmax(-1)


def gaps(core: Denoiser, published: Published, prompts: Sequence[Prompt], t: float, conditioned: bool) -> list[float]:
    """The largest differences of log p in two blocks after, or within, prompts of one batch.

    Ids that are never text must have none on either side.
    """
    prefixes, found = core.start(prompts), []
    for number in range(2):
        rows = [10 * number + row for row in range(len(prompts))]
        canvas, previous = noised(core, rows, t), said(core, rows) if conditioned else None
        log_p = core.denoise(canvas, t, previous, prefixes)
        for row, prompt in enumerate(prompts):
            p = None if previous is None else previous[row].double().exp()
            expected = published(prompt, canvas[row].double(), t, p)
            assert torch.equal(log_p[row].isinf(), expected.isinf())
            spoken = ~expected.isinf()
            found.append(float((log_p[row][spoken] - expected[spoken]).abs().max()))
        clean = [text(core.backbone.block_size, 5 + row) for row in rows]
        prefixes = core.commit(torch.tensor(clean), prefixes)
        prompts = [_after(prompt, block) for prompt, block in zip(prompts, clean, strict=True)]
    return found


def _after(prompt: Prompt, block: list[int]) -> Prompt:
    """What is known once a block is."""
    return Prompt([*prompt.before, *block], prompt.after, max(0, prompt.gap - len(block)))


def dense_weights(ids: Tensor, weights: Tensor, vocabulary: int) -> Tensor:
    """The weight of every token of a sparse canvas: (B, L, V)."""
    even = ((1 - weights.sum(-1, keepdim=True)) / vocabulary).expand(*ids.shape[:2], vocabulary)
    return even.scatter_add(-1, ids, weights)
