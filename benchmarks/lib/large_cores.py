"""Cores of 8B and 13B by random weights: alone, beside a small member, and a single pass of theirs, for a GPU."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from benchmarks.lib.models import CONSTANTS, DEVICE, random_denoiser
from benchmarks.lib.tables import table
from benchmarks.lib.timing import Run, least
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice, ReverseProcess, reverse_process
from ssdcli.engine.steps import SamplerConfig, Step
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.loading import make_denoiser

PICKER = Picker(top_p=0.95)
Writing = Callable[..., None]  # writes a text; given a function, it is called after each step
BLOCK, CONTEXT, PROMPT, TOKENS = 32, 512, 128, 64  # of texts


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


def llama(given: Namespace) -> Shape:
    """Llama-3-8B's, causal."""
    sizes: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    sizes |= {"vocab_size": 128256}
    if given.quick:
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 1280}
    sizes |= {"num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 5e5}
    member = (64, 2) if given.quick else (512, 14)
    return Shape.of("masked", LlamaForCausalLM, LlamaConfig(**sizes), member, "autoregressive")


def beside_llama(given: Namespace) -> str:
    """Llama-3-8B's shape, causal, a token a step: texts of 64 tokens after 128 others."""
    return with_a_member(llama(given), given)


def decode_pass(given: Namespace) -> str:
    """A pass that predicts a token of Llama-3-8B's shape after 128 others, launched and replayed by a CUDA graph."""
    shape = llama(given)
    core, rows = shape.denoiser(), []
    assert isinstance(shape.process, Masked)
    for count in given.rows:
        prefixes = core.start([Prompt(list(range(5, 5 + PROMPT)))] * count)
        canvas = torch.full((count, BLOCK), shape.process.mask_id, device=DEVICE)
        canvas[:, : BLOCK // 2] = 7
        launched = partial(core.denoise, canvas, 0.5, None, prefixes)
        try:
            replayed = captured(launched)
        except RuntimeError as error:
            rows.append([count, least({"": launched}, given.rounds)[""], "-", "-", str(error).partition("\n")[0]])
            continue
        same = torch.equal(launched().nan_to_num(1.0), replayed().nan_to_num(1.0))
        one, other = least({"launched": launched, "replayed": replayed}, given.rounds).values()
        rows.append([count, one, other, f"{one / other:.2f}", "yes" if same else "no"])
    return table(["rows", "launched, ms", "replayed, ms", "gain", "the same"], rows)


def captured(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A run of fixed shapes as a CUDA graph, RuntimeError if it waits for the device; on a CPU the run itself."""
    if DEVICE == "cpu":
        return run
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # what is done at the first runs alone must not be captured
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


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
