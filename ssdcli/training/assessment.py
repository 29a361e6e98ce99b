"""Measuring a trained model on held-out text: alone, with its core at every weight, with a gate; and its samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.gate import Gate
from ssdcli.engine.ensemble.members import Member, Role
from ssdcli.engine.ensemble.rules import Rule
from ssdcli.engine.ensemble.schedules import Constant, Schedule, sharing
from ssdcli.engine.whole_text import can_be_read_whole
from ssdcli.errors import SsdError
from ssdcli.evaluation.block_losses import BlockSettings, block_losses
from ssdcli.evaluation.canvases import ROUNDS, CanvasSettings, canvas_losses, canvases_together
from ssdcli.evaluation.code_length import CodeSettings, code_lengths
from ssdcli.evaluation.combinations import alone
from ssdcli.evaluation.gating import GateFitter
from ssdcli.evaluation.joint_gate import FittedGate, GateObserver, Observations, fit_joint_gates
from ssdcli.evaluation.losses import (
    GRID,
    Losses,
    LossSettings,
    Pace,
    best_weight,
    measure,
    measure_combinations,
    shares,
)
from ssdcli.evaluation.scored_text import ScoredText, heldout_texts
from ssdcli.generation.loaded_model import Loaded, LoadedMemory, LoadedModel, Shared, loaded_memory, open_model
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.models.loading import make_denoiser
from ssdcli.models.memory.memory_files import Memory
from ssdcli.registry.manifest import CODE_LENGTH, DENOISING_LOSS, NELBO
from ssdcli.registry.store import Entry
from ssdcli.reports.description import Sample
from ssdcli.text.codec import Codec
from ssdcli.text.openings import ends_of, format_made_here, format_of
from ssdcli.training.beginnings import SmallModel
from ssdcli.training.prepare import Parent, Prepared
from ssdcli.training.samples import write_samples
from ssdcli.training.settings import DEFAULT_MINUTES, TrainSettings

_TOKENS_PER_SECOND = 400  # of held-out text that two processor cores measure, with time left for samples
_GATED = 3000  # tokens of held-out text, roughly, that a gate is fitted to
_LOSSES = 0.6  # share of the time for measuring that the losses of a slow core may take
_BEGINNING = 256  # tokens of a held-out text that are measured beside a causal core
_FEWEST = 3  # whole texts, at least, that choose a weight: losses at all weights rise and fall together
_SAMPLES = 0.1  # of the training's duration, which samples never exceed


@dataclass(frozen=True)
class Assessment:
    """Losses on held-out text, and samples.

    losses: where a weight was chosen, the columns are the small model's weights from 0, the core alone, to 1; else the
        single column is the trained model alone.
    measure: what they are: CODE_LENGTH, NELBO or DENOISING_LOSS.
    weight: the best of those in (0, 1]; None without a core, or with one that could not be run here in time.
    gate: None without a core, beside a causal one, or with too little text to fit one.
    samples: none where there was no time for them.
    gates: those beside a causal core, one for each set of members, the largest set first.
    memory: the nats of each text by the memory alone, which does not hold it; None without a memory.
    """

    losses: Losses
    measure: str
    weight: float | None
    gate: Gate | None
    samples: list[Sample]
    gates: tuple[FittedGate, ...] = ()
    memory: np.ndarray | None = None


def measuring_seconds(settings: TrainSettings, *, exact: bool = False) -> float:
    """Seconds of a training that are reserved for measuring and registering at its end.

    exact: whether code lengths beside a causal core are measured, which take longer.
    """
    share, least, most = (0.1, 20.0, 60.0) if exact else (0.05, 3.0, 30.0)
    return min(most, max(least, share * 60 * (settings.minutes or DEFAULT_MINUTES)))


def measured_texts(prepared: Prepared) -> list[ScoredText]:
    """The held-out texts that are measured at the end, as far as there is time; beside a causal core, their beginnings.

    Many beginnings tell more than a few whole documents, which differ from each other more than their parts do.
    """
    limit = _measured_tokens(prepared.settings)
    if prepared.exact:
        return heldout_texts(prepared.store, prepared.tokenizer, limit, _BEGINNING)
    return heldout_texts(prepared.store, prepared.tokenizer, limit)


def _measured_tokens(settings: TrainSettings) -> int:
    return round(_TOKENS_PER_SECOND * measuring_seconds(settings))


def assess(
    prepared: Prepared,
    model: SmallModel,
    memory: Memory | None,
    texts: Sequence[ScoredText],
    trained_seconds: float,
) -> Assessment:
    """Measure a trained model, choose its weight, fit its gate and write samples, with the core if it can run here.

    What there is no time for is left out.

    memory: of all of the text; it is measured without these texts and their near-duplicates.
    trained_seconds: how long the training took.
    """
    seconds = measuring_seconds(prepared.settings, exact=prepared.exact)
    until = time.monotonic() + seconds
    core = None if prepared.parent is None else _open_core(prepared.parent, prepared, model)
    small = _trained(prepared, model)
    fitter = _fitter(prepared)
    rule = _usual_rule(prepared.core)
    beside: Beside | None = None
    losses: Losses | None = None
    if core is not None and prepared.exact:
        others = [] if memory is None else _lacking(memory, texts, small)
        beside = measure_beside([core, small, *others], texts, rule, _LOSSES * seconds)
        losses = None if beside is None else beside.losses
    elif core is not None:
        losses = _with_core(core, small, texts, rule, fitter, _LOSSES * seconds)
    weight = None if losses is None else best_weight(losses)
    if losses is None:
        losses = _alone(small, texts, exact=prepared.exact, seconds=_LOSSES * seconds)
    authors = _authors(prepared, small, core, weight)
    until = min(until, time.monotonic() + _SAMPLES * trained_seconds)
    samples = write_samples(authors, texts, prepared.tokenizer, until, rule)
    gates, remembered = ((), None) if beside is None else (beside.gates, beside.memory)
    if isinstance(model, TunedCore):
        gates = () if beside is None else beside.gates_in_place
    return Assessment(losses, _measure(prepared), weight, fitter.gate(), samples, gates, remembered)


def _lacking(memory: Memory, texts: Sequence[ScoredText], small: LoadedModel) -> list[LoadedMemory]:
    """The memory without some texts and their near-duplicates; none where nothing is left of it."""
    kept, reader = memory.without([text.tokens[1:] for text in texts]), small.denoiser.backbone
    core = reader.core if isinstance(reader, SideNetwork) else reader if isinstance(reader, CausalCore) else None
    shared = Shared(small.denoiser.block_size, small.denoiser.process, core=core)
    return [loaded_memory(kept, small.codec, small.format, shared)] if kept.origins else []


def _fitter(prepared: Prepared) -> GateFitter:
    """What fits the gate beside a core that is not causal."""
    return GateFitter(prepared.process, min(1.0, _GATED / max(1, _measured_tokens(prepared.settings))))


def _measure(prepared: Prepared) -> str:
    """What the losses are: where a process has another NELBO than the denoising loss, that is not taken."""
    if prepared.exact:
        return CODE_LENGTH
    return NELBO if prepared.process.bounded and prepared.process.nelbo is None else DENOISING_LOSS


def _trained(prepared: Prepared, model: SmallModel) -> LoadedModel:
    """The trained model before it is registered; without a template, for it is measured and sampled on documents."""
    parent, tokenizer = prepared.parent, prepared.tokenizer
    ends = (prepared.end,) if parent is None else ends_of(parent.entry, tokenizer)
    form = format_made_here(ends, answers=prepared.format != "plain")
    if prepared.predicts_next:
        form = replace(form, opening=prepared.opening, cuts_documents=False)
    backbone = model.core if isinstance(model, TunedCore) else model
    return LoadedModel(make_denoiser(backbone, prepared.attention, prepared.process), Codec(tokenizer), form)


def _open_core(parent: Parent, prepared: Prepared, model: SmallModel) -> LoadedModel | None:
    """Load the core, or return None if it cannot run here; the trained model moves to the core's device."""
    if isinstance(model, SideNetwork):
        codec, entry = Codec(prepared.tokenizer), parent.entry
        denoiser = make_denoiser(model.core, entry.manifest.attention, prepared.process)
        return LoadedModel(denoiser, codec, format_of(entry, codec.tokenizer, trained_here=False))
    try:
        core = open_model(parent.entry, shared=Shared(model.block_size, prepared.process))
    except SsdError:
        return None
    model.to(core.denoiser.backbone.device)
    return core


def _with_core(
    core: LoadedModel,
    small: LoadedModel,
    texts: Sequence[ScoredText],
    rule: Rule,
    fitter: GateFitter,
    seconds: float,
) -> Losses | None:
    """Measure the losses beside a core that is not causal, while the fitter watches; None if the core is too slow.

    rule: how both combine.
    seconds: how long a core may take that cannot denoise all blocks of a text at once.
    """
    one, other, process = core.denoiser.backbone, small.denoiser.backbone, core.denoiser.process
    combinations = [*shares(GRID, 2, process, rule), fitter.combination()]
    if core.scores_whole_texts:
        windows = LossSettings(min(one.context, other.context))
        return measure_combinations((one, other), process, texts, combinations, windows).over(GRID)
    pair, pace = _pair(core, small), Pace(seconds, clock=_patient)
    losses: Losses | None
    if can_be_read_whole(core.denoiser):
        losses = _enough(block_losses(pair, texts, combinations, BlockSettings(pace)), texts)
    else:
        how = CanvasSettings(pace, rounds=ROUNDS, together=canvases_together(pair))
        losses = canvas_losses(pair, texts, combinations, how)
    return None if losses is None else losses.over(GRID)


@dataclass(frozen=True)
class Beside:
    """What was measured beside a causal core.

    losses: of the core and the small model at each weight of GRID.
    seen: what all members said; None of too few tokens.
    memory: see `Assessment`.
    """

    losses: Losses
    seen: Observations | None
    memory: np.ndarray | None

    @property
    def gates(self) -> tuple[FittedGate, ...]:
        """See `Assessment`."""
        return fit_joint_gates(self.seen)

    @property
    def gates_in_place(self) -> tuple[FittedGate, ...]:
        """The gate of the small model in the core's place, and of the memory; none without a memory."""
        if self.seen is None or "memory" not in self.seen.members:
            return ()
        return fit_joint_gates(replace(self.seen.of(("small", "memory")), members=("core", "memory")))


def measure_beside(loaded: Sequence[Loaded], texts: Sequence[ScoredText], rule: Rule, seconds: float) -> Beside | None:
    """Measure the code lengths of a causal core, a small model and perhaps a memory; None if there is too little time.

    rule: how the core and the small model combine at constant weights.
    """
    every: tuple[Role, ...] = ("core", "small", "memory")
    roles = every[: len(loaded)]
    members = [Member(role, one, Constant(1.0), role) for role, one in zip(roles, loaded, strict=True)]
    observer, idle = GateObserver(roles), (Constant(0.0),) * (len(roles) - 2)
    pairs = shares(GRID, 2, loaded[0].denoiser.process, rule)
    combinations = [replace(pair, schedules=(*pair.schedules, *idle)) for pair in pairs]
    measured = [*combinations, alone(len(roles) - 1, len(roles)), observer.combination(roles)]
    losses = _enough(code_lengths(members, texts, measured, CodeSettings(Pace(seconds, clock=_patient))), texts)
    if losses is None:
        return None
    memory = losses.sums[:, len(GRID)] if "memory" in roles else None
    return Beside(losses.over(GRID), observer.observations(), memory)


def _usual_rule(core: Entry | None) -> Rule:
    """How a small model combines with this core unless another rule is chosen."""
    name = catalogue.default_rule(None if core is None else core.manifest.attention)
    rule: Rule = catalogue.rule(name).load()
    return rule


def _patient() -> float:
    """Seconds of this thread's work, to which waiting adds a tenth: a busy machine shall not decide what is chosen."""
    return 0.9 * time.thread_time() + 0.1 * time.monotonic()


def _enough(losses: Losses, texts: Sequence[ScoredText]) -> Losses | None:
    """The losses, if some whole texts were measured before time was over, or all."""
    return losses if len(losses.tokens) >= min(_FEWEST, len(texts)) else None


def _alone(small: LoadedModel, texts: Sequence[ScoredText], *, exact: bool, seconds: float) -> Losses:
    """Measure the losses of the trained model alone, of all texts unless they are code lengths, which take longer."""
    if exact:
        member = Member("small", small, Constant(1.0), "small")
        return code_lengths([member], texts, [alone(0, 1)], CodeSettings(Pace(seconds, clock=_patient))).over([1.0])
    backbone = small.denoiser.backbone
    return measure([backbone], small.denoiser.process, texts, [1.0], LossSettings(backbone.context))


def _pair(
    core: LoadedModel, small: LoadedModel, schedules: Sequence[Schedule] = (Constant(1.0), Constant(1.0))
) -> list[Member[LoadedModel]]:
    """The core and the trained model as members."""
    return [Member("core", core, schedules[0], "core"), Member("small", small, schedules[1], "small")]


def _authors(
    prepared: Prepared, small: LoadedModel, core: LoadedModel | None, weight: float | None
) -> dict[str, list[Member[LoadedModel]]]:
    """The writers of samples, by name: the model alone, and with its core where a weight was chosen and it stays."""
    if prepared.parent is None:
        return {"core": [Member("core", small, Constant(1.0), "core")]}
    alone = {"small": [Member("small", small, Constant(1.0), "small")]}
    if core is None or weight is None or isinstance(prepared.model, TunedCore):
        return alone
    return alone | {"ensemble": _pair(core, small, sharing(weight, prepared.process.name))}
