"""A draft head for a causal core, from its settings to a registered model."""

from __future__ import annotations

import math
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ssdcli.data.store_side import Side, StoreSide
from ssdcli.data.token_store import TokenStore
from ssdcli.errors import SsdError, UsageError, require
from ssdcli.generation.loaded_model import process_of
from ssdcli.machine.distributed import world_size
from ssdcli.machine.hardware import look
from ssdcli.machine.threads import same_threads
from ssdcli.machine.units import in_parameters
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.draft_head import DraftHead
from ssdcli.models.general_heads import save_general_head
from ssdcli.registry.disk import disk_errors
from ssdcli.registry.manifest import HEAD, TOKENIZER, WEIGHTS, Manifest, write_manifest
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.codec import Codec
from ssdcli.text.openings import format_of
from ssdcli.text.tokenizer import load_tokenizer
from ssdcli.training.beginnings import same_weights
from ssdcli.training.checkpoints import latest_checkpoint, writes_weights
from ssdcli.training.core_states import (
    SAMPLE,
    WINDOW,
    Batches,
    CoreStates,
    CoreTexts,
    RunSamples,
    counted_places,
    read_passages,
    remark_on_room,
    run_starts,
)
from ssdcli.training.drafting_objective import AHEAD, DraftingObjective, agreement
from ssdcli.training.job import Clock, Watcher, granted, stopped
from ssdcli.training.own_text import OwnText
from ssdcli.training.plan import Budget, Grant, Plan
from ssdcli.training.prepare import find_core, open_readable, read_text, store_settings
from ssdcli.training.settings import DEFAULT_MINUTES, TrainSettings
from ssdcli.training.trainer import ENDLESS, Hooks, Rates, SmallTrainer
from ssdcli.training.unfinished import check_free, claimed, save_settings, undone_if_refused

_BATCH, _RATE, _DECAY = 512, 2e-3, 0.8  # runs of a step, peak learning rate, and the share in which it falls
_IDS = 6144  # the text's most frequent ids, and the first ones of the vocabulary, that are drafted
_ALONE = 0.6  # the share of the steps in which only the next token is learned
_READING = 0.5  # the share of the minutes in which the core may read and write
_HELDOUT, _SHORT = 8, 128  # passages of held-out text and their tokens; rows that the core writes on from them
_MEASURED = 512  # runs of both, at most


@dataclass(frozen=True)
class TrainedHead:
    """A finished draft head.

    folder: of the registered model.
    right: how often each drafted token is the core's likeliest one, on held-out text; none where that has no runs.
    """

    folder: Path
    manifest: Manifest
    right: tuple[float, ...]
    steps: int
    seconds: float


@dataclass(frozen=True)
class _Job:
    """What a training of a head needs before its first step.

    core: `entry`'s, loaded, whose states hold what the head reads.
    """

    settings: TrainSettings
    workspace: Path
    entry: Entry
    core: CausalCore
    store: TokenStore

    def on_room(self) -> list[str]:
        """See `remark_on_room`."""
        return remark_on_room(self.workspace, self.core, self.store.info.train.tokens)

    def batches(self, side: Side, window: int = WINDOW, rows: int = OwnText.rows) -> Batches:
        """A side of the text in passages of so many tokens, and what the core writes on from it, some rows together."""
        codec = Codec(load_tokenizer(self.entry.folder, self.entry.name))
        form = format_of(self.entry, codec.tokenizer, trained_here=False)
        window = min(window, self.core.context)
        texts = CoreTexts(StoreSide.of(self.store, side), form.opening, form.ends[0], window, self.settings.seed)
        return OwnText(self.core, codec, form, rows).batches(texts)


def train_head(
    settings: TrainSettings,
    watcher: Watcher | None = None,
    *,
    overwrite: bool = False,
    registry: Registry | None = None,
    clock: Clock = time.monotonic,
) -> TrainedHead:
    """Train a draft head on a user's text and on what the core writes, and register it; as `train_small` otherwise."""
    began, watcher, registry = clock(), watcher or Watcher(), registry or Registry()
    settings = replace(settings, core=settings.core or registry.default())
    settings.check_complete()
    require(world_size() == 1, "a draft head is trained by one process.", "Start it without torchrun.")
    with ExitStack() as stack, disk_errors(registry.home), same_threads():
        look()
        check_free(registry, settings.name, overwrite=overwrite)
        workspace = stack.enter_context(claimed(registry, settings.name))
        stack.enter_context(undone_if_refused(workspace))
        job = _prepare(settings, registry, workspace)
        watcher.on_prepared([*job.store.info.report, *job.on_room()], f"a draft head for {job.entry.name}")
        states = _read(job, watcher, granted(job.settings, watcher, clock, began))
        trained = _train(job, states, watcher, began, clock)
        with registry.stage(settings.name, overwrite) as folder:
            found = trained.register(folder, registry.models / settings.name)
        shutil.rmtree(workspace)
    return found


def _prepare(settings: TrainSettings, registry: Registry, workspace: Path) -> _Job:
    """Read the text and load the core."""
    registry.workspace(settings.name)
    settings = _settled(settings)
    save_settings(workspace, settings)
    entry = find_core(settings, registry)
    require(
        entry.manifest.attention == "autoregressive" and not entry.manifest.is_remote,
        f"'{entry.name}' is no causal language model on this machine, whose states could be read for drafts.",
        "Name another core with --for.",
    )
    same_weights(entry, workspace)
    tokenizer = load_tokenizer(entry.folder, entry.name)
    store = read_text(settings, workspace, tokenizer, store_settings(entry, tokenizer))
    core = open_readable(entry, process_of(entry))
    if core.forgets:
        problem = f"'{entry.name}' cannot verify drafts: its cache loses text that a rejected one would need again."
        raise UsageError(problem, "Name another core with --for.")
    core.tap(core.middle_layers)
    return _Job(settings, workspace, entry, core, store)


def _settled(settings: TrainSettings) -> TrainSettings:
    """The settings with what they leave open decided once and for all."""
    batch, rate = settings.batch_tokens or _BATCH, settings.learning_rate or _RATE
    decay = _DECAY if settings.decay is None else settings.decay
    optimizer = settings.optimizer or "adamw"
    return replace(settings, optimizer=optimizer, batch_tokens=batch, learning_rate=rate, decay=decay)


def _read(job: _Job, watcher: Watcher, grant: Grant) -> CoreStates:
    """What the core makes of the text and of what it writes itself, or of as much as there is time for."""
    total, tokens = len(job.store.train_documents), job.store.info.train.tokens

    def stops(documents: int) -> bool:
        watcher.on_reading(documents, total)
        return grant.spent(_READING)

    kept = CoreStates.open(job.workspace)
    return kept or CoreStates.write(job.workspace, job.core, job.batches("train"), stops, tokens)


def _untrained(job: _Job, states: CoreStates) -> DraftHead:
    """A head for the ids of a text, whose guesses are as large as the core's states."""
    core = job.core
    often = np.argsort(-np.bincount(states.targets, minlength=core.rows), kind="stable")[:_IDS]
    ids = np.union1d(often, np.arange(min(_IDS, core.rows)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.settings.seed)
        head = DraftHead(core.width, 1 + len(core.taps), torch.from_numpy(ids))
    size = states.read(np.arange(min(_MEASURED, len(states.targets))), slice(core.width)).float().pow(2).mean().sqrt()
    with torch.no_grad():
        head.scale.fill_(float(size))
    return head.to(core.device)


@dataclass(frozen=True)
class _Learned:
    """A trained head that is not registered yet.

    states: what it learned from.
    heldout: runs on held-out text, their states (R, 1 + AHEAD, D) and tokens (R, AHEAD); None without any.
    """

    job: _Job
    states: CoreStates
    head: DraftHead
    heldout: tuple[torch.Tensor, torch.Tensor] | None
    steps: int
    seconds: float

    def register(self, folder: Path, registered: Path) -> TrainedHead:
        """Fill the model's folder, which will be `registered`."""
        job, head = self.job, self.head.eval().requires_grad_(False)
        right = () if self.heldout is None else tuple(agreement(head, job.core, *self.heldout))
        with writes_weights(folder):
            save_general_head(head, job.core.taps, job.core, folder / WEIGHTS)
            shutil.copyfile(job.entry.folder / TOKENIZER, folder / TOKENIZER)
        manifest = self._manifest(right)
        (folder / "README.md").write_text(_card(manifest), encoding="utf-8")
        write_manifest(folder, manifest)
        return TrainedHead(registered, manifest, right, self.steps, self.seconds)

    def _manifest(self, right: tuple[float, ...]) -> Manifest:
        """What the registry keeps of it; the digests of its files are added when it is registered."""
        core = self.job.entry.manifest
        return Manifest.beside(
            core,
            name=self.job.settings.name,
            kind=HEAD,
            architecture=type(self.head).__name__,
            parameters=sum(weight.numel() for weight in self.head.parameters()),
            base_weights=core.weights_digest,
            data=self.job.store.info.fingerprint,
            metrics={f"draft {place + 1} right": share for place, share in enumerate(right)},
            text={"documents": self.states.documents, "tokens": len(self.states.targets)},
        )


def _train(job: _Job, states: CoreStates, watcher: Watcher, began: float, clock: Clock) -> _Learned:
    """Let the head learn: first the next token alone, then all that it drafts."""
    runs = len(run_starts(states.places, AHEAD))
    if not runs:
        problem = f"the core had no time to read {1 + AHEAD} tokens in a row."
        raise SsdError(problem, "Name more text, or grant more --minutes.")
    settings, heldout = job.settings, _heldout(job)
    assert settings.batch_tokens is not None
    assert settings.learning_rate is not None
    assert settings.decay is not None
    assert settings.optimizer is not None
    batch = max(1, settings.batch_tokens // SAMPLE)
    plan = Plan(_budget(settings, runs), settings.warmup, settings.decay, clock() - began, clock)

    def ahead(sample: int) -> int:
        return AHEAD if plan.total is not None and sample // batch >= _ALONE * plan.total else 1

    objective = DraftingObjective(_untrained(job, states), job.core, settings.seed, ahead)
    samples = RunSamples(states, settings.seed, batch * ENDLESS, AHEAD)
    rates = Rates(settings.optimizer, settings.learning_rate, settings.weight_decay, batch, settings.seed)
    trainer = SmallTrainer(objective, samples, plan, rates, job.workspace)

    @torch.no_grad()
    def measure() -> float:
        assert heldout is not None
        return float(objective.loss(*heldout, AHEAD, 0))

    hooks = Hooks(watcher.on_progress, watcher.wants_stop, measure, settings.checkpoint_seconds, settings.patience)
    hooks = hooks if heldout is not None else replace(hooks, measure=None)
    if not trainer.run(hooks, latest_checkpoint(job.workspace)):
        raise stopped(settings.name)
    watcher.on_measuring()
    trainer.best.give(objective.backbone)
    return _Learned(job, states, objective.backbone, heldout, trainer.state.global_step, clock() - began)


def _budget(settings: TrainSettings, runs: int) -> Budget:
    if settings.minutes is None and settings.steps is not None:
        return Budget(steps=settings.steps)
    assert settings.batch_tokens is not None
    most = math.ceil(settings.passes * runs / settings.batch_tokens)
    return Budget(seconds=60 * (settings.minutes or DEFAULT_MINUTES), most=most)


def _heldout(job: _Job) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Runs on held-out text, and on what the core writes on from it."""
    states, tokens = [], []
    for batch, _ in islice(job.batches("heldout", _SHORT, _HELDOUT), 2):
        read, following = read_passages(job.core, batch[:_HELDOUT])
        starts = torch.from_numpy(run_starts(counted_places(batch[:_HELDOUT]), AHEAD))[: _MEASURED // 2]
        runs = starts[:, None] + torch.arange(1 + AHEAD)
        states.append(read[runs])
        tokens.append(following[runs[:, :-1]])
    device = job.core.device
    found = (torch.cat(states).to(device), torch.cat(tokens).to(device)) if states else None
    return None if found is None or not len(found[0]) else found


def _card(manifest: Manifest) -> str:
    """The README of a draft head."""
    right = ", ".join(f"{share:.2f}" for share in manifest.metrics.values()) or "not measured"
    return (
        f"# {manifest.name}\n\nA draft head for {manifest.core}, {in_parameters(manifest.parameters)} parameters: it\n"
        f"guesses the next {AHEAD} tokens from the core's hidden states. 'ssd generate' uses it wherever that core\n"
        f"writes; it changes no text, only the speed. Drafted tokens that were the core's likeliest: {right}.\n"
    )
