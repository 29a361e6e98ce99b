"""What does reading the prefix once a block cost a core with full attention, and what does it save?

    python -m benchmarks prefix_cache TRAIN.jsonl.gz --heldout HELDOUT.jsonl.gz --steps 1500

No full-attention model is small enough for this machine, so the body of the starter is trained further as a masked
model with full attention; speeds are those of a wider one with random weights.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.lib.corpora import encode, read_texts
from benchmarks.lib.models import Model
from benchmarks.lib.tables import heading, signed, table
from benchmarks.lib.timing import least
from ssdcli.engine.denoiser import BlockCachedDenoiser, Denoiser, FullDenoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.core_spec import CoreSpec
from ssdcli.registry.store import STARTER
from ssdcli.text.tokenizer import MASK, special_id

QUICK = {"steps": 10, "canvases": 8, "prefixes": (64,)}
_BLOCK, _WINDOW, _BEFORE, _ROWS = 16, 256, 192, 8
_RATE = 6e-4
_LEVELS = (1.0, 0.8, 0.6, 0.4, 0.2)


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("train")
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--canvases", type=int, default=200)
    parser.add_argument(
        "--prefixes", type=int, nargs="+", default=(64, 256, 1024), help="tokens, where speeds are taken"
    )


def main(given: Namespace) -> None:
    """Train, compare and time."""
    torch.manual_seed(0)
    text = Text.read(given)
    model = adapted_starter(text)
    train(model, text, given.steps)
    model.eval().requires_grad_(False)
    print(f"{heading()}\n\nHeld-out text, by noise level: loss of each in nats per hidden token, and agreement.\n")
    header = ["t", "exact", "cached", "cached - exact", "KL", "same argmax"]
    print(table(header, agreement(denoisers(model, text, 512), text, given.canvases)))
    print("\nA denoising step, and a block of 16 steps with its reading, in milliseconds (random weights, H 1024).\n")
    header = ["prefix", "exact step", "cached step", "ratio", "exact block", "cached block", "ratio"]
    wide = denoisers(random_core(text, hidden=1024, layers=8, context=2048).eval(), text, 2048)
    print(table(header, [speed(wide, text, prefix) for prefix in given.prefixes]))


@dataclass(frozen=True)
class Text:
    """Token ids of the two sides of a corpus, documents separated by the end of text, for the starter."""

    train: Tensor
    heldout: Tensor
    mask: int
    vocabulary: int

    @classmethod
    def read(cls, given: Namespace) -> Text:
        """Tokenise both sides."""
        starter = Model.named(STARTER)
        train, heldout = (
            torch.tensor(np.concatenate([[starter.end, *ids] for ids in encode(read_texts(path), starter.tokenizer)]))
            for path in (given.train, given.heldout)
        )
        return cls(train, heldout, special_id(starter.tokenizer, MASK), starter.manifest.vocabulary)


# The core


def adapted_starter(text: Text) -> Qwen3ForCausalLM:
    """The starter's body and embeddings in a native class with full attention."""
    starter = load_backbone(Model.named(STARTER).folder)
    model = random_core(text, starter.config.hidden, starter.config.layers, starter.config.context)
    missing = model.model.load_state_dict(starter.body.state_dict(), strict=False).missing_keys
    assert missing == ["embed_tokens.weight"], missing
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(starter.embed(torch.arange(text.vocabulary)[None])[0])
    return model


def random_core(text: Text, hidden: int, layers: int, context: int) -> Qwen3ForCausalLM:
    """A model of the starter's kind, with full attention and random weights."""
    rest: dict[str, Any] = {"is_causal": False}
    config = Qwen3Config(
        vocab_size=text.vocabulary,
        hidden_size=hidden,
        intermediate_size=math.ceil(hidden * 8 / 3 / 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        **rest,
    )
    return Qwen3ForCausalLM(config)


def train(model: Qwen3ForCausalLM, text: Text, steps: int) -> None:
    """Train as LLaDA is used here: what is before a cut is clean, what is behind it is hidden with probability t."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.05)
    for step, tokens in enumerate(windows(text.train, steps)):
        t = (torch.rand(1) + torch.arange(_ROWS) / _ROWS).fmod(1).clamp(min=1e-2)[:, None]
        behind = torch.arange(_WINDOW) >= torch.randint(0, _WINDOW - _BLOCK, (_ROWS, 1))
        hidden = behind & (torch.rand(tokens.shape) < t)
        with torch.autocast("cpu", torch.bfloat16):
            states = model.model(torch.where(hidden, text.mask, tokens)).last_hidden_state[hidden]
            logits = model.lm_head(states).float()
        losses = torch.nn.functional.cross_entropy(logits, tokens[hidden], reduction="none")
        loss = (losses / t.expand_as(hidden)[hidden]).sum() / behind.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.3f}", file=sys.stderr)


def windows(tokens: Tensor, count: int) -> Iterator[Tensor]:
    """Random windows: (_ROWS, _WINDOW) int64 each."""
    for _ in range(count):
        starts = torch.randint(0, len(tokens) - _WINDOW, (_ROWS, 1))
        yield tokens[starts + torch.arange(_WINDOW)]


def denoisers(model: Qwen3ForCausalLM, text: Text, context: int) -> dict[str, Denoiser]:
    """The exact way and the cached one around the same model."""
    spec = CoreSpec(
        process="masked",
        constants={"mask_id": text.mask},
        attention="full",
        block_size=_BLOCK,
        context=context,
        ends=(0,),
        suppressed=(text.mask,),
    )
    backbone, process = NativeBackbone(model, spec), Masked(text.vocabulary, text.mask)
    return {"exact": FullDenoiser(backbone, process), "cached": BlockCachedDenoiser(backbone, process)}


# What is compared


@torch.no_grad()
def agreement(pair: Mapping[str, Denoiser], text: Text, count: int) -> list[list[object]]:
    """Rows of the first table: the same canvases of held-out text, noised to each level."""
    rows: list[list[object]] = []
    canvases = list(windows(text.heldout, count // _ROWS))
    for t in _LEVELS:
        found = [compare(pair, tokens, t, text.mask, seed) for seed, tokens in enumerate(canvases)]
        exact, cached, kl, same = (torch.cat(column) for column in zip(*found, strict=True))
        apart = cached - exact
        difference = signed(float(apart.mean()), float(apart.std() / len(apart) ** 0.5))
        rows.append([t, exact.mean().item(), cached.mean().item(), difference, kl.mean().item(), same.mean().item()])
    return rows


def compare(pair: Mapping[str, Denoiser], tokens: Tensor, t: float, mask: int, seed: int) -> tuple[Tensor, ...]:
    """Losses of both, KL and whether the likeliest tokens agree, at the hidden positions of one batch."""
    before, truth = tokens[:, :_BEFORE], tokens[:, _BEFORE : _BEFORE + _BLOCK]
    noise = CounterNoise(range(seed * _ROWS, seed * _ROWS + _ROWS))
    canvas = pair["exact"].process.corrupt(truth, torch.full(truth.shape, t), noise)
    prompts, hidden = [Prompt(row) for row in before.tolist()], canvas == mask
    exact, cached = (one.denoise(canvas, t, None, one.start(prompts))[hidden] for one in pair.values())
    finite = exact.masked_fill(exact == -torch.inf, 0)
    kl = (exact.exp() * (finite - cached.masked_fill(cached == -torch.inf, 0))).sum(-1)
    losses = [-log_p.gather(-1, truth[hidden][:, None]).squeeze(-1) for log_p in (exact, cached)]
    return *losses, kl, (exact.argmax(-1) == cached.argmax(-1)).float()


@torch.no_grad()
def speed(pair: Mapping[str, Denoiser], text: Text, prefix: int) -> Sequence[object]:
    """A row of the second table: a step, and a block of 16, after so many tokens."""
    prompts = [Prompt(text.heldout[:prefix].tolist())]
    canvas = pair["exact"].process.prior(_BLOCK, CounterNoise([0]))

    def block(one: Denoiser) -> None:
        prefixes = one.start(prompts)
        for _ in range(16):
            one.denoise(canvas, 1.0, None, prefixes)

    runs = {name: partial(one.denoise, canvas, 1.0, None, one.start(prompts)) for name, one in pair.items()}
    times = least(runs, rounds=5), least({name: partial(block, one) for name, one in pair.items()}, rounds=2)
    return [prefix, *(cell for ms in times for cell in (ms["exact"], ms["cached"], ms["exact"] / ms["cached"]))]
