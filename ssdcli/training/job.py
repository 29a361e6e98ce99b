"""A training from its settings to a registered model: prepare, train, measure, write; resumable at any moment."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ssdcli.data.canaries import FILE as CANARIES
from ssdcli.data.infilling import Infilling
from ssdcli.data.windows import Corpus, Windows, WindowShape
from ssdcli.errors import Interrupted, SsdError, UsageError
from ssdcli.evaluation.losses import Losses
from ssdcli.machine.distributed import barrier, from_rank_zero, is_rank_zero, rank_zero_first, world_size
from ssdcli.machine.hardware import look
from ssdcli.machine.threads import same_threads
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.models.memory.memory_files import Memory, save_memory
from ssdcli.registry.archive import REPORT, TRAINED_DOCUMENTS
from ssdcli.registry.disk import disk_errors
from ssdcli.registry.manifest import TOKENIZER, write_manifest
from ssdcli.registry.store import Registry
from ssdcli.reports.charts import loss_curve, to_svg, weight_sweep
from ssdcli.reports.description import Description, metrics_lines
from ssdcli.reports.rendering import model_card, report
from ssdcli.text.chat_template import copy_chat
from ssdcli.training.assessment import assess, measured_texts, measuring_seconds
from ssdcli.training.causal_objective import Borders, CausalObjective, SmallCausalObjective, TaughtObjective
from ssdcli.training.checkpoints import latest_checkpoint, writes_weights
from ssdcli.training.cloze_states import ClozeStates, cloze_states, next_words
from ssdcli.training.core_states import CoreStates, StateSamples, remark_on_room
from ssdcli.training.describe import describe, recipe
from ssdcli.training.heldout_loss import heldout_measure
from ssdcli.training.lessons import Lessons, LessonWindows, read_lessons
from ssdcli.training.memory_text import memory_of
from ssdcli.training.objective import Objective
from ssdcli.training.plan import Budget, Grant, Plan
from ssdcli.training.prepare import Prepared, prepare
from ssdcli.training.recalling import core_texts, learn_recall
from ssdcli.training.settings import DEFAULT_MINUTES, READING, TrainSettings
from ssdcli.training.side_objective import SampledIds, SideObjective
from ssdcli.training.teacher import open_teacher
from ssdcli.training.trainer import (
    ENDLESS,
    Hooks,
    Progress,
    Rates,
    Samples,
    SmallTrainer,
    TrainingObjective,
)
from ssdcli.training.unfinished import check_free, claimed, save_settings, saved_settings, undone_if_refused

Clock = Callable[[], float]

_APART = 4  # steps between measurements by a core that is trained, at least
_WRITING = 0.25  # share of the minutes in which a core may write lessons
_READING_AT_END = 0.3  # share of the minutes in which it then reads the text and compares its states,
_READ_AT_END = 0.8  # and of all of them after which it reads no more
_ONE_HOME = "Give all processes one SSD_HOME, on a file system that they share."


@dataclass(frozen=True)
class Trained:
    """A finished training.

    folder: of the registered model.
    description: of the model and its training.
    losses: on held-out text; where a weight was chosen, the columns are the small model's weights from 0 (the core
        alone) to 1 (itself alone), else the single column is the model alone.
    """

    folder: Path
    description: Description
    losses: Losses


@dataclass(frozen=True)
class Watcher:
    """How a caller follows a training and stops it; all calls are made from the training's own thread.

    on_prepared: called before the first step, with the report of what was read, and what is trained.
    on_progress: called after every step.
    on_reading: called while the core reads the text, with the documents that it has read and how many there are.
    on_comparing: called while it is learned which of the core's states are alike, with the steps taken and of all.
    on_measuring: called after the last step.
    wants_stop: asked after every step, and while the core reads the text.
    """

    on_prepared: Callable[[Sequence[str], str], None] = lambda _report, _what: None
    on_progress: Callable[[Progress], None] = lambda _: None
    on_reading: Callable[[int, int], None] = lambda _done, _all: None
    on_comparing: Callable[[int, int], None] = lambda _done, _all: None
    on_measuring: Callable[[], None] = lambda: None
    wants_stop: Callable[[], bool] = lambda: False


def train_small(
    settings: TrainSettings,
    watcher: Watcher | None = None,
    *,
    overwrite: bool = False,
    registry: Registry | None = None,
    clock: Clock = time.monotonic,
) -> Trained:
    """Train a small model (or, for the core `none`, a core) from the user's text and register it.

    An unfinished training of the same name and settings is resumed from its last checkpoint. Raises UsageError for
    settings that cannot be right, SsdError for text or a disk that will not do, Interrupted when the watcher wants to
    stop; whichever is raised, what was there before is still there.

    Under torchrun or accelerate every process makes this call. The first reads the text, writes and registers; the
    others find its workspace in the same folder, and return what it returns.

    clock: returns seconds; `minutes` are counted by it.
    """
    began = clock()
    watcher = watcher or Watcher()
    registry = registry or Registry()
    settings = replace(settings, core=settings.core or registry.default())
    settings.check_complete()
    with ExitStack() as stack, disk_errors(registry.home), same_threads():
        with rank_zero_first():
            look()
            check_free(registry, settings.name, overwrite=overwrite)
            workspace = stack.enter_context(claimed(registry, settings.name))
            stack.enter_context(undone_if_refused(workspace))
            prepared = _prepare(settings, registry) if is_rank_zero() else _join(settings.name, registry)
        _check_joined(prepared)
        remarks = [*next_words(prepared), *_on_room(prepared)]
        watcher.on_prepared([*prepared.store.info.report, *remarks], prepared.title)
        grant = granted(prepared.settings, watcher, clock, began)
        tuned = isinstance(prepared.model, TunedCore)  # which reads the text once it is trained
        states, memory = (None, None) if tuned else _remembered(prepared, watcher, grant, READING)
        cloze, lessons = cloze_states(prepared, lambda: grant.spent(READING)), _lessons(prepared, watcher, grant)
        objective, windows = _samples(prepared, states, cloze, lessons)
        trainer = _train(prepared, watcher, _plan(prepared, clock, began), objective, windows)
        prepared = replace(prepared, beginning=replace(prepared.beginning, model=trainer.whole()))
        if tuned:
            _, memory = _remembered(prepared, watcher, grant, _READ_AT_END)
        watcher.on_measuring()
        trained = from_rank_zero(lambda: finish(prepared, trainer, memory, registry, overwrite))
        from_rank_zero(lambda: shutil.rmtree(workspace))
    return trained


def _prepare(settings: TrainSettings, registry: Registry) -> Prepared:
    """Prepare a training and keep its settings as they were completed."""
    workspace = registry.workspace(settings.name)
    save_settings(workspace, settings)
    prepared = prepare(settings, registry)
    check_shares(batch_of(prepared), world_size())
    save_settings(workspace, prepared.settings)
    return prepared


def _join(name: str, registry: Registry) -> Prepared:
    """Prepare a training from what the first process left in its workspace."""
    settings = saved_settings(registry, name)
    if settings is None:
        problem = f"a process cannot find the text that the first one read, in {registry.home}."
        raise SsdError(problem, _ONE_HOME)
    return prepare(settings, registry)


def _check_joined(prepared: Prepared) -> None:
    """Raise SsdError if this process's workspace holds another training than the first process's."""
    own = (prepared.settings, prepared.store.info.fingerprint)
    with barrier():
        if from_rank_zero(lambda: own) != own:
            raise SsdError(f"the processes find different texts in {prepared.workspace}.", _ONE_HOME)


def batch_of(prepared: Prepared) -> int:
    """The sequences of a step, over all processes."""
    tokens = prepared.settings.batch_tokens
    assert tokens is not None  # what was left open has been decided
    return max(1, tokens // prepared.window)


def check_shares(batch: int, processes: int) -> None:
    """Raise UsageError if a step's sequences cannot be divided evenly among the processes."""
    if batch % processes:
        problem = f"a step of {batch} sequences cannot be divided evenly among {processes} processes."
        raise UsageError(problem, "Pass a --batch-tokens that they can share evenly, or start fewer processes.")


def granted(settings: TrainSettings, watcher: Watcher, clock: Clock, began: float) -> Grant:
    """The minutes that are granted; a training by steps takes what it takes."""

    def check() -> None:
        if watcher.wants_stop():
            raise stopped(settings.name)

    minutes = math.inf if settings.steps is not None else settings.minutes or DEFAULT_MINUTES
    return Grant(minutes, began, clock, check)


def _remembered(
    prepared: Prepared, watcher: Watcher, grant: Grant, until: float
) -> tuple[CoreStates | None, Memory | None]:
    """What the core makes of the text, which it reads until a share of the minutes is over, and the memory."""
    states = _read_core(prepared, watcher, grant, until)
    with barrier():
        memory = _memory(prepared, states, watcher, grant) if is_rank_zero() else None
    return states, memory


def _on_room(prepared: Prepared) -> list[str]:
    """See `remark_on_room`; nothing is said for a model whose core does not read the text."""
    model, tokens = prepared.model, prepared.store.info.train.tokens
    if isinstance(model, SideNetwork) or (isinstance(model, TunedCore) and prepared.settings.memory):
        return remark_on_room(prepared.workspace, model.core, tokens)
    return []


def _read_core(prepared: Prepared, watcher: Watcher, grant: Grant, until: float) -> CoreStates | None:
    """What the core makes of the text, for a model that reads it; of a long text, what it can read in its time."""
    model = prepared.model
    if isinstance(model, TunedCore) and prepared.settings.memory:
        model.core.tap(model.core.middle_layers)
    elif not isinstance(model, SideNetwork):
        return None
    stops = _stops(prepared, watcher, grant, until)
    with rank_zero_first():
        kept = CoreStates.open(prepared.read_folder)
        core, batches = model.core, core_texts(prepared, "train").batches()
        tokens = prepared.store.info.train.tokens
        return kept or CoreStates.write(prepared.read_folder, core, batches, stops, tokens)


def _stops(prepared: Prepared, watcher: Watcher, grant: Grant, until: float) -> Callable[[int], bool]:
    """Tells the watcher how many documents the core has read, and whether a share of the minutes is over."""

    def stops(documents: int) -> bool:
        watcher.on_reading(documents, len(prepared.store.train_documents))
        return grant.spent(until)

    return stops


def _lessons(prepared: Prepared, watcher: Watcher, grant: Grant) -> Lessons | None:
    """What the core writes for its adapter, where it is to learn that too."""
    with rank_zero_first():
        return read_lessons(prepared, _stops(prepared, watcher, grant, _WRITING))


def _memory(prepared: Prepared, states: CoreStates | None, watcher: Watcher, grant: Grant) -> Memory | None:
    """The memory of the text, for a small model that can use it and was not told otherwise."""
    wanted = prepared.settings.memory and prepared.core is not None and prepared.process.hides
    memory = memory_of(prepared.store) if wanted else None
    if memory is None or states is None:
        return memory

    def watch(step: int, steps: int) -> None:
        watcher.on_comparing(step, steps)
        grant.check()

    return replace(memory, recall=learn_recall(memory, prepared, states, grant, watch))


def _samples(
    prepared: Prepared, states: CoreStates | None, cloze: ClozeStates | None, lessons: Lessons | None
) -> tuple[TrainingObjective, Samples]:
    """What is minimised, and the endless samples that it is minimised on."""
    settings, model, samples = prepared.settings, prepared.model, batch_of(prepared) * ENDLESS
    if isinstance(model, SideNetwork):
        assert states is not None
        words = np.zeros(0, np.int64) if cloze is None else cloze.targets.numpy()
        active = torch.from_numpy(np.unique(np.concatenate([states.targets, words])))
        ids = SampledIds(active, model.core.rows, settings.seed)
        return SideObjective(model, ids), StateSamples(states, settings.seed, samples, cloze)
    if isinstance(model, TunedCore):
        held = np.union1d(prepared.store.train, [prepared.end]).astype(np.int64)
        ids = SampledIds(torch.from_numpy(held), model.core.rows, settings.seed)
        borders, corpus = Borders(prepared.opening, prepared.end), Corpus.of(prepared.store)
        shape = WindowShape(prepared.window, 1)
        if lessons is not None:
            taught = TaughtObjective(model, ids, borders, settings.distill_weight)
            return taught, LessonWindows(corpus, shape, settings.seed, samples, lessons)
        return CausalObjective(model, ids, borders), Windows(corpus, shape, settings.seed, samples)
    if isinstance(model, SmallCausalLM):
        shape = WindowShape(prepared.window, 1)
        return SmallCausalObjective(model), Windows(Corpus.of(prepared.store), shape, settings.seed, samples)
    shape = WindowShape(model.config.context, model.config.block_size, _infilling(prepared))
    windows = Windows(Corpus.of(prepared.store), shape, settings.seed, samples)
    return Objective(model, prepared.process, settings.seed, open_teacher(prepared)), windows


def _train(
    prepared: Prepared, watcher: Watcher, plan: Plan, objective: TrainingObjective, windows: Samples
) -> SmallTrainer:
    settings, batch = prepared.settings, batch_of(prepared)
    assert settings.learning_rate is not None  # what was left open has been decided
    assert settings.optimizer is not None
    rates = Rates(settings.optimizer, settings.learning_rate, settings.weight_decay, batch, settings.seed)
    trainer = SmallTrainer(objective, windows, plan, rates, prepared.workspace)
    hooks = Hooks(
        watcher.on_progress,
        watcher.wants_stop,
        heldout_measure(prepared),
        settings.checkpoint_seconds,
        settings.patience,
        _APART if isinstance(prepared.model, TunedCore) else 1,
    )
    if not trainer.run(hooks, from_rank_zero(lambda: latest_checkpoint(prepared.workspace))):
        raise stopped(settings.name)
    objective.teacher = None  # frees its memory before the core is measured
    return trainer


def stopped(name: str) -> Interrupted:
    """The error of a training that the user stopped."""
    return Interrupted(
        f"the training of '{name}' was stopped; its checkpoint is kept.",
        f"Continue with 'ssd train-small --resume --name {name}'.",
    )


def _infilling(prepared: Prepared) -> Infilling | None:
    """How gaps are opened in the training texts, if they are."""
    share = prepared.settings.gap_share
    return Infilling(share, prepared.end) if share else None


def _plan(prepared: Prepared, clock: Clock, began: float) -> Plan:
    """Plan by steps if they were given, else by minutes, which include the preparation and the measuring.

    Minutes that are too many for a small text are not used up: the passes over it are limited.
    """
    settings = prepared.settings
    assert settings.decay is not None  # what was left open has been decided
    if settings.minutes is None and settings.steps is not None:
        return Plan(Budget(steps=settings.steps), settings.warmup, settings.decay, clock=clock)
    seconds = 60 * (settings.minutes or DEFAULT_MINUTES)
    overhead = clock() - began + measuring_seconds(settings, exact=prepared.exact)
    if isinstance(prepared.model, TunedCore) and settings.memory:
        overhead += _READING_AT_END * seconds
    tokens_a_step = batch_of(prepared) * prepared.window
    most = math.ceil(settings.passes * prepared.store.info.train.tokens / tokens_a_step)
    return Plan(Budget(seconds=seconds, most=most), settings.warmup, settings.decay, overhead, clock)


def finish(
    prepared: Prepared, trainer: SmallTrainer, memory: Memory | None, registry: Registry, overwrite: bool
) -> Trained:
    """Measure the weights as they will be stored, and register them with the memory."""
    model = prepared.beginning.as_stored()
    seconds = trainer.plan.elapsed
    found = assess(prepared, model, memory, measured_texts(prepared), seconds)
    description = describe(prepared, trainer, found, memory, seconds)
    with registry.stage(prepared.settings.name, overwrite) as folder:
        _write(prepared, description, memory, folder)
    return Trained(registry.models / prepared.settings.name, description, found.losses)


def _write(prepared: Prepared, description: Description, memory: Memory | None, folder: Path) -> None:
    """Fill the model's folder: weights, memory, tokenizer, card, report, metrics, pictures, recipe, manifest."""
    with writes_weights(folder):
        prepared.beginning.save(folder)
    shutil.copyfile(prepared.tokenizer_file, folder / TOKENIZER)
    if prepared.core is not None and prepared.format == "chat":
        copy_chat(prepared.core.folder, folder)
    if prepared.settings.canaries:
        shutil.copyfile(prepared.workspace / CANARIES, folder / CANARIES)
    trained_documents = prepared.store.folder / TRAINED_DOCUMENTS
    if trained_documents.exists():  # not in a store that an earlier version made
        shutil.copyfile(trained_documents, folder / TRAINED_DOCUMENTS)
    if memory is not None:
        save_memory(folder, memory, description.manifest.tokenizer)
    manifest, quality = description.manifest, description.quality
    texts = {
        "metrics.jsonl": metrics_lines(description.history),
        "loss.svg": to_svg(loss_curve(description.history, description.kept, f"{manifest.name}: training")),
        "recipe.toml": recipe(prepared),
        "README.md": model_card(description),
        REPORT: report(description),
    }
    if manifest.weight is not None:
        title = f"{manifest.name} with {manifest.core}"
        texts["weight.svg"] = to_svg(weight_sweep(quality.weights, quality.sweep, title))
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    write_manifest(folder, manifest)
