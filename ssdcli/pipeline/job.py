"""One training as a job that can be interrupted at any moment and taken up again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ssdcli.errors import Interrupted, SsdError
from ssdcli.evaluation.losses import LossSettings, measure
from ssdcli.models.hardware import has_fast_bf16
from ssdcli.pipeline.finish import Trained, finish
from ssdcli.pipeline.measured import measuring_seconds
from ssdcli.pipeline.prepare import Prepared, passages, prepare
from ssdcli.pipeline.saved import check_free, claimed, save
from ssdcli.registry.files import disk_errors
from ssdcli.registry.store import Registry
from ssdcli.training.infill import Infilling
from ssdcli.training.objective import Objective
from ssdcli.training.plan import Budget, Plan
from ssdcli.training.settings import DEFAULT_MINUTES, TrainSettings
from ssdcli.training.trainer import (
    ENDLESS,
    Hooks,
    Progress,
    Rates,
    SmallTrainer,
    latest_checkpoint,
)
from ssdcli.training.windows import Windows


@dataclass(frozen=True)
class Watcher:
    """How a caller follows a training and stops it; every call is made from the training's own thread."""

    on_prepared: Callable[[Prepared], None] = lambda _: None
    on_progress: Callable[[Progress], None] = lambda _: None
    on_measuring: Callable[[], None] = lambda: None
    wants_stop: Callable[[], bool] = lambda: False


def train_small(
    settings: TrainSettings,
    watcher: Watcher | None = None,
    *,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> Trained:
    """Train a small model (or, for the core `none`, a core) from the user's text and register it.

    An unfinished training of the same name and settings is taken up where its last checkpoint left it. Raises
    UsageError for what cannot be right, SsdError for text or a disk that will not do, Interrupted when the watcher
    wants to stop; in all cases what was there before is still there.
    """
    began = time.monotonic()
    watcher = watcher or Watcher()
    registry = registry or Registry()
    settings.check()
    check_free(registry, settings.name, overwrite=overwrite)
    with claimed(registry, settings.name) as workspace, disk_errors(registry.home):
        prepared = _prepare(settings, registry)
        watcher.on_prepared(prepared)
        trainer = _train(prepared, watcher, began)
        watcher.on_measuring()
        trained = finish(prepared, trainer, registry, overwrite)
        shutil.rmtree(workspace)
    return trained


def _prepare(settings: TrainSettings, registry: Registry) -> Prepared:
    """Prepare a training, and keep its settings with the size that was chosen; a bad start leaves nothing behind."""
    workspace = registry.workspace(settings.name)
    save(workspace, settings)
    try:
        prepared = prepare(settings, registry)
    except SsdError:
        if latest_checkpoint(workspace) is None:
            shutil.rmtree(workspace)
        raise
    save(workspace, prepared.settings)
    return prepared


def _train(prepared: Prepared, watcher: Watcher, began: float) -> SmallTrainer:
    settings, config = prepared.settings, prepared.model.config
    batch = max(1, settings.batch_tokens // config.context)
    windows = Windows(prepared.store.train, config.context, settings.seed, batch * ENDLESS)
    rates = Rates(settings.learning_rate, settings.weight_decay, batch, settings.seed)
    objective = Objective(prepared.model, prepared.process, settings.seed, _infilling(prepared))
    trainer = SmallTrainer(objective, windows, _plan(settings, began), rates, prepared.workspace)
    hooks = Hooks(watcher.on_progress, watcher.wants_stop, _heldout_measure(prepared), settings.checkpoint_seconds)
    if not trainer.run(hooks, latest_checkpoint(prepared.workspace)):
        raise Interrupted(
            f"the training of '{settings.name}' was stopped; its checkpoint is kept.",
            f"Go on with 'ssd train-small --resume --name {settings.name}'.",
        )
    return trainer


def _infilling(prepared: Prepared) -> Infilling | None:
    """The gaps of the training, if it has any."""
    share = prepared.settings.gap_share
    return Infilling(share, prepared.end) if share > 0 else None


def _plan(settings: TrainSettings, began: float) -> Plan:
    """Steps if they were given, else minutes: what came before the training and the measuring after it count."""
    if settings.minutes is None and settings.steps is not None:
        return Plan(Budget(steps=settings.steps), settings.warmup, settings.decay)
    seconds = 60 * (settings.minutes or DEFAULT_MINUTES)
    overhead = time.monotonic() - began + measuring_seconds(settings)
    return Plan(Budget(seconds=seconds), settings.warmup, settings.decay, overhead)


def _heldout_measure(prepared: Prepared) -> Callable[[], float]:
    """Held-out loss of the model in training, on a few passages and always the same noise."""
    chosen = passages(prepared.store, prepared.tokenizer, limit=4096)
    settings = LossSettings(prepared.model.config.context, repeats=1)

    def measured() -> float:
        device = prepared.model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or has_fast_bf16()):
            losses = measure([prepared.model], prepared.process, chosen, [1.0], settings)
        return float(losses.nats_per_token()[0])

    return measured
