"""From a person's text to a registered small model: read, train, measure, register."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ssdcli.engine.process import Process, make_process
from ssdcli.errors import Interrupted, SsdError, UsageError
from ssdcli.evaluation.losses import LossSettings, Passage, measure
from ssdcli.models.backbone import BackboneConfig, BlockDiffusionLM
from ssdcli.models.folder import load_backbone
from ssdcli.registry.store import Entry, Registry
from ssdcli.training.build import build, choose_preset, shape
from ssdcli.training.corpus import SplitSettings
from ssdcli.training.documents import ReadReport
from ssdcli.training.objective import Objective
from ssdcli.training.plan import Budget, Plan
from ssdcli.training.readers import read_documents
from ssdcli.training.settings import TrainSettings
from ssdcli.training.tokenizer import END_OF_TEXT, MASK, PAD, train_tokenizer
from ssdcli.training.tokens import StoreSettings, TokenStore, build_store
from ssdcli.training.trainer import ENDLESS, Hooks, Rates, SmallTrainer, has_fast_bf16, latest_checkpoint
from ssdcli.training.windows import Windows

_JOB = "job.json"
_TOKENS = "tokens"
_TOKENIZER = "tokenizer.json"
NO_CORE = "none"
_PASSAGE = 1024  # tokens of a held-out document that are measured


@dataclass(frozen=True)
class Parent:
    """The core that a small model is made for."""

    entry: Entry
    backbone: BlockDiffusionLM


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs, read and built."""

    settings: TrainSettings
    workspace: Path
    tokenizer: Tokenizer
    store: TokenStore
    process: Process
    model: BlockDiffusionLM
    size: str | None
    parent: Parent | None


def prepare(settings: TrainSettings, registry: Registry) -> Prepared:
    """Read the data, take from the core what must fit it, and build the model."""
    workspace = registry.workspace(settings.name)
    parent = _parent(settings, registry)
    tokenizer = _tokenizer(settings, workspace, parent)
    store = _store(settings, workspace, tokenizer)
    process = _process(settings, tokenizer, parent)
    never = tuple(tokenizer.token_to_id(token) for token in (MASK, PAD)) if parent is None else ()
    preset = choose_preset(settings, store.info.train.tokens)
    config = shape(settings, preset, None if parent is None else parent.backbone.config, never)
    model = build(config, None if parent is None else parent.backbone, settings.seed)
    custom = settings.hidden is not None or settings.layers is not None
    return Prepared(settings, workspace, tokenizer, store, process, model, None if custom else preset.name, parent)


def _parent(settings: TrainSettings, registry: Registry) -> Parent | None:
    if settings.core == NO_CORE:
        return None
    entry = registry.find(settings.core)
    if entry.manifest.kind != "core":
        raise UsageError(f"'{settings.core}' is not a core but of kind '{entry.manifest.kind}'.", "Name a core with --for.")
    return Parent(entry, load_backbone(entry.folder))


def _tokenizer(settings: TrainSettings, workspace: Path, parent: Parent | None) -> Tokenizer:
    """The core's tokenizer, or one learned from the data when there is no core."""
    if parent is not None:
        return Tokenizer.from_file(str(parent.entry.folder / _TOKENIZER))
    path = workspace / _TOKENIZER
    if not path.exists():
        if "-" in settings.data:
            raise UsageError("a core's data is read twice, which standard input cannot be.", "Give it as a file.")
        texts = (document.text for document in read_documents(settings.data, ReadReport()))
        train_tokenizer(texts, settings.vocabulary).save(str(path))
    return Tokenizer.from_file(str(path))


def _store(settings: TrainSettings, workspace: Path, tokenizer: Tokenizer) -> TokenStore:
    """The tokens on disk, from an earlier start of the same training if there was one."""
    folder = workspace / _TOKENS
    if TokenStore.is_finished(folder):
        return TokenStore.open(folder)
    if not settings.data:
        raise UsageError("no data was named.", "Give files or folders of text, or - for standard input.")
    split = SplitSettings(settings.seed, settings.heldout)
    report = ReadReport()
    documents = read_documents(settings.data, report)
    return build_store(documents, tokenizer, folder, StoreSettings(tokenizer.token_to_id(END_OF_TEXT), split), report)


def _process(settings: TrainSettings, tokenizer: Tokenizer, parent: Parent | None) -> Process:
    if parent is not None:
        manifest = parent.entry.manifest
        return make_process(manifest.process, manifest.vocabulary, manifest.constants)
    constants = {"simplex": {"K": 5.0, "s": 1e-4}, "masked": {"mask_id": float(tokenizer.token_to_id(MASK))}}
    if settings.process not in constants:
        raise UsageError(f"there is no process '{settings.process}'.", f"The processes are {', '.join(constants)}.")
    return make_process(settings.process, settings.vocabulary, constants[settings.process])


def passages(store: TokenStore, tokenizer: Tokenizer, limit: int) -> list[Passage]:
    """Held-out documents in the store's order until `limit` tokens are reached; of a long one, the beginning."""
    chosen: list[Passage] = []
    left = limit
    for start, stop, size in store.heldout_documents:
        if left <= 0:
            break
        end = min(stop, start + _PASSAGE)
        tokens = store.heldout[start - 1 : end].tolist()
        chosen.append(Passage(tokens, size if end == stop else len(tokenizer.decode(tokens[1:]).encode())))
        left -= len(tokens)
    return chosen


def train(prepared: Prepared, hooks: Hooks, overhead: float) -> SmallTrainer:
    """Run the training, from its last checkpoint if there is one; Interrupted if the caller stopped it."""
    settings, config = prepared.settings, prepared.model.config
    batch = max(1, settings.batch_tokens // config.context)
    steps = settings.steps if settings.minutes is None else None
    seconds = settings.minutes * 60 if settings.minutes is not None else None
    plan = Plan(Budget(steps, seconds), settings.warmup, settings.decay, overhead)
    windows = Windows(prepared.store.train, config.context, settings.seed, batch * ENDLESS)
    rates = Rates(settings.learning_rate, settings.weight_decay, batch, settings.seed)
    objective = Objective(prepared.model, prepared.process, settings.seed)
    trainer = SmallTrainer(objective, windows, plan, rates, prepared.workspace)
    if not trainer.run(hooks, latest_checkpoint(prepared.workspace)):
        raise Interrupted(
            f"the training of '{settings.name}' was stopped, and nothing is lost.",
            f"Go on with: ssd train-small --resume --name {settings.name}",
        )
    return trainer
