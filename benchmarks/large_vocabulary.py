"""What does a large vocabulary cost a small model, with a row for every token and with an active vocabulary?

    python -m benchmarks large_vocabulary speed --process simplex --size mini --rounds 4
    python -m benchmarks large_vocabulary loss TRAIN.jsonl.gz HELDOUT.jsonl.gz --rows 2048 [--notes 150]

`speed` times whole training steps (forward, backward, optimiser) of one body with random weights, and the parts of a
denoising step that touch all tokens. Alternatives take turns, and the least of their times counts: ratios within one
run mean something even on a busy machine. `loss` trains twins of the same seed for the same number of steps, with a row
for every token and with an active vocabulary, and measures them on held-out text, alone and with their core, separately
for tokens that the training text has and those that it has not.
"""

from __future__ import annotations

import json
import math
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.blocks import block_ids
from benchmarks.lib.corpora import encode, read_texts
from benchmarks.lib.experiment import Workshop
from benchmarks.lib.models import CONSTANTS, Model
from benchmarks.lib.segments import predict
from benchmarks.lib.tables import heading, table
from benchmarks.lib.timing import Run, least
from ssdcli.engine.blocks import block_levels
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.noise import GeneratorNoise
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Process, make_process
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.core_traits import CoreTraits, read_core_traits
from ssdcli.models.presets import find_preset
from ssdcli.registry.store import STARTER
from ssdcli.training.active_tokens import Division, count_tokens, divide
from ssdcli.training.build import build, shape
from ssdcli.training.objective import Objective
from ssdcli.training.optimizer import make_optimizer
from ssdcli.training.settings import TrainSettings

QUICK = {"size": "nano", "rounds": 1, "sizes": [8192, 32_768], "steps": 20, "documents": 8}
BATCH_TOKENS, BLOCK, WINDOW, MASK = 2048, 16, 256, 1
WIDTH = 1024  # of the core's embeddings
RATE = 3e-3


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("part", choices=("speed", "loss"))
    parser.add_argument("data", nargs="*", help="for the loss: training text and held-out text")
    parser.add_argument("--size", help="of the small model, by default mini for the speed and nano for the loss")
    parser.add_argument("--process", default="simplex", choices=("simplex", "masked", "uniform"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 32_768, 131_072, 262_144], help="vocabularies")
    parser.add_argument("--rounds", type=int, default=4, help="how often each alternative has its turn")
    parser.add_argument("--rows", type=int, default=2048, help="the most active tokens")
    parser.add_argument("--notes", type=int, help="documents to train on, all by default")
    parser.add_argument("--documents", type=int, default=80, help="held-out documents that are measured")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="a small run of about a minute")


def main(given: Namespace) -> None:
    """Print the tables of one part."""
    print(f"{heading()}\n", flush=True)
    if given.part == "speed":
        given.size = given.size or "mini"
        print(speed(given))
    else:
        given.size = given.size or "nano"
        print(loss(given, *given.data))


# Speed


def speed(given: Namespace) -> str:
    """A training step's time, and that of the head and of a mixture of embeddings, by the vocabulary."""
    steps: dict[str, Run] = {}
    rows: dict[str, list[object]] = {}
    for vocabulary in given.sizes:
        torch.manual_seed(0)
        process = make_process(given.process, vocabulary, CONSTANTS)
        traits = CoreTraits(torch.randn(vocabulary, WIDTH), (MASK,))
        division = divide(traits, np.arange(2, min(vocabulary, 20_000)))
        for one in (None,) if division is None else (None, division):
            kind = f"{vocabulary:,} {'whole' if one is None else 'active'}"
            model = random_model(given.size, process, traits, one)
            parts = least(parts_of(model), given.rounds)
            steps[kind] = step_of(model, process)
            rows[kind] = [model.config.rows, model.config.rank, megabytes(model), *parts.values()]
    times = least(steps, given.rounds)
    first = next(iter(times.values()))
    cells = [
        [kind, *row[:3], times[kind] / 1000, BATCH_TOKENS / times[kind] * 1000, f"{first / times[kind]:.2f}", *row[3:]]
        for kind, row in rows.items()
    ]
    header = ["vocabulary", "rows", "rank", "MB", "step, s", "tokens/s", "of the first's", "head, ms", "mixture, ms"]
    return f"{given.process}, {given.size}\n\n{table(header, cells)}"


def random_model(size: str, process: Process, traits: CoreTraits, division: Division | None) -> BlockDiffusionLM:
    """A fresh small model of a preset's body."""
    preset, settings = find_preset(size), TrainSettings(block_size=BLOCK)
    assert preset is not None
    return build(shape(settings, preset, process, traits, (), division), traits, division, settings.seed)


def step_of(model: BlockDiffusionLM, process: Process) -> Run:
    """One step of training on 2,048 random tokens."""
    objective, optimizer = Objective(model, process, 0), make_optimizer(model, RATE, 0.01)
    length = model.config.context
    tokens = torch.randint(MASK + 1, 8192, (BATCH_TOKENS // length, length))
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
    state: Sequence[Tensor] = list(model.state_dict().values())
    return sum(value.numel() * (2 if value.is_floating_point() else value.element_size()) for value in state) / 1e6


def parts_of(model: BlockDiffusionLM) -> dict[str, Run]:
    """The two parts of a denoising step of one block that touch all tokens."""
    hidden, p = torch.randn(1, BLOCK, model.config.hidden), torch.rand(1, BLOCK, model.config.vocabulary)
    without_gradients = torch.no_grad()
    head, mixture = without_gradients(model.logits), without_gradients(model.embed_mixture)
    return {"head": partial(head, hidden), "mixture": partial(mixture, p)}


# Loss


def loss(given: Namespace, train: str, heldout: str) -> str:
    """Nats per token of held-out text, by groups of tokens."""
    core, text = Model.named(STARTER), read_texts(train, given.notes)
    tokens = np.concatenate([np.array(ids) for ids in encode(text, core.tokenizer)])
    traits = read_core_traits(core.folder)
    division = divide(traits, tokens, given.rows)
    assert division is not None
    held = [torch.tensor([core.end, *ids]) for ids in encode(read_texts(heldout, given.documents), core.tokenizer)]
    counts = count_tokens(tokens, len(traits.embeddings))
    targets = torch.cat([document[1:WINDOW] for document in held])
    active = torch.isin(targets, division.ids)
    groups = {"all": active | True, "active": active, "seen": ~active & (counts[targets] > 0)}
    groups = {name: mask for name, mask in (groups | {"unseen": counts[targets] == 0}).items() if mask.any()}
    whole, divided, unbounded = trained(text, given)
    unbounded.vocabulary.load_state_dict({"floor": torch.full_like(division.floor, -math.inf)}, strict=False)
    models = {"a row for every token": whole, "active vocabulary": divided, "the same without a floor": unbounded}
    rows: list[list[object]] = []
    for name, model in models.items():
        measured = losses_of(core, model, held)
        means = [[f"{measured[mask, column].mean():.3f}" for mask in groups.values()] for column in range(3)]
        rows += [[name, "with the core, 0.5", *means[1]], [name, "alone", *means[2]]]
    header = ["model", "", *[f"{name} ({int(mask.sum()):,})" for name, mask in groups.items()]]
    sizes = f"{len(tokens):,} tokens, {int((counts > 0).sum()):,} different"
    title = f"{sizes}; {len(division.ids):,} rows; {given.steps} steps"
    return f"{title}\n\n{table(header, [['the core', 'alone', *means[0]], *rows])}"


def trained(text: Sequence[str], given: Namespace) -> list[BlockDiffusionLM]:
    """Small models of one seed: with a row for every token, and twice the same one with an active vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        data, workshop = Path(folder) / "text.jsonl", Workshop(Namespace(out=Path(folder) / "out.jsonl"))
        data.write_text("".join(json.dumps({"text": one}) + "\n" for one in text), encoding="utf-8")
        settings = TrainSettings((str(data),), name="whole", size=given.size, steps=given.steps, context=WINDOW)
        workshop.trained(settings)
        with patch("ssdcli.training.prepare.divide", partial(divide, rows=given.rows)):  # as if the tokens were many
            workshop.trained(replace(settings, name="active"))
        return [load_backbone(workshop.model(name).folder) for name in ("whole", "active", "active")]


@torch.no_grad()
def losses_of(core: Model, small: BlockDiffusionLM, heldout: Sequence[Tensor]) -> Tensor:
    """Loss of each held-out token under the core, half of each, and the small model: (tokens, 3)."""
    found = []
    for number, document in enumerate(heldout):
        tokens, noise = document[None, :WINDOW], GeneratorNoise([number])
        blocks = block_ids(tokens.shape[1], BLOCK, torch.zeros(1, dtype=torch.int64))
        t = block_levels(blocks, noise)
        canvas, packed = core.process.corrupt(tokens, t, noise), Packed.plain(tokens, blocks)
        log_ps = [predict(model, core.process, canvas, packed, t)[0] for model in (core.backbone, small)]
        both = torch.stack([log_ps[0], mix(log_ps, [0.5, 0.5]), log_ps[1]], dim=-1)
        found.append(-both[torch.arange(1, tokens.shape[1]), tokens[0, 1:]])
    return torch.cat(found)
