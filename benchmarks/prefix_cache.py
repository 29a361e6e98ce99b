"""What does reading the prefix once a block cost a core with full attention, and what does it save? Prints tables.

The body of the starter is trained on as a masked model with full attention, since none can be had that is small;
speeds are those of a wider one with random weights.

Example: python -m benchmarks prefix_cache TRAIN.jsonl.gz --heldout HELDOUT.jsonl.gz --steps 1500
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.lib.tables import machine, table
from benchmarks.lib.timing import least
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.engine.denoiser import BlockCachedDenoiser, Denoiser, FullDenoiser
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.folder import load_backbone
from ssdcli.models.spec import CoreSpec
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import END_OF_TEXT, MASK, special_id

_BLOCK = 16
_WINDOW = 256
_RATE = 6e-4
_LEVELS = (1.0, 0.8, 0.6, 0.4, 0.2)
_PREFIXES = (64, 256, 1024)


@dataclass(frozen=True)
class Text:
    """Token ids of the two sides of a corpus, documents parted by the end of text."""

    train: Tensor
    heldout: Tensor
    mask: int
    vocabulary: int


def main() -> None:
    """Train, compare and time."""
    arguments = parsed()
    torch.manual_seed(0)
    text = read(arguments.train, arguments.heldout)
    print(f"{datetime.now(UTC).date()}, {machine()}; {' '.join(sys.argv[1:])}\n")
    model = adapted_starter(text)
    train(model, text, arguments.steps)
    model.eval().requires_grad_(False)
    pair = denoisers(model, text, 512)
    print("Held-out text, by noise level: loss of each in nats per hidden token, and agreement.\n")
    print(
        table(
            ["t", "exact", "cached", "cached - exact", "KL", "same argmax"], agreement(pair, text, arguments.canvases)
        )
    )
    print("\nA denoising step, and a block of 16 steps with its reading, in milliseconds (random weights, H 1024).\n")
    print(table(["prefix", "exact step", "cached step", "ratio", "exact block", "cached block", "ratio"], speeds(text)))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--canvases", type=int, default=200)
    return parser.parse_args()


def read(train: Path, heldout: Path) -> Text:
    """Tokenise both sides with the starter's tokenizer."""
    starter = Registry().find("starter")
    tokenizer = Tokenizer.from_file(str(starter.folder / "tokenizer.json"))
    end, mask = special_id(tokenizer, END_OF_TEXT), special_id(tokenizer, MASK)
    sides = []
    for path in (train, heldout):
        texts = [document.text for document in read_documents([str(path)], ReadReport())]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        sides.append(torch.tensor(np.concatenate([[end, *encoding.ids] for encoding in encoded])))
    return Text(sides[0], sides[1], mask, starter.manifest.vocabulary)


def adapted_starter(text: Text) -> Qwen3ForCausalLM:
    """The starter's body and embeddings in a native class with full attention."""
    starter = load_backbone(Registry().find("starter").folder)
    model = core(text, starter.config.hidden, starter.config.layers, starter.config.context)
    missing = model.model.load_state_dict(starter.body.state_dict(), strict=False).missing_keys
    assert missing == ["embed_tokens.weight"], missing
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(starter.embed(torch.arange(text.vocabulary)[None])[0])
    return model


def core(text: Text, hidden: int, layers: int, context: int) -> Qwen3ForCausalLM:
    """A model of the starter's kind, with full attention and random weights."""
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
        is_causal=False,
    )
    return Qwen3ForCausalLM(config)


def train(model: Qwen3ForCausalLM, text: Text, steps: int) -> None:
    """Train as LLaDA is used here: what is before a cut is clean, what is behind it is hidden with probability t."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.05)
    for step, tokens in enumerate(windows(text.train, steps, rows=8)):
        t = (torch.rand(1) + torch.arange(8) / 8).fmod(1).clamp(min=1e-2)[:, None]
        behind = torch.arange(_WINDOW) >= torch.randint(0, _WINDOW - _BLOCK, (8, 1))
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


def windows(tokens: Tensor, count: int, rows: int) -> Iterator[Tensor]:
    """Random windows: (rows, _WINDOW) int64 each."""
    for _ in range(count):
        starts = torch.randint(0, len(tokens) - _WINDOW, (rows, 1))
        yield tokens[starts + torch.arange(_WINDOW)]


def denoisers(model: Qwen3ForCausalLM, text: Text, context: int) -> dict[str, Denoiser]:
    """The exact way and the cached one around the same model."""
    spec = CoreSpec(
        family="adapted",
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


@torch.no_grad()
def agreement(pair: dict[str, Denoiser], text: Text, count: int) -> list[list[object]]:
    """Rows of the first table: the same canvases of held-out text, noised to each level, after 192 tokens."""
    rows: list[list[object]] = []
    canvases = list(windows(text.heldout, count // 8, rows=8))
    for t in _LEVELS:
        found = [compare(pair, tokens, t, seed) for seed, tokens in enumerate(canvases)]
        exact, cached, kl, same = (torch.cat(column) for column in zip(*found, strict=True))
        gap = cached - exact
        error = gap.std() / len(gap) ** 0.5
        difference = f"{gap.mean():+.4f} ± {error:.4f}"
        rows.append([t, exact.mean().item(), cached.mean().item(), difference, kl.mean().item(), same.mean().item()])
    return rows


def compare(pair: dict[str, Denoiser], tokens: Tensor, t: float, seed: int) -> tuple[Tensor, ...]:
    """Losses of both, KL and whether the likeliest tokens agree, at the hidden positions of one batch."""
    before, truth = tokens[:, :192], tokens[:, 192 : 192 + _BLOCK]
    process = pair["exact"].process
    canvas = process.corrupt(truth, torch.full(truth.shape, t), CounterNoise(range(seed * 8, seed * 8 + 8)))
    prompts = [Prompt(row) for row in before.tolist()]
    said = {name: one.denoise(canvas, t, None, one.start(prompts)) for name, one in pair.items()}
    hidden = canvas == text_mask(process)
    exact, cached = said["exact"][hidden], said["cached"][hidden]
    target = truth[hidden][:, None]
    finite = exact.masked_fill(exact == -torch.inf, 0)
    kl = (exact.exp() * (finite - cached.masked_fill(cached == -torch.inf, 0))).sum(-1)
    losses = [-log_p.gather(-1, target).squeeze(-1) for log_p in (exact, cached)]
    return losses[0], losses[1], kl, (exact.argmax(-1) == cached.argmax(-1)).float()


def text_mask(process: object) -> int:
    """The mask's id."""
    assert isinstance(process, Masked)
    return process.mask_id


@torch.no_grad()
def speeds(text: Text) -> list[list[object]]:
    """Rows of the second table."""
    pair = denoisers(core(text, hidden=1024, layers=8, context=2048).eval(), text, 2048)
    return [speed(pair, text, prefix) for prefix in _PREFIXES]


def speed(pair: dict[str, Denoiser], text: Text, prefix: int) -> list[object]:
    """A step and a block after so many tokens."""
    prompts = [Prompt(text.heldout[:prefix].tolist())]
    canvas = pair["exact"].process.prior(_BLOCK, CounterNoise([0]))

    def block(one: Denoiser, steps: int) -> None:
        prefixes = one.start(prompts)
        for _ in range(steps):
            one.denoise(canvas, 1.0, None, prefixes)

    read = {name: one.start(prompts) for name, one in pair.items()}
    steps = least({n: lambda n=n: pair[n].denoise(canvas, 1.0, None, read[n]) for n in pair}, rounds=5)
    blocks = least({n: lambda n=n: block(pair[n], 16) for n in pair}, rounds=2)
    return [prefix, *_ratio(steps), *_ratio(blocks)]


def _ratio(times: dict[str, float]) -> Sequence[object]:
    return times["exact"], times["cached"], times["exact"] / times["cached"]


if __name__ == "__main__":
    main()
