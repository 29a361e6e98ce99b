"""Tells what a member should hear back at the next step: its own last prediction, or the ensemble's.

    python -m benchmarks self_conditioning CORE SMALL HELDOUT [DOCUMENTS]

CORE and SMALL are folders of self-conditioned models, HELDOUT is JSON lines with `text`. A held-out window is noised
twice: to the level of a step before and to that of the step. The members predict the first, and predict the second
conditioned on a prediction, as they do when they write. Prints the ensemble's loss by what they are conditioned on,
paired by document.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.lib.tables import machine, table
from ssdcli.engine.blocks import block_ids, block_levels
from ssdcli.engine.denoiser import denoise_sequence
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Process, make_process
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.manifest import read_manifest

STEPS = 32
WINDOW = 256
WEIGHTS = (0.2, 0.4, 0.5, 0.6, 0.8)
NOTHING, OWN, TOGETHER = "nothing", "its own", "the ensemble's"


def predict(
    model: BlockDiffusionLM,
    process: Process,
    tokens: Tensor,
    noised: tuple[Tensor, Tensor, Tensor],
    previous: Tensor | None,
) -> Tensor:
    """Log p of every token of a window (1, T) noised to (canvas, levels, blocks): (1, T, V)."""
    canvas, t, blocks = noised
    embedded_previous = None if previous is None else model.embed_mixture(previous.exp())
    embedded = process.embed(canvas, model)
    hidden = denoise_sequence(model, embedded, Packed.plain(tokens, blocks), (t, embedded_previous))
    return model.logits(hidden).log_softmax(-1)


def losses(models: list[BlockDiffusionLM], process: Process, window: list[int], key: int) -> Tensor:
    """Summed loss of a window by what it is conditioned on and by the small model's weight: (3, weights)."""
    tokens = torch.tensor([window])
    noise = GeneratorNoise([key])
    blocks = block_ids(len(window), models[0].block_size, torch.zeros(1, dtype=torch.int64))
    t = block_levels(blocks, noise)
    before = (t + 1 / STEPS).clamp(max=1)
    first = (process.corrupt(tokens, before, noise), before, blocks)
    second = (process.corrupt(tokens, t, noise), t, blocks)
    own = [predict(model, process, tokens, first, None) for model in models]
    without = [predict(model, process, tokens, second, None) for model in models]
    on_own = [predict(m, process, tokens, second, said) for m, said in zip(models, own, strict=True)]
    result = torch.zeros(3, len(WEIGHTS))
    for column, weight in enumerate(WEIGHTS):
        shares = (1 - weight, weight)
        said = mix(own, shares)
        together = [predict(model, process, tokens, second, said) for model in models]
        for row, log_ps in enumerate((without, on_own, together)):
            result[row, column] = -mix(log_ps, shares).gather(-1, tokens[..., None])[:, 1:].sum()
    return result


def windows(path: Path, tokenizer: Tokenizer, documents: int) -> list[list[list[int]]]:
    """The first windows of each document, after an end of text."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for _, line in zip(range(documents), lines, strict=False)]
    ids = [[0, *tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    return [[one[start : start + WINDOW] for start in range(0, min(len(one), 2 * WINDOW), WINDOW)] for one in ids]


@torch.no_grad()
def main() -> None:
    """Print the table."""
    folders, heldout = [Path(argument) for argument in sys.argv[1:3]], Path(sys.argv[3])
    manifest = read_manifest(folders[0])
    process = make_process(manifest.process, manifest.vocabulary, manifest.constants)
    models = [load_backbone(folder) for folder in folders]
    tokenizer = Tokenizer.from_file(str(folders[0] / "tokenizer.json"))
    documents = windows(heldout, tokenizer, int(sys.argv[4]) if len(sys.argv) > 4 else 60)
    sums = torch.stack(
        [
            sum(losses(models, process, w, fold(0, d, i)) for i, w in enumerate(document) if len(w) > 1)  # type: ignore[misc]
            for d, document in enumerate(documents)
        ]
    ).double()
    counts = torch.tensor([sum(len(w) - 1 for w in document) for document in documents], dtype=torch.float64)
    mean = sums.sum(0) / counts.sum()
    rows: list[list[object]] = [
        [source, *(f"{value:.4f}" for value in mean[row])] for row, source in enumerate((NOTHING, OWN, TOGETHER))
    ]
    delta = sums[:, 1] - sums[:, 2]
    gain = delta.sum(0) / counts.sum()
    error = ((delta - gain * counts[:, None]) ** 2).sum(0).sqrt() / counts.sum()
    rows.append(["its own, less the ensemble's", *(f"{g:+.4f} ± {e:.4f}" for g, e in zip(gain, error, strict=True))])
    print(f"{machine()}; {len(documents)} documents, {int(counts.sum()):,} tokens; nats per token\n")
    print(table(["conditioned on", *(f"weight {weight:g}" for weight in WEIGHTS)], rows))


if __name__ == "__main__":
    main()
