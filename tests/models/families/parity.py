"""A pulled core's denoiser held against an independent computation of what its authors published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.full_attention import FullDenoiser
from ssdcli.engine.process import make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.machine.placement import Placement
from ssdcli.models.core_checkpoint import load_core
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.registry.manifest import read_manifest
from tests.models.families.checkpoints import WORDS

TOLERANCE = 1e-5

# What a family's test computes: log p (T, V), in float64, of a text's clean tokens, some of its tokens being masks. The
# number is where in the text the canvas begins.
Published = Callable[[Tensor, int], Tensor]


def spec_of(folder: Path) -> CoreSpec:
    """What a pulled core says of itself."""
    return CoreSpec.of(read_manifest(folder), read_config(folder)[KEY])


def open_core(folder: Path) -> Denoiser:
    """The denoiser of a pulled core."""
    spec = spec_of(folder)
    backbone = load_core(folder, Placement("float32"), None)
    vocabulary = backbone.model.config.get_text_config().vocab_size
    process = make_process(spec.process, vocabulary, spec.constants)
    return (FullDenoiser if spec.attention == "full" else Denoiser)(backbone, process)


def text(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, WORDS, (length,), generator=generator).tolist()


def noised(length: int, mask: int, seed: int) -> list[int]:
    """A canvas of which about half is masked."""
    hidden = torch.rand(length, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.where(hidden, mask, torch.tensor(text(length, seed))).tolist()


def gaps(core: Denoiser, published: Published, prompts: Sequence[int], block: int) -> dict[tuple[int, int], float]:
    """The largest difference of log p by row and block: two blocks after prompts of these lengths, one batch.

    Ids that are never text must have none on either side.
    """
    mask = int(core.process.constants()["mask_id"])
    texts = [text(length, seed) for seed, length in enumerate(prompts)]
    prefixes = core.start([Prompt(known) for known in texts])
    found = {}
    for number in range(2):
        canvas = torch.tensor([noised(block, mask, 10 * number + row) for row in range(len(texts))])
        log_p = core.denoise(canvas, 0.5, None, prefixes)
        for row, known in enumerate(texts):
            expected = published(torch.tensor(known + canvas[row].tolist()), len(known))[-block:]
            found[row, number] = _gap(log_p[row], expected)
        clean = torch.tensor([text(block, 20 * number + row) for row in range(len(texts))])
        prefixes = core.commit(clean, prefixes)
        texts = [known + row for known, row in zip(texts, clean.tolist(), strict=True)]
    return found


def row_gaps(core: Denoiser, prompts: Sequence[int], block: int) -> list[float]:
    """The largest difference of log p between a row of a batch and the same row alone."""
    mask = int(core.process.constants()["mask_id"])
    texts = [Prompt(text(length, seed)) for seed, length in enumerate(prompts)]
    canvas = torch.tensor([noised(block, mask, row) for row in range(len(texts))])
    together = core.denoise(canvas, 0.5, None, core.start(texts))
    alone = [core.denoise(canvas[row : row + 1], 0.5, None, core.start([one])) for row, one in enumerate(texts)]
    return [_gap(together[row], one[0]) for row, one in enumerate(alone)]


def _gap(log_p: Tensor, expected: Tensor) -> float:
    assert torch.equal(log_p.isinf(), expected.isinf())
    spoken = ~expected.isinf()
    return float((log_p[spoken] - expected[spoken]).abs().max())
