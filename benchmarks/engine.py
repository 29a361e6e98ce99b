"""What does a denoising step cost: against a naive loop, by prefix, by member, by batch, by vocabulary, by core?

    python -m benchmarks engine [--tables naive prefix members batch] [--quick]
    python -m benchmarks engine --tables vocabulary nucleus
    python -m benchmarks engine --tables causal llada opt decode --rounds 3

Alternatives take turns, and the least of their times counts: ratios within one run mean something even on a busy
machine, milliseconds less so. Weights are random, and none of the figures depends on them. The tables `causal`, `llada`
and `opt` are of whole texts, `decode` is of a single pass, which a CUDA graph replays, and all four are meant for a
GPU: cores of 8B and 13B in bfloat16, alone and with a member of about a hundredth of their parameters in float32, as in
`ssd generate`; with --quick they are small. Those of texts also say whether the host waits for the device inside a
block, which it never should.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.lib.large_cores import beside_llada, beside_llama, beside_opt, decode_pass
from benchmarks.lib.models import CONSTANTS, DEVICE, random_denoiser
from benchmarks.lib.tables import heading, table
from benchmarks.lib.timing import Run, least
from ssdcli.engine.blocks import padding_mask
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.ensemble import Ensemble, Prediction
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import make_process
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import Picker, keep_nucleus
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM

QUICK = {"rounds": 5, "steps": 2, "rows": (1,)}
VOCABULARY, VOCABULARIES = 8192, (8192, 32_768, 65_536, 131_072, 262_144)
PICKER = Picker(top_p=0.95)
T, S = 0.6, 0.55
DRAWN = 16  # tokens
LARGE, SMALL, OTHER = (768, 8), (256, 4), (192, 5)  # hidden size and layers


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES)[:4])
    parser.add_argument("--rounds", type=int, default=15, help="how often each alternative has its turn")
    parser.add_argument("--steps", type=int, default=32, help="of a block, by large cores")
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 8), help="texts at once, by large cores")


@torch.no_grad()
def main(given: Namespace) -> None:
    """Print the tables."""
    print(f"{heading()}\n")
    for measured in (TABLES[name] for name in given.tables):
        print(f"{measured.__doc__}\n\n{measured(given)}\n", flush=True)


def denoiser(hidden: int, layers: int, vocabulary: int = VOCABULARY, **shape: int) -> Denoiser:
    """A simplex model with random weights."""
    return random_denoiser(make_process("simplex", vocabulary, CONSTANTS), hidden, layers, **shape)


class Loop:
    """One step of the engine's block loop, for one member or an ensemble, ready to be repeated."""

    def __init__(self, members: Sequence[Denoiser], prefix: int, rows: int = 1) -> None:
        """Read a prefix of so many tokens, and take a canvas at level T, self-conditioned on a first prediction."""
        share = Constant(1 / len(members))
        self.ensemble = Ensemble(tuple(Member(str(i), member, share) for i, member in enumerate(members)))
        self.process, block = members[0].process, members[0].backbone.block_size
        self.noise = CounterNoise(range(rows), DEVICE)
        prompts = [Prompt([1 + i % 1000 for i in range(prefix)])] * rows
        self.prefixes = self.ensemble.start([prompts] * len(members), [T])
        tokens = torch.randint(self.process.vocabulary, (rows, block), device=DEVICE)
        self.canvas = self.process.corrupt(tokens, torch.full(tokens.shape, T, device=DEVICE), self.noise)
        self.previous = self.ensemble.denoise(self.canvas, T, None, self.prefixes).log_p
        self.lower = torch.full((rows,), S, dtype=torch.float64, device=DEVICE)

    def __call__(self) -> object:
        """Predict, draw, and noise to the lower level."""
        said = self.ensemble.denoise(self.canvas, T, self.previous, self.prefixes)
        sampler = reverse_process(self.process).sampler
        return sampler.step(self.canvas, Prediction(said.log_p), (T, self.lower), PICKER, self.noise.derive(1))


class Naive:
    """The same step as one would first write it: no cache, dense noise, a sort of the vocabulary, float32."""

    def __init__(self, model: Denoiser, prefix: int) -> None:
        """A prefix of so many tokens and a canvas, dense."""
        assert isinstance(model.process, Simplex)
        self.backbone, self.process = model.backbone, model.process
        self.prefix = torch.tensor([[1 + i % 1000 for i in range(prefix)]], device=DEVICE)
        self.length = prefix + model.backbone.block_size
        tokens = torch.randint(self.process.vocabulary, (1, model.backbone.block_size), device=DEVICE)
        self.canvas = self.noised(tokens, T)
        self.previous = torch.full_like(self.canvas, 1 / self.process.vocabulary)

    def noised(self, tokens: Tensor, t: float) -> Tensor:
        """x_t of every token of the vocabulary: (1, L, V)."""
        abar = self.process.abar(torch.tensor(t, device=DEVICE))
        clean = 5 * (2 * torch.nn.functional.one_hot(tokens, self.process.vocabulary).float() - 1)
        noised: Tensor = abar.sqrt() * clean + (1 - abar).sqrt() * 5 * torch.randn(clean.shape, device=DEVICE)
        return noised

    def __call__(self) -> object:
        """Predict from the whole sequence, sort, keep the nucleus, draw, and noise to the lower level."""
        backbone, block = self.backbone, self.canvas.shape[1]
        embedded = backbone.embed_mixture(self.canvas.softmax(-1))
        level = torch.full((1, block), T, device=DEVICE)
        canvas = backbone.condition(embedded, level, backbone.embed_mixture(self.previous))
        both = torch.cat([backbone.embed(self.prefix), canvas], dim=1)
        positions = torch.arange(self.length, device=DEVICE)[None]
        mask = torch.ones(1, 1, self.length, self.length, dtype=torch.bool, device=DEVICE)
        hidden = backbone.encode(both, positions, mask, None)
        p = backbone.logits(hidden[:, -block:]).softmax(-1)
        ordered, places = p.sort(-1, descending=True)
        kept = ordered.where(ordered.cumsum(-1) - ordered < PICKER.top_p, 0)
        drawn = torch.multinomial(kept[0], 1)
        return self.noised(places[0].gather(-1, drawn)[None, :, 0], S)


def against_naive(given: Namespace) -> str:
    """A RoBERTa-base shape: hidden 768, 12 layers, V = 50,265, prefix 100, block 25."""
    model = denoiser(768, 12, 50_265, block_size=25)
    runs: dict[str, Run] = {"naive, float32": Naive(model, 100), "engine, float32": Loop([model], 100)}
    times = least(runs, given.rounds)
    assert isinstance(model.backbone, BlockDiffusionLM)
    model.backbone.bfloat16()
    times |= least({"engine, bfloat16": Loop([model], 100)}, given.rounds)
    rows = [[name, ms, times["naive, float32"] / ms] for name, ms in times.items()]
    return table(["one step", "ms", "times faster"], rows)


def by_prefix(given: Namespace) -> str:
    """The time of a step after longer and longer prefixes."""
    rows: list[list[object]] = []
    for hidden, layers in (SMALL, LARGE):
        model = denoiser(hidden, layers, context=1024 + 64)
        times = least({str(prefix): Loop([model], prefix) for prefix in (1, 128, 256, 512, 1024)}, given.rounds)
        rows.append([f"{hidden} x {layers}", *times.values(), times["1024"] / times["1"]])
    return table(["body", "1 token, ms", "128", "256", "512", "1,024", "1,024 over 1"], rows)


def by_member(given: Namespace) -> str:
    """The time of an ensemble's step over the sum of its members' own steps."""
    rows: list[list[object]] = []
    for shapes in ((SMALL, SMALL), (LARGE, SMALL), (LARGE, SMALL, OTHER)):
        members = [denoiser(hidden, layers) for hidden, layers in shapes]
        runs: dict[str, Run] = {str(i): Loop([member], 128) for i, member in enumerate(members)}
        times = least(runs | {"all": Loop(members, 128)}, given.rounds)
        alone = sum(ms for name, ms in times.items() if name != "all")
        rows.append([", ".join(f"{h} x {n}" for h, n in shapes), alone, times["all"], times["all"] / alone])
    return table(["members", "sum of their own steps, ms", "ensemble, ms", "ratio"], rows)


def by_batch(given: Namespace) -> str:
    """Rows per second in batches of 1 to 32."""
    member, sizes = denoiser(*SMALL), (1, 2, 4, 8, 16, 32)
    times = least({str(size): Loop([member], 128, size) for size in sizes}, given.rounds)
    speed = {size: size / times[str(size)] * 1000 for size in sizes}
    rows = [[size, times[str(size)], speed[size], speed[size] / speed[1]] for size in sizes]
    return table(["rows", "step, ms", "rows per second", "over one row"], rows)


# Vocabularies


def parts(vocabulary: int) -> Mapping[str, Run]:
    """The parts of one denoising step, and the whole step as the sampler takes it, each ready to be repeated."""
    model = denoiser(*SMALL, vocabulary, rank=128)
    process, backbone, prefixes = model.process, model.backbone, model.start([Prompt(range(1, 129))])
    block = backbone.block_size
    noise, level = CounterNoise([0], DEVICE), torch.full((1, block), T, device=DEVICE)
    canvas = process.prior(block, noise)
    log_p = model.denoise(canvas, T, None, prefixes)
    tokens, embedded = PICKER.draw(log_p, noise), process.embed(canvas, backbone)
    view = prefixes[0].canvas_positions(block), padding_mask(prefixes[0].real(block), block), prefixes[0].cache
    hidden = backbone.encode(embedded, *view)
    logits, lower = backbone.logits(hidden), torch.full((1,), S, dtype=torch.float64, device=DEVICE)

    def step() -> object:
        predicted = model.denoise(canvas, T, log_p, prefixes)
        return reverse_process(process).sampler.step(canvas, Prediction(predicted), (T, lower), PICKER, noise)

    return {
        "noise and its embedding": lambda: process.embed(process.corrupt(tokens, level, noise), backbone),
        "self-conditioning": lambda: backbone.embed_mixture(log_p.exp()),
        "body": lambda: backbone.encode(backbone.condition(embedded, level, embedded), *view),
        "head": lambda: backbone.logits(hidden),
        "log-softmax": lambda: torch.log_softmax(logits, dim=-1),
        "drawing, top-p 0.95": lambda: PICKER.draw(log_p, noise),
        "the step": step,
    }


def by_vocabulary(given: Namespace) -> str:
    """A step of a 256 x 4 body with embeddings of rank 128: milliseconds (times those of the smallest vocabulary)."""
    times = {size: least(parts(size), given.rounds) for size in VOCABULARIES}
    first = times[VOCABULARIES[0]]
    rows = [[part, *(f"{ms[part]:.3g} (x{ms[part] / first[part]:.1f})" for ms in times.values())] for part in first]
    return table(["part", *(f"V = {size:,}" for size in VOCABULARIES)], rows)


def predictions(vocabulary: int) -> Mapping[str, Tensor]:
    """Log p (1, L, V) of three kinds: all tokens alike, as language models predict, and one token of 99%."""
    torch.manual_seed(0)
    bell = torch.randn(1, DRAWN, vocabulary)
    ranks = torch.stack([torch.randperm(vocabulary) + 1.0 for _ in range(DRAWN)])[None]
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


def nucleus(given: Namespace) -> str:
    """Drawing 16 tokens from the nucleus of mass 0.95, in milliseconds; `mask` keeps it whole, for a multi-hot."""
    noise, rows = CounterNoise([0], DEVICE), []
    for vocabulary in VOCABULARIES:
        for kind, log_p in predictions(vocabulary).items():
            p = log_p.exp()
            runs: dict[str, Run] = {
                "by sorting": partial(draw_by_sorting, log_p),
                "drawn": partial(PICKER.draw, log_p, noise),
                "mask": partial(keep_nucleus, p, PICKER.top_p),
            }
            times = least(runs, given.rounds)
            size = int(keep_nucleus(p, PICKER.top_p).count_nonzero()) // DRAWN
            rows.append([vocabulary, kind, size, *times.values(), f"x{times['by sorting'] / times['drawn']:.0f}"])
    return table(["V", "prediction", "tokens kept", "by sorting", "drawn", "mask", "faster than sorting"], rows)


TABLES: Mapping[str, Callable[[Namespace], str]] = {
    "naive": against_naive,
    "prefix": by_prefix,
    "members": by_member,
    "batch": by_batch,
    "vocabulary": by_vocabulary,
    "nucleus": nucleus,
    "causal": beside_llama,
    "decode": decode_pass,
    "llada": beside_llada,
    "opt": beside_opt,
}
