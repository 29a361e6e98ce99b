"""What do the parts of a simplex denoising step, and drawing from the nucleus, cost by size of the vocabulary?

    python -m benchmarks vocabulary [--rounds 15]

The models differ in their vocabulary alone: hidden size 256, 4 layers, embeddings of rank 128, one row, a block of 16
tokens after a prefix of 128. Weights are random. Alternatives take turns, and the least of their times counts: ratios
within one run mean something even on a busy machine, milliseconds less so.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.lib.models import CONSTANTS, DEVICE, random_denoiser
from benchmarks.lib.tables import heading, table
from benchmarks.lib.timing import Run, least
from ssdcli.engine.blocks import padding_mask
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import Picker, keep_nucleus
from ssdcli.engine.sampling.reverse import reverse_process

QUICK = {"rounds": 2, "sizes": (8192, 32_768)}
BLOCK, PREFIX = 16, 128
T, S = 0.6, 0.55
PICKER = Picker(top_p=0.95)


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--rounds", type=int, default=15, help="how often each alternative has its turn")
    sizes = (8192, 32_768, 65_536, 131_072, 262_144)
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="of the vocabulary")
    parser.add_argument("--quick", action="store_true", help="two rounds at two sizes")


def main(given: Namespace) -> None:
    """Print the two tables."""
    print(f"{heading()}\n")
    for measured in (growth, methods):
        print(f"{measured.__doc__}\n\n{measured(given)}\n", flush=True)


def parts(vocabulary: int) -> Mapping[str, Run]:
    """The parts of one denoising step, and the whole step as the sampler takes it, each ready to be repeated."""
    process = make_process("simplex", vocabulary, CONSTANTS)
    denoiser = random_denoiser(process, 256, 4, rank=128, block_size=BLOCK, context=256)
    backbone, prefixes = denoiser.backbone, denoiser.start([Prompt(range(1, 1 + PREFIX))])
    noise, level = CounterNoise([0], DEVICE), torch.full((1, BLOCK), T, device=DEVICE)
    canvas = process.prior(BLOCK, noise)
    log_p = denoiser.denoise(canvas, T, None, prefixes)
    tokens, embedded = PICKER.draw(log_p, noise), process.embed(canvas, backbone)
    view = prefixes[0].canvas_positions(BLOCK), padding_mask(prefixes[0].real(BLOCK), BLOCK), prefixes[0].cache
    hidden = backbone.encode(embedded, *view)
    logits, lower = backbone.logits(hidden), torch.full((1,), S, dtype=torch.float64, device=DEVICE)

    def step() -> object:
        predicted = denoiser.denoise(canvas, T, log_p, prefixes)
        return reverse_process(process).sampler.step(canvas, predicted, (T, lower), PICKER, noise)

    return {
        "noise and its embedding": lambda: process.embed(process.corrupt(tokens, level, noise), backbone),
        "self-conditioning": lambda: backbone.embed_mixture(log_p.exp()),
        "body": lambda: backbone.encode(backbone.condition(embedded, level, embedded), *view),
        "head": lambda: backbone.logits(hidden),
        "log-softmax": lambda: torch.log_softmax(logits, dim=-1),
        "drawing, top-p 0.95": lambda: PICKER.draw(log_p, noise),
        "the step": step,
    }


def growth(given: Namespace) -> str:
    """A step by vocabulary: milliseconds (times those of the smallest)."""
    times = {size: least(parts(size), given.rounds) for size in given.sizes}
    first = times[given.sizes[0]]
    rows = [[part, *(f"{ms[part]:.3g} (x{ms[part] / first[part]:.1f})" for ms in times.values())] for part in first]
    return table(["part", *(f"V = {size:,}" for size in given.sizes)], rows)


def predictions(vocabulary: int) -> Mapping[str, Tensor]:
    """Log p (1, L, V) of three kinds: all tokens alike, as language models predict, and one token of 99%."""
    torch.manual_seed(0)
    bell = torch.randn(1, BLOCK, vocabulary)
    ranks = torch.stack([torch.randperm(vocabulary) + 1.0 for _ in range(BLOCK)])[None]
    logits = {
        "flat": bell / 10,
        "typical": bell / 2 - 1.1 * ranks.log(),
        "peaked": torch.where(ranks == 1, math.log(99 * vocabulary * math.e**0.5), bell),
    }
    return {kind: torch.log_softmax(x, dim=-1).to(DEVICE) for kind, x in logits.items()}


def draw_by_sorting(log_p: Tensor) -> Tensor:
    """The nucleus as it is usually drawn from: log p (1, L, V) to (1, L)."""
    p, places = log_p.softmax(-1).sort(-1, descending=True)
    kept = p.where(p.cumsum(-1) - p < PICKER.top_p, 0)
    return places.gather(-1, torch.multinomial(kept[0], 1)[None]).squeeze(-1)


def methods(given: Namespace) -> str:
    """Drawing 16 tokens from the nucleus of mass 0.95, in milliseconds; `mask` keeps it whole, for a multi-hot."""
    noise, rows = CounterNoise([0], DEVICE), []
    for vocabulary in given.sizes:
        for kind, log_p in predictions(vocabulary).items():
            p = log_p.exp()
            runs: dict[str, Run] = {
                "by sorting": partial(draw_by_sorting, log_p),
                "drawn": partial(PICKER.draw, log_p, noise),
                "mask": partial(keep_nucleus, p, PICKER.top_p),
            }
            times = least(runs, given.rounds)
            size = int(keep_nucleus(p, PICKER.top_p).count_nonzero()) // BLOCK
            rows.append([vocabulary, kind, size, *times.values(), f"x{times['by sorting'] / times['drawn']:.0f}"])
    return table(["V", "prediction", "tokens kept", "by sorting", "drawn", "mask", "faster than sorting"], rows)
