"""Is sparse simplex noise the same as dense noise, and what does it save?

    python -m benchmarks noise law [--samples 3000]
    python -m benchmarks noise loss starter-simplex HELDOUT.jsonl.gz [--documents 50]
    python -m benchmarks noise cost

`law` compares draws of one noised token as three tables embed them, `loss` a simplex model's held-out loss under both
noises, `cost` the time and memory of drawing and embedding them.
"""

from __future__ import annotations

import math
import multiprocessing
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.lib.columns import Columns
from benchmarks.lib.models import Model
from benchmarks.lib.tables import heading, signed, table
from benchmarks.lib.timing import least
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, Noise, fold
from ssdcli.engine.process import Process
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.evaluation.losses import LossSettings, measure
from ssdcli.machine.environment import prepare_machine
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.store import STARTER

LEVELS = (1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
TOKEN = 1234
SECOND = 64  # the width of the second member's table
PERMUTATIONS = 300


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("part", choices=("law", "loss", "cost"))
    parser.add_argument("model", nargs="?", help="for the loss: a simplex model of the user's registry")
    parser.add_argument("data", nargs="?", help="for the loss: held-out text, never trained on")
    parser.add_argument("--samples", type=int, default=3000, help="of a law with 8,192 tokens; fewer with more")
    parser.add_argument("--documents", type=int, default=50, help="of the loss")


def main(given: Namespace) -> None:
    """Print the tables of one part."""
    torch.manual_seed(0)
    print(f"{heading()}\n", flush=True)
    print({"law": laws, "loss": loss, "cost": costs}[given.part](given))


# The law


def model_of(vectors: Tensor) -> BlockDiffusionLM:
    """A model with this embedding table (V, H) and a body that is not used."""
    vocabulary, hidden = vectors.shape
    model = BlockDiffusionLM(BackboneConfig(vocabulary, hidden, 1, hidden))
    with torch.no_grad():
        model.table.copy_(vectors)
    return model


@dataclass(frozen=True)
class Draws:
    """What n draws of a noised token are to those that embed them.

    whole: (n, H) embeddings.
    others: (n, H), without the token's own share.
    second: (n, 64), the others' in another table.
    """

    whole: Tensor
    others: Tensor
    second: Tensor


class Tables:
    """A table (V, H), centred, and a second one that shares half of its variance: two members of an ensemble."""

    def __init__(self, vectors: Tensor) -> None:
        """Put both side by side in one model, with and without the noised token."""
        vectors = vectors - vectors.mean(0)
        fresh = torch.randn(len(vectors), SECOND) * vectors.std()
        everything = torch.cat([vectors, vectors, vectors[:, :SECOND] + fresh], dim=1)
        everything -= everything.mean(0)
        everything[TOKEN, vectors.shape[1] :] = 0
        self.model = model_of(everything)
        self.vocabulary, self.hidden = vectors.shape

    @torch.no_grad()
    def draw(self, process: Simplex, t: float, count: int, seed: int) -> Draws:
        """Draw one at a time or many, as memory allows."""
        size = min(count, max(1, 2**25 // self.vocabulary))
        parts = [self._draw(process, t, size, fold(seed, part)) for part in range(-(-count // size))]
        return Draws(*[torch.cat(columns)[:count] for columns in zip(*parts, strict=True)])

    def _draw(self, process: Simplex, t: float, count: int, key: int) -> tuple[Tensor, ...]:
        tokens = torch.full((1, count), TOKEN)
        canvas = process.corrupt(tokens, torch.full(tokens.shape, t), GeneratorNoise([key]))
        embedded: Tensor = process.embed(canvas, self.model)[0]
        whole, others, second = embedded.split([self.hidden, self.hidden, SECOND], dim=-1)
        return whole, others, second


def energy(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Energy distance of two samples (n, d) over what random splits of both give on average, and its p."""
    n, both = len(a), torch.cat([a, b])
    distances = torch.cdist(both, both)
    splits = [torch.arange(2 * n), *[torch.randperm(2 * n) for _ in range(PERMUTATIONS)]]
    signs = torch.where(torch.stack(splits) < n, 1.0, -1.0).T
    found, *usual = (-(signs * (distances @ signs)).sum(0)).tolist()
    above = sum(other >= found for other in usual)
    return found * PERMUTATIONS / sum(usual), (1 + above) / (1 + PERMUTATIONS)


def kolmogorov_p(a: Tensor, b: Tensor) -> float:
    """The p of the Kolmogorov-Smirnov test of two samples (n,), by its limit for many."""
    places = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, places, right=True) / len(x) for x in (a, b)]
    scale = float((below[0] - below[1]).abs().max()) * math.sqrt(len(a) / 2)
    return float(min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scale) ** 2) for k in range(1, 101))))


def moment_distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Squared distance of two samples' mean products of x (n, d) and y (n, e), over what sampling gives on average."""
    means = [x.T @ y / len(x) for x, y in (a, b)]
    variances = [x.square().T @ y.square() / len(x) - mean**2 for (x, y), mean in zip((a, b), means, strict=True)]
    usual = (variances[0] + variances[1]).sum() / len(a[0])
    return float((means[0] - means[1]).square().sum() / usual)


LAW = (
    *("t", "energy (p)", "others' energy (p)", "two members' energy (p)"),
    *("covariance", "covariance across members", "norm, p"),
)


def law_row(dense: Draws, sparse: Draws) -> list[str]:
    """How far sparse draws are from dense ones, over how far equal ones would be; p where it is known."""
    pair = (dense, sparse)
    energies = [
        energy(*(d.whole for d in pair)),
        energy(*(d.others for d in pair)),
        energy(*(torch.cat([d.others, d.second], dim=1) for d in pair)),
    ]
    one, other = ((d.others - dense.others.mean(0), d.second - dense.second.mean(0)) for d in pair)
    numbers = [
        moment_distance((one[0], one[0]), (other[0], other[0])),
        moment_distance(one, other),
        kolmogorov_p(*(d.others.norm(dim=1) for d in pair)),
    ]
    return [*(f"{ratio:.2f} ({p:.2f})" for ratio, p in energies), *(f"{number:.2f}" for number in numbers)]


def laws(given: Namespace) -> str:
    """A table of `law_row` by noise level for each of three tables."""
    starter = load_backbone(Model.named(STARTER).folder).table.detach()
    parts = [law("the starter's table", starter, given.samples)]
    for vocabulary, share in ((50_265, 2), (262_144, 6)):
        parts.append(law("a random table", random_table(vocabulary), given.samples // share))
    return "\n\n".join(parts)


def random_table(vocabulary: int) -> Tensor:
    """Independent normals: (V, 128)."""
    return torch.randn(vocabulary, 128) / math.sqrt(128)


def law(name: str, vectors: Tensor, samples: int) -> str:
    """The table for one table of embeddings."""
    tables, rows = Tables(vectors), []
    processes = Simplex(len(vectors)), SparseSimplex(len(vectors))
    for i, t in enumerate(LEVELS):
        dense, sparse = (tables.draw(process, t, samples, 2 * i + j) for j, process in enumerate(processes))
        rows.append([f"{t:g}", *law_row(dense, sparse)])
    clean = [tables.draw(process, 0.0, 1, 0).whole for process in processes]
    apart = float((clean[0] - clean[1]).abs().max() / clean[0].abs().max())
    shape = f"{name}, {len(vectors):,} x {vectors.shape[1]}, {samples:,} draws of each"
    return f"{shape}; at t = 0 embeddings differ by {apart:.1e} of the largest number.\n\n{table(LAW, rows)}"


# The loss


class Again(Simplex):
    """Dense noise from other draws at the same noise levels."""

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Skip as many draws as a canvas has positions."""
        noise.uniform(tokens.shape[1])
        return super().corrupt(tokens, t, noise)


def loss(given: Namespace) -> str:
    """A simplex model's denoising loss under both noises on the same documents at the same noise levels."""
    model = Model.named(given.model)
    scored_texts, vocabulary = model.scored_texts(given.data, given.documents), model.manifest.vocabulary
    settings = LossSettings(model.backbone.context, repeats=4)
    processes = {
        "dense": Simplex(vocabulary),
        "dense, other draws": Again(vocabulary),
        "sparse": SparseSimplex(vocabulary),
    }
    measured = [measure([model.backbone], process, scored_texts, [0.0], settings) for process in processes.values()]
    columns = Columns.side_by_side([Columns.of(losses) for losses in measured])
    rows = [
        [name, f"{columns.loss(place)[0]:.4f}", signed(*columns.gain(0, over=place)) if place else ""]
        for place, name in enumerate(processes)
    ]
    title = f"{len(scored_texts)} documents, {columns.tokens.sum():,} tokens, {settings.repeats} sets of noise levels"
    return f"{title}\n\n{table(['noise', 'nats per token', 'more than dense, paired'], rows)}"


# The cost


def costs(_: Namespace) -> str:
    """A table of `cost`, each case in a process of its own."""
    rows: list[list[object]] = []
    for vocabulary, shape in product((8192, 50_265, 262_144), ((1, 16), (16, 16), (8, 256))):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows += pool.apply(cost, (vocabulary, *shape))
    times, peaks = ("dense, ms", "sparse, ms", "ratio"), ("dense, MiB", "sparse, MiB")
    return table(["vocabulary", "positions", "pass", *times, *peaks], rows)


def cost(vocabulary: int, rows: int, length: int) -> list[list[object]]:
    """Time and memory of a canvas's noise and its embedding, with a backward pass from 2,048 positions on."""
    trains = rows * length >= 2048
    model = model_of(random_table(vocabulary))
    tokens, t = torch.randint(vocabulary, (rows, length)), torch.rand(rows, length)
    source: Callable[[range], Noise] = GeneratorNoise if trains else CounterNoise

    def forward(process: Process) -> Tensor:
        with torch.set_grad_enabled(trains):
            embedded: Tensor = process.embed(process.corrupt(tokens, t, source(range(rows))), model)
            return embedded

    def backward(process: Process) -> None:
        model.zero_grad()
        forward(process).sum().backward()

    passes: dict[str, Callable[[Process], object]] = {"forward": forward}
    if trains:
        passes["forward and backward"] = backward
    processes: dict[str, Process] = {"dense": Simplex(vocabulary), "sparse": SparseSimplex(vocabulary)}
    runs = {name: {kind: partial(run, one) for kind, one in processes.items()} for name, run in passes.items()}
    peaks = {name: [peak_of(run) for run in reversed(pair.values())][::-1] for name, pair in runs.items()}
    prepare_machine()  # only now: freed memory is kept from here on
    lines: list[list[object]] = []
    for name, pair in runs.items():
        dense, sparse = least(pair, 3).values()
        memory = (f"{peak:,.0f}" for peak in peaks[name])
        lines.append([vocabulary, rows * length, name, dense, sparse, dense / sparse, *memory])
    return lines


def peak_of(run: Callable[[], object]) -> float:
    """How far memory rises above where it was, in MiB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A field of this process's status in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
