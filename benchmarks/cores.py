"""What a small model adds to the time and memory of a large core: 8B in LLaDA's shape, 13B in OPT's.

    python -m benchmarks cores [--core llada] [--steps 32] [--rows 1 8] [--rounds 3] [--tiny]

Prints a Markdown table. Needs no network and no checkpoint: weights are random, and no figure depends on them.
The cores are in bfloat16, the members, of about a hundredth of their parameters, in float32, as in `ssd generate`; they
take turns, and the least of their times counts. Meant for a GPU; --tiny makes all of it small, to try the script.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from benchmarks.lib.tables import machine, table
from benchmarks.lib.timing import Run, least
from ssdcli.engine.denoiser import Denoiser, FullDenoiser
from ssdcli.engine.ensemble.members import Ensemble, Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import SamplerConfig, sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.spec import CoreSpec

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ARGUMENTS.add_argument("--core", choices=("llada", "opt"), nargs="+", default=("llada", "opt"))
ARGUMENTS.add_argument("--steps", type=int, default=32, help="of a block")
ARGUMENTS.add_argument("--rows", type=int, nargs="+", default=(1, 8))
ARGUMENTS.add_argument("--rounds", type=int, default=3)
ARGUMENTS.add_argument("--tiny", action="store_true")
GIVEN = ARGUMENTS.parse_args()
TINY = GIVEN.tiny
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK, CONTEXT, PROMPT, TOKENS = 32, 512, 128, 64


@dataclass(frozen=True)
class Shape:
    """A core, its noise process, and the width and depth of a member a hundred times smaller."""

    name: str
    core: PreTrainedModel
    process: str
    constants: dict[str, float]
    hidden: int
    layers: int

    @property
    def noise(self) -> Process:
        """The noise process."""
        return make_process(self.process, self.core.config.vocab_size, self.constants)


def llada() -> Shape:
    """LLaDA-8B: a Llama with full attention, masked."""
    sizes = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "vocab_size": 126464}
    if TINY:
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 1264}
    config = LlamaConfig(num_attention_heads=32, rope_theta=5e5, is_causal=False, **sizes)
    core = random_core(LlamaForCausalLM, config)
    return Shape("LLaDA's shape", core, "masked", {"mask_id": 3.0}, 64 if TINY else 512, 2 if TINY else 14)


def opt() -> Shape:
    """OPT-13B with full attention, simplex, as in SSD-2 (Han et al., NAACL 2024)."""
    sizes = {"hidden_size": 5120, "ffn_dim": 20480, "num_hidden_layers": 40, "vocab_size": 50272}
    if TINY:
        sizes = {"hidden_size": 160, "ffn_dim": 320, "num_hidden_layers": 4, "vocab_size": 1024}
    width = sizes["hidden_size"]
    config = OPTConfig(num_attention_heads=40, word_embed_proj_dim=width, is_causal=False, **sizes)
    core = random_core(OPTForCausalLM, config)
    return Shape("OPT's shape", core, "simplex", {"K": 5.0, "s": 1e-4}, 64 if TINY else 768, 2 if TINY else 15)


def random_core(kind: Any, config: Any) -> PreTrainedModel:
    """A model of random weights in bfloat16, made where it runs."""
    config.dtype = torch.bfloat16
    with torch.device(DEVICE):
        model: PreTrainedModel = kind._from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def large(shape: Shape) -> Denoiser:
    """The core behind the engine's denoiser."""
    spec = CoreSpec(
        family="random",
        process=shape.process,
        constants=shape.constants,
        attention="full",
        block_size=BLOCK,
        context=CONTEXT,
        ends=(0,),
    )
    return FullDenoiser(NativeBackbone(shape.core, spec), shape.noise)


def small(shape: Shape) -> Denoiser:
    """The member behind the engine's denoiser."""
    config = BackboneConfig(
        vocabulary=shape.core.config.vocab_size,
        hidden=shape.hidden,
        layers=shape.layers,
        rank=shape.hidden // 2,
        block_size=BLOCK,
        context=CONTEXT,
        timed=shape.process != "masked",
        self_conditioned=shape.process != "masked",
    )
    return Denoiser(BlockDiffusionLM(config).to(DEVICE).eval().requires_grad_(False), shape.noise)


def generation(parts: dict[str, tuple[Denoiser, float]], rows: int) -> Run:
    """A function that writes TOKENS tokens after PROMPT others, in so many rows; no text ends before."""
    ensemble = Ensemble(tuple(Member(name, part, Constant(weight)) for name, (part, weight) in parts.items()))
    reverse = replace(reverse_process(next(iter(parts.values()))[0].process), steps=GIVEN.steps)
    config = SamplerConfig(BLOCK, TOKENS, (-1,), Picker(1.0, 0.95), device=DEVICE)
    prompts = [[Prompt(list(range(5, 5 + PROMPT)))] * rows] * len(parts)

    def run() -> None:
        for _ in sample(ensemble, reverse, prompts, list(range(rows)), config):
            pass

    return run


def memory(run: Run) -> float:
    """The most GiB that tensors have on the GPU during a run; 0 on a CPU."""
    if DEVICE == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def measured(shape: Shape, rows: int) -> list[list[object]]:
    """A row of the table for the core alone, and one for both."""
    core = large(shape)
    alone = generation({"core": (core, 1.0)}, rows)
    taken = [memory(alone)]
    member = small(shape)
    both = generation({"core": (core, 0.7), "small": (member, 0.3)}, rows)
    taken.append(memory(both))
    times = least({"alone": alone, "both": both}, GIVEN.rounds)
    pace = {name: rows * TOKENS / (time / 1000) for name, time in times.items()}
    sizes = [sum(weight.numel() for weight in part.parameters()) / 1e6 for part in (shape.core, member.backbone)]
    return [
        [f"{shape.name}, {sizes[0]:,.4g}M", rows, pace["alone"], taken[0], ""],
        [
            f"and a member of {sizes[1]:.3g}M",
            rows,
            pace["both"],
            taken[1],
            f"{times['both'] / times['alone'] - 1:+.1%}",
        ],
    ]


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    rows: list[list[object]] = []
    with torch.inference_mode():
        for name in GIVEN.core:
            shape = {"llada": llada, "opt": opt}[name]()
            for count in GIVEN.rows:
                rows += measured(shape, count)
            del shape
            torch.cuda.empty_cache()
    print(f"{machine()}, {datetime.now(UTC):%Y-%m-%d}, {PROMPT} tokens read, {TOKENS} written,")
    print(f"{GIVEN.steps} steps a block\n")
    print(table(["", "rows", "tokens/s", "peak GiB", "time added"], rows))


if __name__ == "__main__":
    main()
