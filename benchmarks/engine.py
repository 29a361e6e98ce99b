"""What does a denoising step cost: against a naive loop, by prefix, by member, by batch, by vocabulary, by core?

    python -m benchmarks engine [--tables naive prefix members batch] [--quick]
    python -m benchmarks engine --tables vocabulary nucleus
    python -m benchmarks engine --tables causal llada opt --rounds 3

Alternatives take turns, and the least of their times counts: ratios within one run mean something even on a busy
machine, milliseconds less so. Weights are random, and none of the figures depends on them. The tables `causal`, `llada`
and `opt` are of whole texts and meant for a GPU: cores of 8B and 13B in bfloat16, alone and with a member of about a
hundredth of their parameters in float32, as in `ssd generate`; with --quick they are small. They also say whether the
host waits for the device inside a block, which it never should.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from benchmarks.lib.models import CONSTANTS, DEVICE, random_denoiser
from benchmarks.lib.tables import heading, table
from benchmarks.lib.timing import Run, least
from ssdcli.engine.blocks import padding_mask
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.ensemble import Ensemble, Prediction
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker, keep_nucleus
from ssdcli.engine.sampling.reverse import Choice, ReverseProcess, reverse_process
from ssdcli.engine.steps import SamplerConfig, Step
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.loading import make_denoiser

QUICK = {"rounds": 5, "steps": 2, "rows": (1,)}
VOCABULARY, VOCABULARIES = 8192, (8192, 32_768, 65_536, 131_072, 262_144)
PICKER = Picker(top_p=0.95)
Writing = Callable[..., None]  # writes a text; given a function, it is called after each step
T, S = 0.6, 0.55
DRAWN = 16  # tokens
LARGE, SMALL, OTHER = (768, 8), (256, 4), (192, 5)  # hidden size and layers
BLOCK, CONTEXT, PROMPT, TOKENS = 32, 512, 128, 64  # of texts by large cores


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


# Large cores


@dataclass(frozen=True)
class Shape:
    """A core with random weights in bfloat16, its noise process, and the width and depth of a small member."""

    core: PreTrainedModel
    process: Process
    hidden: int
    layers: int
    attention: str = "full"

    @classmethod
    def of(cls, process: str, kind: Any, config: Any, member: tuple[int, int], attention: str = "full") -> Shape:
        """Make the core on the device that it runs on."""
        config.dtype, config.architectures = torch.bfloat16, [kind.__name__]
        with torch.device(DEVICE):
            core = kind._from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
        return cls(core, make_process(process, config.vocab_size, CONSTANTS), *member, attention)

    @property
    def is_causal(self) -> bool:
        """Whether the core predicts one token a pass, the leftmost hidden one."""
        return self.attention == "autoregressive"

    def reverse(self, steps: int) -> ReverseProcess:
        """In so many steps a block; beside a causal core from the left, a token a step."""
        if self.is_causal:
            return replace(reverse_process(self.process, Choice("left-to-right")), steps=BLOCK)
        return replace(reverse_process(self.process), steps=steps)

    def denoiser(self) -> Denoiser:
        """The core behind the engine's denoiser."""
        spec = CoreSpec(
            process=self.process.name,
            constants=dict(self.process.constants()),
            attention=self.attention,
            block_size=BLOCK,
            context=CONTEXT,
            ends=(0,),
            shift=self.is_causal,
        )
        backbone = native_class_of(self.core.config.to_dict()).backbone_for(spec)(self.core, spec)
        return make_denoiser(backbone, self.attention, self.process)


def beside_llama(given: Namespace) -> str:
    """Llama-3-8B's shape, causal, a token a step: texts of 64 tokens after 128 others."""
    sizes: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    sizes |= {"vocab_size": 128256}
    if given.quick:
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 1280}
    sizes |= {"num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 5e5}
    member = (64, 2) if given.quick else (512, 14)
    shape = Shape.of("masked", LlamaForCausalLM, LlamaConfig(**sizes), member, "autoregressive")
    return with_a_member(shape, given)


def beside_llada(given: Namespace) -> str:
    """LLaDA-8B's shape, a Llama with full attention, masked: texts of 64 tokens after 128 others."""
    sizes: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32}
    sizes |= {"vocab_size": 126464}
    if given.quick:
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 1264}
    sizes |= {"num_attention_heads": 32, "rope_theta": 5e5, "is_causal": False}
    config = LlamaConfig(**sizes)
    return with_a_member(Shape.of("masked", LlamaForCausalLM, config, (64, 2) if given.quick else (512, 14)), given)


def beside_opt(given: Namespace) -> str:
    """OPT-13B's shape with full attention, simplex, as in SSD-2 (Han et al., 2024): 64 tokens after 128 others."""
    sizes: dict[str, Any] = {"hidden_size": 5120, "ffn_dim": 20480, "num_hidden_layers": 40, "vocab_size": 50272}
    if given.quick:
        sizes = {"hidden_size": 160, "ffn_dim": 320, "num_hidden_layers": 4, "vocab_size": 1024}
    sizes |= {"num_attention_heads": 40, "word_embed_proj_dim": sizes["hidden_size"], "is_causal": False}
    config = OPTConfig(**sizes)
    return with_a_member(Shape.of("simplex", OPTForCausalLM, config, (64, 2) if given.quick else (768, 15)), given)


def with_a_member(shape: Shape, given: Namespace) -> str:
    """Tokens per second, GPU memory, and waits inside a block, of the core alone and of both."""
    core, half, rows = shape.denoiser(), shape.hidden // 2, []
    member = random_denoiser(shape.process, shape.hidden, shape.layers, rank=half, block_size=BLOCK, context=CONTEXT)
    networks: dict[str, Any] = {"the core, ": shape.core, "and a member of ": member.backbone}
    for count in given.rows:
        reverse = shape.reverse(given.steps)
        runs = [writing(parts, count, reverse) for parts in ([(core, 1.0)], [(core, 0.7), (member, 0.3)])]
        taken = [(memory(run), waiting(run)) for run in runs]
        times = least(dict(zip(networks, runs, strict=True)), given.rounds)
        alone = next(iter(times.values()))
        for (name, network), (peak, waits) in zip(networks.items(), taken, strict=True):
            size = sum(weight.numel() for weight in network.parameters()) / 1e6
            pace = count * TOKENS / (times[name] / 1000)
            rows.append([f"{name}{size:,.3g}M", count, pace, peak, f"{times[name] / alone - 1:+.1%}", waits])
    return table(["", "rows", "tokens/s", "peak GiB", "time added", "waits inside a block"], rows)


def writing(parts: Sequence[tuple[Denoiser, float]], rows: int, reverse: ReverseProcess) -> Writing:
    """A function that writes TOKENS tokens after PROMPT others, in so many rows; no text ends before."""
    members = tuple(Member(str(i), part, Constant(weight)) for i, (part, weight) in enumerate(parts))
    ensemble = Ensemble(members, average if any(part.abstains for part, _ in parts) else mix)
    config = SamplerConfig(BLOCK, TOKENS, (-1,), PICKER, device=DEVICE)
    prompts = [[Prompt(list(range(5, 5 + PROMPT)))] * rows] * len(parts)

    def run(after: Callable[[Step], object] = id) -> None:
        for step in sample(ensemble, reverse, prompts, list(range(rows)), config):
            after(step)

    return run


def waiting(run: Writing) -> str:
    """Whether the host waits for the device inside a block, else than between blocks: what torch says of it."""
    if DEVICE == "cpu":
        return "-"
    try:
        run(lambda step: torch.cuda.set_sync_debug_mode("default" if step.last else "error"))
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def memory(run: Run) -> float:
    """The most GiB that tensors take on the GPU during a run; 0 on a CPU."""
    if DEVICE == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


TABLES: Mapping[str, Callable[[Namespace], str]] = {
    "naive": against_naive,
    "prefix": by_prefix,
    "members": by_member,
    "batch": by_batch,
    "vocabulary": by_vocabulary,
    "nucleus": nucleus,
    "causal": beside_llama,
    "llada": beside_llada,
    "opt": beside_opt,
}
