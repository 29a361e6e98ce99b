"""What a large vocabulary costs a small model, with a row for every token and with an active vocabulary.

    python -m benchmarks large_vocabulary speed --process simplex --size mini --rounds 4
    python -m benchmarks large_vocabulary loss TRAIN.jsonl.gz HELDOUT.jsonl.gz --rows 2048 [--notes 150]

`speed` times whole training steps (forward, backward, optimiser) of one body, and the parts of a denoising step that
touch all tokens. Weights are random. Alternatives take turns, and the least of their times counts: ratios within one
run mean something even on a busy machine. `loss` trains twins of the same seed for as many steps, with a row for every
token and with an active vocabulary, and measures them on held-out text, alone and with their core, apart for tokens
that the training text has and those that it has not.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.lib.corpora import encode, packable, read_texts
from benchmarks.lib.tables import machine, table
from benchmarks.lib.timing import Run, least
from ssdcli.data.windows import Texts, Windows, WindowShape
from ssdcli.engine.blocks import block_ids, block_levels
from ssdcli.engine.denoiser import denoise_sequence
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.noise import GeneratorNoise
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Process, make_process
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.core_traits import CoreTraits, read_core_traits
from ssdcli.models.presets import find_preset
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import END_OF_TEXT, special_id
from ssdcli.training.active_tokens import Division, count_tokens, divide
from ssdcli.training.build import build, shape
from ssdcli.training.objective import Objective
from ssdcli.training.optimizer import make_optimizer
from ssdcli.training.settings import TrainSettings

SMALLEST, LARGER = 8192, (32_768, 131_072, 262_144)
BATCH_TOKENS, BLOCK, MASK = 2048, 16, 1
CONSTANTS = {"K": 5.0, "s": 1e-4, "mask_id": float(MASK)}
WIDTH = 1024  # of the core's embeddings
RATE = 3e-3


def make(
    size: str, process: Process, traits: CoreTraits, division: Division | None, settings: TrainSettings | None = None
) -> BlockDiffusionLM:
    """A fresh small model of a preset's body, in blocks of 16."""
    preset = find_preset(size)
    assert preset is not None
    settings = settings or TrainSettings(data=("-",), block_size=BLOCK)
    return build(shape(settings, preset, process, traits, (), division), traits, division, settings.seed)


def step_of(model: BlockDiffusionLM, process: Process, vocabulary: int) -> Run:
    """One step of training on 2,048 random tokens."""
    objective, optimizer = Objective(model, process, 0), make_optimizer(model, RATE, 0.01)
    length = model.config.context
    tokens = torch.randint(MASK + 1, min(vocabulary, SMALLEST), (BATCH_TOKENS // length, length))
    index = torch.arange(len(tokens))
    columns = vars(Packed.plain(tokens, block_ids(length, BLOCK, torch.zeros_like(index))))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(columns, index)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def megabytes(model: BlockDiffusionLM) -> float:
    """What the model takes on disk, its weights in bfloat16."""
    state = model.state_dict().values()
    return sum(value.numel() * (2 if value.is_floating_point() else value.element_size()) for value in state) / 1e6


def parts_of(model: BlockDiffusionLM) -> dict[str, Run]:
    """The two parts of a denoising step of one block that touch all tokens."""
    hidden, p = torch.randn(1, BLOCK, model.config.hidden), torch.rand(1, BLOCK, model.config.vocabulary)

    def head() -> Tensor:
        with torch.no_grad():
            return model.logits(hidden)

    def mixture() -> Tensor:
        with torch.no_grad():
            return model.embed_mixture(p)

    return {"head": head, "mixture": mixture}


def speed(process_name: str, size: str, rounds: int) -> str:
    """Seconds and tokens a second of a training step; milliseconds of the head and of a mixture of embeddings."""
    steps: dict[str, Run] = {}
    rows: list[list[object]] = []
    parts: dict[str, dict[str, float]] = {}
    for vocabulary in (SMALLEST, *LARGER):
        torch.manual_seed(0)
        process = make_process(process_name, vocabulary, CONSTANTS)
        traits = CoreTraits(torch.randn(vocabulary, WIDTH), (MASK,))
        for division in (None, divide(traits, np.arange(2, min(vocabulary, 20_000)))):
            if division is None and f"{vocabulary:,} whole" in steps:
                continue
            kind = f"{vocabulary:,} {'whole' if division is None else 'active'}"
            model = make(size, process, traits, division)
            parts[kind] = least(parts_of(model), rounds)
            steps[kind] = step_of(model, process, vocabulary)
            rows.append([kind, model.config.rows, model.config.rank, megabytes(model)])
    times = least(steps, rounds)
    first = times[f"{SMALLEST:,} whole"]
    for row in rows:
        ms = times[str(row[0])]
        row += [ms / 1000, BATCH_TOKENS / ms * 1000, f"{first / ms:.2f}", *parts[str(row[0])].values()]
    header = ["vocabulary", "rows", "rank", "MB", "step, s", "tokens/s", "of 8,192's", "head, ms", "mixture, ms"]
    return f"{process_name}, {size}\n\n{table(header, rows)}"


@dataclass(frozen=True)
class Bench:
    """A core, training texts, and held-out documents."""

    core: BlockDiffusionLM
    process: Process
    traits: CoreTraits
    text: Texts
    heldout: Sequence[Tensor]


def read_bench(train: Path, heldout: Path, notes: int | None, documents: int) -> Bench:
    """The starter and two files of documents."""
    entry = Registry().find("starter")
    tokenizer = Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    end = special_id(tokenizer, END_OF_TEXT)
    text = packable(encode(read_texts(train, notes), tokenizer), end)
    process = make_process(entry.manifest.process, entry.manifest.vocabulary, entry.manifest.constants)
    held = [torch.tensor([end, *document]) for document in encode(read_texts(heldout, documents), tokenizer)]
    return Bench(load_backbone(entry.folder), process, read_core_traits(entry.folder), text, held)


def train(bench: Bench, division: Division | None, size: str, steps: int) -> BlockDiffusionLM:
    """Train a small model on the text, its rate rising for 20 steps and falling from 70% on."""
    settings = TrainSettings(data=("-",), block_size=BLOCK, context=256)
    model = make(size, bench.process, bench.traits, division, settings)
    objective, optimizer = Objective(model, bench.process, 0), make_optimizer(model, RATE, 0.01)
    windows, batch = Windows(bench.text, WindowShape(256, BLOCK), 0, sys.maxsize), BATCH_TOKENS // 256
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 20, (steps - step) / (0.3 * steps))
        samples = default_collate([windows[step * batch + i] for i in range(batch)])
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(**samples)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def losses_of(small: BlockDiffusionLM, bench: Bench) -> Tensor:
    """Loss of each held-out token by the core, by half of each, and by the small model: (tokens, 3)."""
    found = []
    for number, document in enumerate(bench.heldout):
        tokens = document[None, :256]
        noise = GeneratorNoise([number])
        blocks = block_ids(tokens.shape[1], BLOCK, torch.zeros(1, dtype=torch.int64))
        t = block_levels(blocks, noise)
        canvas = bench.process.corrupt(tokens, t, noise)
        log_ps = []
        for model in (bench.core, small):
            embedded = bench.process.embed(canvas, model)
            hidden = denoise_sequence(model, embedded, Packed.plain(tokens, blocks), (t, None))
            log_ps.append(model.logits(hidden).log_softmax(-1)[0])
        both = torch.stack([log_ps[0], mix(log_ps, [0.5, 0.5]), log_ps[1]], dim=-1)
        found.append(-both[torch.arange(1, tokens.shape[1]), tokens[0, 1:]])
    return torch.cat(found)


def loss(bench: Bench, rows: int, size: str, steps: int) -> str:
    """Nats a token on held-out text."""
    division = divide(bench.traits, bench.text.tokens, rows)
    assert division is not None
    counts = count_tokens(bench.text.tokens, len(bench.traits.embeddings))
    targets = torch.cat([document[1:256] for document in bench.heldout])
    active = torch.isin(targets, division.ids)
    groups = {"all": active | True, "active": active, "seen": ~active & (counts[targets] > 0)}
    groups["unseen"] = counts[targets] == 0
    groups = {name: mask for name, mask in groups.items() if mask.any()}
    no_floor = replace(division, floor=torch.full_like(division.floor, -math.inf))
    models = {"a row for every token": train(bench, None, size, steps)}
    models["active vocabulary"] = train(bench, division, size, steps)
    unbounded = make(size, bench.process, bench.traits, no_floor)
    unbounded.load_state_dict(models["active vocabulary"].state_dict() | _prefixed(no_floor))
    models["the same without a floor"] = unbounded.eval().requires_grad_(False)
    lines: list[list[object]] = []
    for name, model in models.items():
        measured = losses_of(model, bench)
        for column, who in ((1, "with the core, 0.5"), (2, "alone")):
            lines.append([name, who, *[f"{measured[mask, column].mean():.3f}" for mask in groups.values()]])
    lines.insert(0, ["the core", "alone", *[f"{measured[mask, 0].mean():.3f}" for mask in groups.values()]])
    header = ["model", "", *[f"{name} ({int(mask.sum()):,})" for name, mask in groups.items()]]
    sizes = f"{len(bench.text.tokens):,} tokens, {int((counts > 0).sum()):,} different"
    facts = f"{sizes}; {len(division.ids):,} rows; {steps} steps"
    return f"{facts}\n\n{table(header, lines)}"


def _prefixed(division: Division) -> dict[str, Tensor]:
    return {f"vocabulary.{name}": value for name, value in division.state().items()}


def main() -> None:
    """Measure, and print what was measured where and how."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    timed = kinds.add_parser("speed")
    timed.add_argument("--process", default="simplex", choices=("simplex", "masked", "uniform"))
    timed.add_argument("--size", default="mini")
    timed.add_argument("--rounds", type=int, default=4, help="how often each alternative has its turn")
    judged = kinds.add_parser("loss")
    judged.add_argument("train", type=Path)
    judged.add_argument("heldout", type=Path)
    judged.add_argument("--rows", type=int, default=2048, help="the most active tokens")
    judged.add_argument("--notes", type=int, help="documents to train on, all by default")
    judged.add_argument("--documents", type=int, default=80, help="held-out documents that are measured")
    judged.add_argument("--size", default="nano")
    judged.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: `{' '.join(sys.argv)}`\n", flush=True)
    if asked.kind == "speed":
        print(speed(asked.process, asked.size, asked.rounds))
    else:
        bench = read_bench(asked.train, asked.heldout, asked.notes, asked.documents)
        print(loss(bench, asked.rows, asked.size, asked.steps))


if __name__ == "__main__":
    main()
