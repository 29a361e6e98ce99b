"""What does a training step take: its share of the machine's matrix products, and against a naive one?

    python -m benchmarks training_speed [--size mini] [--process simplex] [--rounds 8] [--quick]

A step is all that a training repeats: noise, both passes, gradients, clipping, the optimiser. Texts are random tokens,
as long as the context unless a table says otherwise, which leaves attention the most to do. Alternatives take turns,
and the least of their times counts. FLOPs are two a multiply-add of the products that cannot be left out: what a mask
hides and what is computed a second time do not count.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.lib.models import CONSTANTS, DEVICE, random_denoiser
from benchmarks.lib.tables import heading, table
from benchmarks.lib.timing import least
from ssdcli.engine.blocks import block_levels, training_mask
from ssdcli.engine.noise import GeneratorNoise
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import make_process
from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.presets import PRESETS, find_preset
from ssdcli.training.objective import Objective
from ssdcli.training.optimizer import make_optimizer

QUICK = {"size": "nano", "sizes": ["nano"], "rounds": 3}
VOCABULARY, BLOCK, TOKENS = 8192, 16, 2048
SHORT = 128  # tokens of a short text
SIDE = 2048  # of the matrices that the peak is measured with
ITERATIONS = 5  # of Newton and Schulz, in Muon

_OURS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")  # what prepare_machine sets
_NAIVE = "from benchmarks.training_speed import take_naive_steps; take_naive_steps({size!r}, {process!r})"


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--size", default="mini")
    parser.add_argument("--process", default="simplex", choices=("simplex", "masked", "uniform"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--sizes", nargs="+", default=[preset.name for preset in PRESETS[:3]], help="of the last table")


def main(given: Namespace) -> None:
    """Print the tables."""
    print(f"{heading()}\n\n{given.process}, steps of {TOKENS:,} tokens\n", flush=True)
    step = Step(given.size, given.process)
    times = least({"naive": NaiveProcess(given.size, given.process), "ours": step}, given.rounds)
    speeds = peaks(given.rounds)
    peak = max(speeds.values())
    print(table(["product of 2,048 x 2,048", "TFLOP/s"], [[name, speed / 1e12] for name, speed in speeds.items()]))
    print(f"\n{accounting(step, times['ours'], peak)}\n")
    rows = [[name, ms, round(TOKENS / ms * 1000), times["naive"] / ms] for name, ms in times.items()]
    print(table([f"a step of {given.size}", "ms", "tokens per second", "times faster"], rows))
    print(f"\n{by_size(given, peak)}")


# Steps


def packed_texts(context: int, length: int) -> Packed:
    """Rows of random texts of so many tokens side by side, 2,048 tokens in all."""
    texts = []
    for offset in torch.randint(BLOCK, (TOKENS // length,)).tolist():
        blocks = (torch.arange(length) + offset)[None] // BLOCK
        texts.append(Packed.plain(torch.randint(2, VOCABULARY, (1, length)), blocks))
    each = context // length
    rows = [Packed.joined(texts[i : i + each]) for i in range(0, len(texts), each)]
    return Packed(*(torch.cat([getattr(row, name) for row in rows]).to(DEVICE) for name in vars(rows[0])))


class Step:
    """A training step as `ssd train-small` takes it, ready to be repeated."""

    objective_of: type[Objective] = Objective
    low = DEVICE == "cuda" or has_fast_bf16()  # products in bfloat16

    def __init__(self, size: str, process: str, length: int | None = None) -> None:
        """length: tokens of a text; None for the context."""
        preset = find_preset(size)
        if preset is None:
            raise SystemExit(f"there is no size {size!r}")
        self.process = make_process(process, VOCABULARY, CONSTANTS)
        shape = {"block_size": BLOCK, "context": preset.context}
        backbone = random_denoiser(self.process, preset.hidden, preset.layers, **shape).backbone
        assert isinstance(backbone, BlockDiffusionLM)
        self.backbone = backbone.train().requires_grad_(True)
        self.objective = self.objective_of(self.backbone, self.process, 0)
        self.optimizer = make_optimizer(self.objective, 1e-3, 0.1)
        self.packed = packed_texts(preset.context, length or preset.context)
        self.index = torch.arange(len(self.packed.tokens), device=DEVICE)

    def __call__(self) -> None:
        """One step; half of the rows are conditioned on their own first prediction."""
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.low):
            loss = self.objective(vars(self.packed), self.index)
        loss.backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def flops(self) -> dict[str, float]:
        """FLOPs of the parts of a step: forward, by the input and by the weight are three products of one size."""
        sizes, process = self.backbone.sizes, self.process
        share = 0.5 if process.self_conditioned else 0.0
        pairs = int(training_mask(self.packed).sum())
        body, attention = 2 * sizes.body * 2 * TOKENS, 2 * 2 * sizes.attention * pairs
        return {
            "body, [noised ; clean]": 3 * body,
            "attention, visible pairs": 3 * attention,
            "head": 3 * 2 * sizes.table * self.due(),
            "mixture of embeddings": 2 * 2 * sizes.table * TOKENS if process.mixes else 0,
            "first pass of self-conditioning": share * (body + attention + 2 * 2 * sizes.table * TOKENS),
            "conditioning": 3 * 2 * TOKENS * (sizes.time * process.timed + share * (sizes.self_conditioning or 0)),
            "Muon": muon_flops(self.objective),
        }

    def due(self) -> int:
        """How many of the step's positions have a loss."""
        noise = GeneratorNoise(range(len(self.index)), DEVICE)
        t = block_levels(self.packed.blocks, noise)
        weights = self.process.loss_weights(self.process.corrupt(self.packed.tokens, t, noise), t)
        return int((weights > 0).sum())


def muon_flops(objective: Objective) -> float:
    """FLOPs of orthogonalising all matrices of the body: 2 (2 m^2 n + m^3) an iteration, m <= n."""
    parameters = objective.named_parameters()
    shapes = [sorted(p.shape) for name, p in parameters if p.ndim == 2 and not name.endswith("table")]
    return sum(ITERATIONS * 2 * (2 * m * m * n + m**3) for m, n in shapes)


# The naive step


class NaiveObjective(Objective):
    """Embeds the first prediction of all rows at once."""

    def _embedded_prediction(self, hidden: Tensor) -> Tensor:
        """Embedding of the first prediction."""
        return self.backbone.embed_mixture(self.backbone.logits(hidden).softmax(-1))


def all_logits(hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, never: Tensor) -> Tensor:
    """The loss as one would first write it, in place of `head_cross_entropy`."""
    logits = (hidden @ table.T).index_fill(-1, never, -math.inf)
    return (nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()


class NaiveStep(Step):
    """The same step in float32, over all pairs and with all logits."""

    low = False
    objective_of = NaiveObjective


class NaiveProcess:
    """Naive steps in a process of their own, where malloc and OpenMP have their defaults."""

    def __init__(self, size: str, process: str) -> None:
        """Start it; it waits for the first call."""
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        command = [sys.executable, "-c", _NAIVE.format(size=size, process=process)]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def __call__(self) -> None:
        """Have it take a step."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        if not self._child.stdout.readline():
            raise SystemExit("the naive process ended")


def take_naive_steps(size: str, process: str) -> None:
    """Take a step and write a line for every line that comes in."""
    attention = patch("ssdcli.models.backbones.block_diffusion.chunks_of", lambda *_: None)  # over the whole mask
    with attention, patch("ssdcli.training.objective.head_cross_entropy", all_logits):
        step = NaiveStep(size, process)
        for _ in sys.stdin:
            step()
            print(flush=True)


# The tables


def peaks(rounds: int) -> dict[str, float]:
    """FLOP/s of products of square matrices as a step has them: forward, by the input, by the weight."""
    dtype = torch.bfloat16 if DEVICE == "cuda" or has_fast_bf16() else torch.float32
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE).to(dtype) for _ in range(2))
    times = least({"a b^T": lambda: a @ b.T, "a b": lambda: a @ b, "a^T b": lambda: a.T @ b}, 4 * rounds)
    return {name: 2 * SIDE**3 / ms * 1000 for name, ms in times.items()}


def accounting(step: Step, ms: float, peak: float) -> str:
    """What a step has to multiply, and its share of the peak."""
    parts = step.flops()
    total = sum(parts.values())
    rows = [[name, flops / 1e9, flops / peak * 1000] for name, flops in (parts | {"all": total}).items() if flops]
    share = f"Share of the peak: {total / peak / ms * 1000:.1%} of the step's {ms:,.0f} ms"
    return f"{table(['part of a step', 'GFLOP', 'ms at the peak'], rows)}\n\n{share}."


def by_size(given: Namespace, peak: float) -> str:
    """Steps of the sizes, with one text a row and with many."""
    rows: list[list[object]] = []
    for size in given.sizes:
        for length in (None, SHORT):
            step = Step(size, given.process, length)
            ms = least({"step": step}, given.rounds)["step"]
            share = sum(step.flops().values()) / ms * 1000 / peak
            rows.append([size, length or step.backbone.context, ms, round(TOKENS / ms * 1000), share])
    return table(["size", "tokens of a text", "step, ms", "tokens per second", "of the peak"], rows)
