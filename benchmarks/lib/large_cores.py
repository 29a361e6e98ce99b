"""Cores of 8B and 13B by random weights: alone, beside a small member, and a single pass of theirs, for a GPU."""

from __future__ import annotations

import warnings
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
from ssdcli.engine.drafting.drafter import Draft, Drafter
from ssdcli.engine.drafting.drafting import Drafting
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.characters import Characters
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.race import Race
from ssdcli.engine.sampling.reverse import Choice, ReverseProcess, reverse_process
from ssdcli.engine.steps import SamplerConfig, Step
from ssdcli.generation.trace import BlockTrace
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

    @property
    def suppressed(self) -> tuple[int, ...]:
        """The ids that are never text."""
        return (self.process.mask_id,) if isinstance(self.process, Masked) else ()

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
            suppressed=self.suppressed,
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
    """Llama-3-8B's shape, causal: texts of 64 tokens after 128 others; of drafts every fourth token is wrong."""
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
    """Passes, pace, GPU memory and waits inside a block, of the core alone and of both, of a causal one with drafts."""
    core, half, rows = shape.denoiser(), shape.hidden // 2, []
    fields: dict[str, Any] = {"block_size": BLOCK, "context": CONTEXT, "suppressed": shape.suppressed}
    member = random_denoiser(shape.process, shape.hidden, shape.layers, rank=half, **fields)
    names = [f"the core, {parameters(shape.core)}", f"and a member of {parameters(member.backbone)}", "and drafts"]
    both = [(core, 0.7), (member, 0.3)]
    for count in given.rows:
        reverse = shape.reverse(given.steps)
        runs = [writing(parts, count, reverse) for parts in ([(core, 1.0)], both)]
        if isinstance(shape.process, Masked) and shape.is_causal:
            runs.append(writing(both, count, reverse, Told.of(runs[1], shape.process)))
        taken = [(passes(run), memory(run), waiting(run)) for run in runs[:2]]
        taken += [(passes(run), memory(run), waits_a_step(run)) for run in runs[2:]]
        times = least(dict(zip(names, runs, strict=False)), given.rounds)
        alone = next(iter(times.values()))
        for (name, time), (steps, peak, waits) in zip(times.items(), taken, strict=True):
            pace = count * TOKENS / (time / 1000)
            rows.append([name, count, steps / TOKENS, pace, peak, f"{time / alone - 1:+.1%}", waits])
    return table(["", "rows", "passes a token", "tokens/s", "peak GiB", "time added", "waits inside a block"], rows)


def parameters(network: Any) -> str:
    """How many a network has, in millions."""
    return f"{sum(weight.numel() for weight in network.parameters()) / 1e6:,.3g}M"


def writing(
    parts: Sequence[tuple[Denoiser, float]], rows: int, reverse: ReverseProcess, drafter: Drafter | None = None
) -> Writing:
    """A function that writes TOKENS tokens after PROMPT others in so many rows, as `ssd generate`; no text ends before.

    Beside a causal core it is told which bytes its tokens are, here those of whole characters; elsewhere the host looks
    at these once a block.
    """
    members = tuple(Member(str(i), part, Constant(weight)) for i, (part, weight) in enumerate(parts))
    ensemble = Ensemble(members, average if any(part.abstains for part, _ in parts) else mix)
    config = SamplerConfig(BLOCK, TOKENS, (-1,), PICKER, device=DEVICE, over=lambda: [False] * rows)
    if reverse.from_left:
        whole = Characters(torch.zeros(8, reverse.process.vocabulary, dtype=torch.int8, device=DEVICE))
        drafting = Drafting() if drafter is None else Drafting((drafter,), (None,), BLOCK)
        config = replace(config, characters=whole, drafting=drafting)
    prompts = [[Prompt(list(range(5, 5 + PROMPT)))] * rows] * len(parts)

    def run(after: Callable[[Step], object] = id) -> None:
        trace = BlockTrace(ensemble, reverse.process, None)
        for step in sample(ensemble, reverse, prompts, list(range(rows)), config):
            after(step)
            if trace.take(step):
                trace.read()

    return run


@dataclass(frozen=True)
class Told:
    """Drafts the texts that it is told, (B, n) int64, but every fourth token wrongly."""

    texts: Tensor
    mask_id: int

    @classmethod
    def of(cls, run: Writing, process: Masked) -> Told:
        """The texts that a run without drafts writes."""
        blocks: list[Tensor] = []
        run(lambda step: blocks.append(step.canvas) if step.last else None)
        texts = torch.cat(blocks, dim=1).cpu()
        wrong, other = torch.arange(texts.shape[1]) % 4 == 3, torch.where(texts == 2, 3, 2)
        return cls(torch.where(wrong, other, texts), process.mask_id)

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: object) -> Draft:
        """What comes next in the texts; see `Drafter`."""
        known, last = (canvas != self.mask_id).sum(1, keepdim=True), self.texts.shape[1] - 1
        tokens = self.texts.gather(1, (race.start + known + torch.arange(count)).clamp(max=last))
        return Draft(tokens, torch.full(tokens.shape, 0.75))


def passes(run: Writing) -> int:
    """How many steps a run takes."""
    steps: list[int] = []
    run(lambda step: steps.append(step.index))
    return len(steps)


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


def waits_a_step(run: Writing) -> str:
    """How often the host waits for the device at a step inside a block, where it has to: with drafts once."""
    if DEVICE == "cpu":
        return "-"
    inside: list[bool] = []

    def after(step: Step) -> None:
        inside.append(step.index > 0)
        torch.cuda.set_sync_debug_mode("default" if step.last else "warn")

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(after)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    count = sum("synchronizing" in str(warning.message) for warning in caught)
    return f"{count / max(sum(inside), 1):.2f} a step"


def memory(run: Run) -> float:
    """The most GiB that tensors take on the GPU during a run; 0 on a CPU."""
    if DEVICE == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30
