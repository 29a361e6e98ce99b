"""What does a small model add to the time and memory of a large core: 8B in LLaDA's shape, 13B in OPT's?

    python -m benchmarks cores [--core llada] [--steps 32] [--rows 1 8] [--rounds 3] [--quick]

Needs no network and no checkpoint: weights are random, and no figure depends on them. The cores are in bfloat16, the
members, of about a hundredth of their parameters, in float32, as in `ssd generate`; they take turns, and the least of
their times counts. Meant for a GPU; --quick makes all of it small.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from benchmarks.lib.models import CONSTANTS, DEVICE, random_denoiser
from benchmarks.lib.tables import heading, table
from benchmarks.lib.timing import Run, least
from ssdcli.engine.denoiser import Denoiser, FullDenoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import SamplerConfig, sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.core_spec import CoreSpec

QUICK = {"steps": 2, "rows": (1,), "rounds": 1}
BLOCK, CONTEXT, PROMPT, TOKENS = 32, 512, 128, 64


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--core", choices=("llada", "opt"), nargs="+", default=("llada", "opt"))
    parser.add_argument("--steps", type=int, default=32, help="of a block")
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 8))
    parser.add_argument("--rounds", type=int, default=3)


@torch.inference_mode()
def main(given: Namespace) -> None:
    """Print the table."""
    torch.manual_seed(0)
    rows: list[list[object]] = []
    for name in given.core:
        shape = {"llada": llada, "opt": opt}[name](given.quick)
        for count in given.rows:
            rows += measured(shape, count, given)
        del shape
        torch.cuda.empty_cache()
    print(f"{heading()}\n\n{PROMPT} tokens read, {TOKENS} written, {given.steps} steps a block\n")
    print(table(["", "rows", "tokens/s", "peak GiB", "time added"], rows))


@dataclass(frozen=True)
class Shape:
    """A core, its noise process, and the width and depth of a member a hundred times smaller."""

    name: str
    core: PreTrainedModel
    process: Process
    hidden: int
    layers: int


def llada(tiny: bool) -> Shape:
    """LLaDA-8B: a Llama with full attention, masked."""
    sizes: dict[str, Any] = {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "vocab_size": 126464,
    }
    if tiny:
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 1264}
    sizes |= {"num_attention_heads": 32, "rope_theta": 5e5, "is_causal": False}
    process = make_process("masked", sizes["vocab_size"], CONSTANTS)
    core = random_core(LlamaForCausalLM, LlamaConfig(**sizes))
    return Shape("LLaDA's shape", core, process, *((64, 2) if tiny else (512, 14)))


def opt(tiny: bool) -> Shape:
    """OPT-13B with full attention, simplex, as in SSD-2 (Han et al., NAACL 2024)."""
    sizes: dict[str, Any] = {"hidden_size": 5120, "ffn_dim": 20480, "num_hidden_layers": 40, "vocab_size": 50272}
    if tiny:
        sizes = {"hidden_size": 160, "ffn_dim": 320, "num_hidden_layers": 4, "vocab_size": 1024}
    sizes |= {"num_attention_heads": 40, "word_embed_proj_dim": sizes["hidden_size"], "is_causal": False}
    process = make_process("simplex", sizes["vocab_size"], CONSTANTS)
    core = random_core(OPTForCausalLM, OPTConfig(**sizes))
    return Shape("OPT's shape", core, process, *((64, 2) if tiny else (768, 15)))


def random_core(kind: Any, config: Any) -> PreTrainedModel:
    """A model with random weights in bfloat16, made on the device that it runs on."""
    config.dtype = torch.bfloat16
    with torch.device(DEVICE):
        model: PreTrainedModel = kind._from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    return model


def large(shape: Shape) -> Denoiser:
    """The core behind the engine's denoiser."""
    spec = CoreSpec(
        process=shape.process.name,
        constants=dict(shape.process.constants()),
        attention="full",
        block_size=BLOCK,
        context=CONTEXT,
        ends=(0,),
    )
    return FullDenoiser(NativeBackbone(shape.core, spec), shape.process)


def generation(parts: Mapping[str, tuple[Denoiser, float]], rows: int, steps: int) -> Run:
    """A function that writes TOKENS tokens after PROMPT others, in so many rows; no text ends before."""
    ensemble = Ensemble(tuple(Member(name, part, Constant(weight)) for name, (part, weight) in parts.items()))
    reverse = replace(reverse_process(next(iter(parts.values()))[0].process), steps=steps)
    config = SamplerConfig(BLOCK, TOKENS, (-1,), Picker(1.0, 0.95), device=DEVICE)
    prompts = [[Prompt(list(range(5, 5 + PROMPT)))] * rows] * len(parts)

    def run() -> None:
        for _ in sample(ensemble, reverse, prompts, list(range(rows)), config):
            pass

    return run


def memory(run: Run) -> float:
    """The most GiB that tensors take on the GPU during a run; 0 on a CPU."""
    if DEVICE == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def measured(shape: Shape, rows: int, given: Namespace) -> list[list[object]]:
    """A row of the table for the core alone, and one for both."""
    core = large(shape)
    alone = generation({"core": (core, 1.0)}, rows, given.steps)
    taken = [memory(alone)]
    half = shape.hidden // 2
    member = random_denoiser(shape.process, shape.hidden, shape.layers, rank=half, block_size=BLOCK, context=CONTEXT)
    both = generation({"core": (core, 0.7), "small": (member, 0.3)}, rows, given.steps)
    taken.append(memory(both))
    times = least({"alone": alone, "both": both}, given.rounds)
    pace = {name: rows * TOKENS / (time / 1000) for name, time in times.items()}
    networks: tuple[Any, ...] = (shape.core, member.backbone)
    sizes = [sum(weight.numel() for weight in network.parameters()) / 1e6 for network in networks]
    more = f"{times['both'] / times['alone'] - 1:+.1%}"
    return [
        [f"{shape.name}, {sizes[0]:,.4g}M", rows, pace["alone"], taken[0], ""],
        [f"and a member of {sizes[1]:.3g}M", rows, pace["both"], taken[1], more],
    ]
