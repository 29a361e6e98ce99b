"""Is sparse simplex noise the same as dense noise, and what does it save? Prints tables in Markdown.

    python -m benchmarks noise law [--samples 3000]
    python -m benchmarks noise loss starter-simplex HELDOUT.jsonl.gz [--passages 50]
    python -m benchmarks noise cost

`law` compares draws of one noised token as three tables embed them, `loss` a simplex model's held-out loss on both
noises, `cost` the time and memory of drawing and embedding them.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.lib.tables import machine, table
from benchmarks.lib.timing import least
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, Noise, fold
from ssdcli.engine.process import Process
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.evaluation.losses import LossSettings, measure, passage_of
from ssdcli.machine.environment import prepare_machine
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.folder import load_backbone
from ssdcli.registry.store import STARTER, Registry
from ssdcli.text.tokenizer import END_OF_TEXT, special_id

LEVELS = (1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
TOKEN = 1234
SECOND = 64  # the width of the second member's table
PERMUTATIONS = 300


def model_of(vectors: Tensor) -> BlockDiffusionLM:
    """A model with this embedding table (V, H) and a body that is not used."""
    vocabulary, hidden = vectors.shape
    model = BlockDiffusionLM(BackboneConfig(vocabulary, hidden, 1, hidden))
    with torch.no_grad():
        model.table.copy_(vectors)
    return model


@dataclass(frozen=True)
class Draws:
    """What n draws of a noised token are to its readers.

    whole: (n, H) embeddings. others: (n, H), without the token's own share. second: (n, 64), the others' to another
    table. largest: (n,), the largest weight. strongest, weakest: (n,), the extremes of a tied head's scores of others.
    """

    whole: Tensor
    others: Tensor
    second: Tensor
    largest: Tensor
    strongest: Tensor
    weakest: Tensor


class Readers:
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
        self.detectors = vectors / vectors.square().sum(1, keepdim=True)
        self.detectors[TOKEN] = 0

    @torch.no_grad()
    def draw(self, process: Simplex, t: float, count: int, seed: int) -> Draws:
        """Draw one at a time or many, as memory allows."""
        size = min(count, max(1, 2**25 // self.vocabulary))
        parts = [self._draw(process, t, size, fold(seed, part)) for part in range(-(-count // size))]
        return Draws(*[torch.cat(columns)[:count] for columns in zip(*parts, strict=True)])

    def _draw(self, process: Simplex, t: float, count: int, key: int) -> tuple[Tensor, ...]:
        tokens = torch.full((1, count), TOKEN)
        canvas = process.corrupt(tokens, torch.full(tokens.shape, t), GeneratorNoise([key]))
        embedded = process.embed(canvas, self.model)[0]
        whole, others, second = embedded.split([self.hidden, self.hidden, SECOND], dim=-1)
        if isinstance(process, SparseSimplex):
            weights = canvas[0, :, 1]
            largest = weights.amax(-1) + (1 - weights.sum(-1)) / self.vocabulary
        else:
            largest = canvas[0].softmax(-1).amax(-1)
        scores = others @ self.detectors.T
        return whole, others, second, largest, scores.amax(-1), scores.amin(-1)


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
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scale) ** 2) for k in range(1, 101)))


def moment_distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Squared distance of two samples' mean products of x (n, d) and y (n, e), over what sampling gives on average."""
    means = [x.T @ y / len(x) for x, y in (a, b)]
    variances = [x.square().T @ y.square() / len(x) - mean**2 for (x, y), mean in zip((a, b), means, strict=True)]
    usual = (variances[0] + variances[1]).sum() / len(a[0])
    return float((means[0] - means[1]).square().sum() / usual)


def law_row(dense: Draws, sparse: Draws) -> list[str]:
    """How far sparse draws are from dense ones, over how far equal ones would be; p where it is known."""
    cells = []
    for pick in (lambda d: d.whole, lambda d: d.others, lambda d: torch.cat([d.others, d.second], dim=1)):
        ratio, p = energy(pick(dense), pick(sparse))
        cells.append(f"{ratio:.2f} ({p:.2f})")
    centred = [(d.others - dense.others.mean(0), d.second - dense.second.mean(0)) for d in (dense, sparse)]
    ones = torch.ones(len(dense.whole), 1)
    for pair in (lambda x, y: (ones, x), lambda x, y: (x, x), lambda x, y: (x, y)):
        cells.append(f"{moment_distance(*[pair(x, y) for x, y in centred]):.2f}")
    scalars: tuple[Callable[[Draws], Tensor], ...] = (
        lambda d: d.others.norm(dim=1),
        lambda d: d.largest,
        lambda d: d.strongest,
        lambda d: d.weakest,
    )
    return cells + [f"{kolmogorov_p(pick(dense), pick(sparse)):.2f}" for pick in scalars]


LAW = [
    "t",
    "energy (p)",
    "others' energy (p)",
    "two members' energy (p)",
    "mean",
    "covariance",
    "covariance across members",
    "norm, p",
    "largest weight, p",
    "strongest score, p",
    "weakest score, p",
]


def starter_table() -> Tensor:
    """The bundled model's embeddings: (8192, 256)."""
    return load_backbone(Registry().find(STARTER).folder).table.detach()


def random_table(vocabulary: int) -> Tensor:
    """Independent normals: (V, 128)."""
    return torch.randn(vocabulary, 128) * 128**-0.5


def law(name: str, vectors: Tensor, samples: int) -> str:
    """A table of `law_row` by noise level."""
    readers, rows = Readers(vectors), []
    dense, sparse = Simplex(len(vectors)), SparseSimplex(len(vectors))
    for i, t in enumerate(LEVELS):
        draws = [readers.draw(process, t, samples, 2 * i + j) for j, process in enumerate((dense, sparse))]
        rows.append([f"{t:g}", *law_row(*draws)])
    clean = [readers.draw(process, 0.0, 1, 0).whole for process in (dense, sparse)]
    apart = float((clean[0] - clean[1]).abs().max() / clean[0].abs().max())
    shape = f"{name}, {len(vectors):,} x {vectors.shape[1]}, {samples:,} draws of each"
    return f"{shape}; at t = 0 embeddings differ by {apart:.1e} of the largest number.\n\n{table(LAW, rows)}"


def loss(simplex: str, data: str, passages: int) -> str:
    """A simplex model's denoising loss with both noises on the same passages at the same noise levels."""
    folder = Registry().find(simplex).folder
    model = load_backbone(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = special_id(tokenizer, END_OF_TEXT)
    texts = [document.text for document in read_documents([data], ReadReport())][:passages]
    read = [passage_of(text, tokenizer, end) for text in texts]
    vocabulary, settings = model.config.vocabulary, LossSettings(model.context, repeats=4)
    dense, again, sparse = (
        measure([model], process, read, [0.0], chosen)
        for process, chosen in (
            (Simplex(vocabulary), settings),
            (Again(vocabulary), settings),
            (SparseSimplex(vocabulary), settings),
        )
    )
    rows: list[list[object]] = []
    for name, other in (("dense, other draws", again), ("sparse", sparse)):
        both = replace(dense, weights=np.array([0.0, 1.0]), sums=np.concatenate([dense.sums, other.sums], axis=1))
        difference, error = both.difference(0.0, 1.0)
        rows.append([name, f"{other.nats_per_token()[0]:.4f}", f"{difference:+.4f} ± {error:.4f}"])
    rows.insert(0, ["dense", f"{dense.nats_per_token()[0]:.4f}", ""])
    head = f"{len(read)} passages, {dense.tokens.sum():,} tokens, {settings.repeats} sets of noise levels\n\n"
    return head + table(["noise", "nats per token", "more than dense, paired"], rows)


class Again(Simplex):
    """Dense noise from other draws at the same noise levels."""

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Skip as many draws as a canvas has positions."""
        noise.uniform(tokens.shape[1])
        return super().corrupt(tokens, t, noise)


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


def cost(vocabulary: int, rows: int, length: int) -> list[list[object]]:
    """Time and memory of a canvas's noise and its embedding, with a backward pass from 2048 positions on."""
    trains = rows * length >= 2048
    model = model_of(random_table(vocabulary))
    tokens, t = torch.randint(vocabulary, (rows, length)), torch.rand(rows, length)
    source: Callable[[range], Noise] = GeneratorNoise if trains else CounterNoise

    def forward(process: Process) -> Tensor:
        with torch.set_grad_enabled(trains):
            return process.embed(process.corrupt(tokens, t, source(range(rows))), model)

    def backward(process: Process) -> None:
        model.zero_grad()
        forward(process).sum().backward()

    passes: dict[str, Callable[[Process], object]] = {"forward": forward}
    if trains:
        passes["forward and backward"] = backward
    processes = {"sparse": SparseSimplex(vocabulary), "dense": Simplex(vocabulary)}
    lines: list[list[object]] = []
    for name, run in passes.items():
        runs = {kind: partial(run, process) for kind, process in processes.items()}
        peaks = {kind: peak_of(one) for kind, one in runs.items()}
        lines.append([vocabulary, rows * length, name, peaks])
    prepare_machine()  # only now: freed memory is kept from here on
    for line in lines:
        times = least({kind: partial(passes[str(line[2])], process) for kind, process in processes.items()}, 3)
        peaks = line.pop()
        line += [times["dense"], times["sparse"], times["dense"] / times["sparse"]]
        line += [f"{peaks['dense']:,.0f}", f"{peaks['sparse']:,.0f}"]
    return lines


COST = ["vocabulary", "positions", "pass", "dense, ms", "sparse, ms", "ratio", "dense, MiB", "sparse, MiB"]


def costs() -> str:
    """Tables of `cost`, each case in a process of its own."""
    rows: list[list[object]] = []
    for vocabulary in (8192, 50_265, 262_144):
        for shape in ((1, 16), (16, 16), (8, 256)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows += pool.apply(cost, (vocabulary, *shape))
    return table(COST, rows)


def main() -> None:
    """Print the tables of one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("law").add_argument("--samples", type=int, default=3000, help="of 8,192 tokens; fewer of more")
    heldout = parts.add_parser("loss")
    heldout.add_argument("model", help="a simplex model of the user's registry")
    heldout.add_argument("data", help="held-out text, never trained on")
    heldout.add_argument("--passages", type=int, default=50)
    parts.add_parser("cost")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}, {datetime.now(UTC):%Y-%m-%d}\n", flush=True)
    if arguments.part == "law":
        print(law("the starter's table", starter_table(), arguments.samples), flush=True)
        print("\n" + law("a random table", random_table(50_265), arguments.samples // 2), flush=True)
        print("\n" + law("a random table", random_table(262_144), arguments.samples // 6), flush=True)
    else:
        print(loss(arguments.model, arguments.data, arguments.passages) if arguments.part == "loss" else costs())


if __name__ == "__main__":
    main()
