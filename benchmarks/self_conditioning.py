"""What should a member be self-conditioned on: its own previous prediction or the ensemble's?

    python -m benchmarks self_conditioning CORE SMALL HELDOUT [--documents 60]

CORE and SMALL are self-conditioned models of the registry, HELDOUT is held-out text. A window is noised twice: to the
level of the step before and to that of the step. The members predict the first, are conditioned on a prediction, and
predict the second, as they do when they write. Prints the ensemble's loss by what its members were conditioned on,
paired by document.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.blocks import block_ids
from benchmarks.lib.columns import Columns
from benchmarks.lib.models import Model
from benchmarks.lib.segments import predict
from benchmarks.lib.tables import heading, signed, table
from ssdcli.engine.blocks import block_levels
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.packed import Packed

STEPS = 32
WINDOW = 256
WEIGHTS = (0.2, 0.4, 0.5, 0.6, 0.8)
CONDITIONINGS = ("nothing", "its own", "the ensemble's")


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("core", help="a self-conditioned model of the registry")
    parser.add_argument("small", help="another that fits it")
    parser.add_argument("heldout", help="held-out text, of whose documents the first two windows are taken")
    parser.add_argument("--documents", type=int, default=60)


@torch.no_grad()
def main(given: Namespace) -> None:
    """Print the table."""
    models = [Model.named(given.core), Model.named(given.small)]
    texts = [scored_text.tokens[: 2 * WINDOW] for scored_text in models[0].scored_texts(given.heldout, given.documents)]
    sums = torch.zeros(len(texts), len(CONDITIONINGS), len(WEIGHTS))
    for document, tokens in enumerate(texts):
        for place, start in enumerate(range(0, len(tokens), WINDOW)):
            sums[document] += losses(models, tokens[start : start + WINDOW], fold(0, document, place))
    counts = np.array([len(tokens) - -(-len(tokens) // WINDOW) for tokens in texts])
    columns = [Columns(sums[..., place].double().numpy(), counts) for place in range(len(WEIGHTS))]
    rows = [[name, *(f"{column.loss(place)[0]:.4f}" for column in columns)] for place, name in enumerate(CONDITIONINGS)]
    rows.append(["its own, less the ensemble's", *(signed(*column.gain(2, over=1)) for column in columns)])
    print(f"{heading()}\n\n{len(texts)} documents, {counts.sum():,} tokens; nats per token\n")
    print(table(["conditioned on", *(f"weight {weight:g}" for weight in WEIGHTS)], rows))


def losses(models: Sequence[Model], window: Sequence[int], key: int) -> Tensor:
    """Summed loss of a window by the conditioning and the small model's weight: (3, weights)."""
    tokens, process, noise = torch.tensor([window]), models[0].process, GeneratorNoise([key])
    blocks = block_ids(len(window), models[0].backbone.block_size, torch.zeros(1, dtype=torch.int64))
    packed, t = Packed.plain(tokens, blocks), block_levels(blocks, noise)
    before = (t + 1 / STEPS).clamp(max=1)
    first, second = process.corrupt(tokens, before, noise), process.corrupt(tokens, t, noise)

    def predicted(previous: Sequence[Tensor | None]) -> list[Tensor]:
        pairs = zip(models, previous, strict=True)
        return [predict(model.backbone, process, second, packed, t, said) for model, said in pairs]

    own = [predict(model.backbone, process, first, packed, before) for model in models]
    unconditioned, by_own = predicted([None, None]), predicted(own)
    result = torch.zeros(len(CONDITIONINGS), len(WEIGHTS))
    for column, weight in enumerate(WEIGHTS):
        shares = (1 - weight, weight)
        together = predicted([mix(own, shares)] * 2)
        for row, log_ps in enumerate((unconditioned, by_own, together)):
            result[row, column] = -mix(log_ps, shares).gather(-1, tokens[..., None])[:, 1:].sum()
    return result
