"""Autoregressive twins of the models made here: the same body, embeddings and training, read with a causal mask.

A twin is a `BlockDiffusionLM` without the parts that noise needs. The same trainer trains it on the same windows, but
to predict the next token; two twins mix their predictions token by token.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.lib.columns import Columns
from benchmarks.lib.gaps import Gap
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.split import SplitSettings
from ssdcli.data.token_store import StoreSettings, TokenStore, build_store
from ssdcli.data.windows import Corpus, Windows, WindowShape
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.packed import Packed
from ssdcli.evaluation.scored_text import ScoredText, heldout_texts
from ssdcli.generation.types import Options, Request
from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone, save_backbone
from ssdcli.models.core_traits import CoreTraits
from ssdcli.text.tokenizer import END_OF_TEXT, special_id
from ssdcli.training.assessment import measuring_seconds
from ssdcli.training.build import build, settled
from ssdcli.training.checkpoints import latest_checkpoint
from ssdcli.training.cross_entropy import head_cross_entropy
from ssdcli.training.objective import Objective
from ssdcli.training.plan import Budget, Plan
from ssdcli.training.settings import DEFAULT_MINUTES, TrainSettings
from ssdcli.training.trainer import ENDLESS, Hooks, Rates, SmallTrainer

_HELDOUT = 4096  # tokens of held-out text that are measured now and then during a training
_TOGETHER = 8  # windows that are predicted at once


def twin_of(config: BackboneConfig) -> BackboneConfig:
    """The shape of a model's twin, which is given neither noise levels nor earlier predictions."""
    return replace(config, timed=False, self_conditioned=False)


def traits_of(core: BlockDiffusionLM) -> CoreTraits:
    """What the twin of a core dictates to smaller ones."""
    return CoreTraits(core.embed(torch.arange(core.config.vocabulary)[None])[0], core.config.suppressed)


# Predictions


def hidden_states(model: BlockDiffusionLM, packed: Packed) -> Tensor:
    """Hidden states of packed texts, whose columns see themselves and those before them in their text: (B, T, H)."""
    columns = torch.arange(packed.length)
    own_text = packed.texts[:, :, None] == packed.texts[:, None, :]
    mask = own_text & (columns[None, :] <= columns[:, None])
    return model.encode(model.embed(packed.tokens), packed.positions, mask[:, None], None)


def log_p_next(model: BlockDiffusionLM, tokens: Tensor) -> Tensor:
    """Log p of the token after each: tokens (B, T) int64 to (B, T, V)."""
    packed = Packed.plain(tokens, torch.zeros_like(tokens))
    return torch.log_softmax(model.logits(hidden_states(model, packed)), dim=-1)


def mixed(log_ps: Sequence[Tensor], share: float) -> Tensor:
    """The mixture of two models' predictions, in which the second has this share."""
    parts = [(log_p, w) for log_p, w in zip(log_ps, (1 - share, share), strict=True) if w > 0]
    return mix([log_p for log_p, _ in parts], [w for _, w in parts])


def _losses(log_ps: Sequence[Tensor], targets: Tensor, shares: Sequence[float]) -> Tensor:
    """-log p of targets (N,) at each share, log_ps being (N, V): (N, W)."""
    own = targets[:, None]
    return torch.stack([-mixed(log_ps, share).gather(-1, own).squeeze(-1) for share in shares], dim=-1)


# Training


class NextToken(nn.Module):
    """A backbone that returns its loss on the next tokens; it has what the trainer asks of an `Objective`."""

    def __init__(self, backbone: BlockDiffusionLM) -> None:
        """`progress` is set by the trainer and not used."""
        super().__init__()
        self.backbone = backbone
        self.progress = 0.0

    def forward(self, columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """Mean nats per predicted token: the fields of `Packed`; index (B,) int64 is not used."""
        packed = Packed(**columns)
        hidden = self.backbone.to_rank(hidden_states(self.backbone, packed)[:, :-1])
        follows = packed.texts[:, 1:] == packed.texts[:, :-1]
        due = (follows & packed.scored[:, 1:]).reshape(-1).nonzero().squeeze(1)
        targets = packed.tokens[:, 1:].reshape(-1)[due]
        scored, never = hidden.flatten(0, 1)[due], self.backbone.vocabulary.muted
        total = head_cross_entropy(scored, self.backbone.head, targets, torch.ones(len(due)), never)
        return total / max(1, len(due))


@dataclass(frozen=True)
class Twin:
    """What a twin begins from: its shape, its tokenizer, and the embeddings that it inherits, if any."""

    config: BackboneConfig
    tokenizer: Path
    traits: CoreTraits | None = None


@dataclass(frozen=True)
class Made:
    """A trained twin as it is stored.

    kept: the step whose weights these are, None for the last.
    heldout: nats per token of its own held-out text.
    """

    model: BlockDiffusionLM
    steps: int
    tokens: int
    kept: int | None
    heldout: float


def train_causal(settings: TrainSettings, twin: Twin, folder: Path, clock: Callable[[], float]) -> Made:
    """Train a twin as `train_small` trains with these settings, and save it; an interrupted training is resumed.

    clock: in seconds, by which `minutes` are counted. The workspace is beside the folder.
    """
    began, workspace = clock(), folder.with_suffix(".work")
    workspace.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(twin.tokenizer))
    store = _store(settings, workspace / "tokens", tokenizer)
    settings = settled(settings, store.info.train.tokens)
    assert settings.batch_tokens is not None
    assert settings.learning_rate is not None
    objective = NextToken(build(twin.config, twin.traits, None, settings.seed))
    length = twin.config.context
    batch = max(1, settings.batch_tokens // length)
    windows = Windows(Corpus.of(store), WindowShape(length, 1), settings.seed, batch * ENDLESS)
    rates = Rates(settings.optimizer, settings.learning_rate, settings.weight_decay, batch, settings.seed)
    plan = _plan(settings, store.info.train.tokens / (batch * length), clock, began)
    trainer = SmallTrainer(cast(Objective, objective), windows, plan, rates, workspace)
    chosen = heldout_texts(store, tokenizer, _HELDOUT)
    hooks = Hooks(
        measure=lambda: _heldout(objective.backbone, chosen),
        checkpoint_every=settings.checkpoint_seconds,
        patience=settings.patience,
    )
    trainer.run(hooks, latest_checkpoint(workspace))
    folder.mkdir(exist_ok=True)
    save_backbone(trainer.whole(), folder)
    shutil.copyfile(twin.tokenizer, folder / "tokenizer.json")
    shutil.rmtree(workspace)
    steps, model = trainer.state.global_step, load_backbone(folder)
    return Made(model, steps, steps * batch * length, trainer.kept, _heldout(model, chosen))


def _store(settings: TrainSettings, folder: Path, tokenizer: Tokenizer) -> TokenStore:
    """The tokens on disk, split as for a diffusion model with these settings."""
    if TokenStore.is_finished(folder):
        return TokenStore.open(folder)
    report = ReadReport()
    how = StoreSettings(special_id(tokenizer, END_OF_TEXT), split=SplitSettings(settings.seed, settings.heldout))
    return build_store(read_documents(settings.data, report), tokenizer, folder, how, report)


def _plan(settings: TrainSettings, steps_a_pass: float, clock: Callable[[], float], began: float) -> Plan:
    """So many steps if they are given, else minutes, of which as much is kept for measuring as in any training."""
    if settings.steps is not None:
        return Plan(Budget(steps=settings.steps), settings.warmup, settings.decay, clock=clock)
    seconds = 60 * (settings.minutes or DEFAULT_MINUTES)
    budget = Budget(seconds=seconds, most=math.ceil(settings.passes * steps_a_pass))
    return Plan(budget, settings.warmup, settings.decay, clock() - began + measuring_seconds(settings), clock)


def _heldout(model: BlockDiffusionLM, chosen: Sequence[ScoredText]) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
        return text_losses((model, model), chosen, [0.0], model.context).loss(0)[0]


# Measuring


@torch.no_grad()
def text_losses(
    models: Sequence[BlockDiffusionLM], chosen: Sequence[ScoredText], shares: Sequence[float], window: int
) -> Columns:
    """-log p of held-out documents under two models at each share of the second.

    Windows of `window` tokens, as in `measure`; each is also shown the last token of the window before it.
    """
    sums = np.zeros((len(chosen), len(shares)))
    windows = [
        (document, list(map(int, scored_text.tokens[max(0, start - 1) : start + window])))
        for document, scored_text in enumerate(chosen)
        for start in range(0, len(scored_text.tokens), window)
    ]
    windows = [(document, tokens) for document, tokens in windows if len(tokens) > 1]
    for first in range(0, len(windows), _TOGETHER):
        batch = windows[first : first + _TOGETHER]
        rows, counts = _padded([tokens for _, tokens in batch])
        counts = counts[:, 1:]
        losses = torch.zeros(*counts.shape, len(shares))
        log_ps = [log_p_next(model, rows[:, :-1])[counts] for model in models]
        losses[counts] = _losses(log_ps, rows[:, 1:][counts], shares)
        np.add.at(sums, [document for document, _ in batch], losses.sum(1).numpy())
    return Columns(sums, np.array([len(scored_text.tokens) - 1 for scored_text in chosen]))


@torch.no_grad()
def gap_losses(models: Sequence[BlockDiffusionLM], gaps: Sequence[Gap], shares: Sequence[float]) -> Columns:
    """-log p of the gaps' text after what is left of it, which is all that such models see, at each share."""
    documents, rows = np.unique([gap.document for gap in gaps], return_inverse=True)
    sums = np.zeros((len(documents), len(shares)))
    for row, gap in zip(rows, gaps, strict=True):
        tokens = torch.tensor([[*gap.before, *gap.canvas[: gap.length]]])
        log_ps = [log_p_next(model, tokens[:, :-1])[0, -gap.length :] for model in models]
        sums[row] += _losses(log_ps, tokens[0, -gap.length :], shares).sum(0).numpy()
    return Columns(sums, np.bincount(rows, [gap.length for gap in gaps]))


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows padded on the right, where no text sees it, and which columns are text: (B, T) each."""
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return tokens, torch.arange(width) < torch.tensor([[len(row)] for row in rows])


# Writing


@dataclass(frozen=True)
class Text:
    """What was written."""

    text: str


@dataclass(frozen=True)
class CausalWriter:
    """Two twins that write together, the second with a share; it has what `demo.recall` asks of a `Writer`."""

    models: tuple[BlockDiffusionLM, BlockDiffusionLM]
    share: float
    tokenizer: Tokenizer

    def generate_batch(self, requests: Sequence[Request], options: Options) -> list[Text]:
        """The likeliest token after each prompt, again and again."""
        return [Text(self._written(request.prompt, options.max_tokens)) for request in requests]

    def score(self, prompt: str, endings: Sequence[str]) -> list[float]:
        """How likely each ending is right after the prompt: log-probability in nats per token."""
        before = self._read(prompt)
        rows, real = _padded([[*before, *self._encoded(ending)] for ending in endings])
        due = real[:, 1:] & (torch.arange(1, rows.shape[1]) >= len(before))
        log_p = self._next(rows[:, :-1]).gather(-1, rows[:, 1:, None]).squeeze(-1)
        scores: list[float] = ((log_p * due).sum(1) / due.sum(1)).tolist()
        return scores

    def _written(self, prompt: str, most: int) -> str:
        tokens, end = self._read(prompt), special_id(self.tokenizer, END_OF_TEXT)
        start = len(tokens)
        while len(tokens) < start + most:
            following = int(self._next(torch.tensor([tokens]))[0, -1].argmax())
            if following == end:
                break
            tokens.append(following)
        return str(self.tokenizer.decode(tokens[start:]))

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _read(self, prompt: str) -> list[int]:
        """As `ssd` reads it: text from anywhere in a document, or else the beginning of one."""
        return self._encoded(prompt) or [special_id(self.tokenizer, END_OF_TEXT)]

    @torch.no_grad()
    def _next(self, tokens: Tensor) -> Tensor:
        return mixed([log_p_next(model, tokens) for model in self.models], self.share)


# As transformers knows it


def save_for_transformers(model: BlockDiffusionLM, tokenizer: Path, folder: Path) -> None:
    """Save a twin, whose table must be as wide as its body, as the Qwen3 that it is, with a copy of its tokenizer."""
    native: Any = model.body.config
    own = native.to_dict() | {
        "vocab_size": model.config.vocabulary,
        "is_causal": True,
        "tie_word_embeddings": True,
        "architectures": ["Qwen3ForCausalLM"],
    }
    twin: Any = Qwen3ForCausalLM(Qwen3Config(**own))
    twin.model.load_state_dict(model.body.state_dict() | {"embed_tokens.weight": model.table})
    twin.save_pretrained(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
