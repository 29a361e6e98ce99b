"""`ssd eval`: how well a core, small models and their ensembles predict held-out text, and how well they write."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.process import Process
from ssdcli.engine.whole_text import can_be_read_whole
from ssdcli.errors import NoSuchModel, SsdError, UsageError, require
from ssdcli.evaluation.block_losses import BlockSettings, block_losses
from ssdcli.evaluation.calibration import CalibrationResult, calibration, items, places_of
from ssdcli.evaluation.candidates import Candidates, find_candidates
from ssdcli.evaluation.canvases import ROUNDS, CanvasSettings, canvas_losses, canvases_together
from ssdcli.evaluation.code_length import CodeSettings, code_lengths, has_code_length
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.comparison import Comparison
from ssdcli.evaluation.continuations import PEOPLE, continuations, continued, measure_texts, write
from ssdcli.evaluation.estimates import ENOUGH
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.gating import GateFitter
from ssdcli.evaluation.generated import not_measured
from ssdcli.evaluation.heldout_text import HeldOutText, Training, read_heldout, scored_texts
from ssdcli.evaluation.joint_gate import fit_joint_gates, gate_results
from ssdcli.evaluation.losses import Losses, LossSettings, Pace, measure_combinations
from ssdcli.evaluation.measurement import ENSEMBLE, Evaluation, OnProgress, TextMeasures
from ssdcli.evaluation.next_words import ClozeResult, agreement, words_of
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.blend import PLAIN
from ssdcli.generation.loaded_model import LoadedMemory, LoadedModel, models_of
from ssdcli.generation.parts import SmallModels
from ssdcli.generation.selection import INEXACT, EnsembleSpec
from ssdcli.generation.writer import Writer
from ssdcli.machine.units import counted
from ssdcli.models.judge import Judge, load_judge
from ssdcli.registry.store import Registry
from ssdcli.text.messages import BETWEEN
from ssdcli.text.openings import chat_of
from ssdcli.text.tokenizer import load_tokenizer

_BATCH_TOKENS = 2048
_EXACT_TOKENS_PER_SECOND = 100  # of code length, with a core of 135 million parameters on two processor cores
_GATED = 5000  # tokens, roughly, that a gate is fitted to: enough for its four numbers


def evaluate(
    data: Sequence[str],
    core: str | None = None,
    members: SmallModels = None,
    settings: EvalSettings | None = None,
    on_progress: OnProgress = lambda _doing, _share: None,
    registry: Registry | None = None,
) -> Evaluation:
    """Measure members and their ensembles on held-out text: files and folders, as for a training.

    core, members: as `load` takes them. The weight of the first small model is swept, those of the others stay.

    Raises NoSuchModel and UsageError for models and text that do not go together, SsdError for what cannot be measured.
    """
    began = time.monotonic()
    settings, registry = settings or EvalSettings(), registry or Registry()
    candidates = find_candidates(core, members, settings, registry)
    _check_from_left(candidates, settings)
    on_progress("reading", 0.0)
    trained = [member.model.entry for member in candidates.members if member.role != "memory"]
    training = Training.of(trained, registry)
    text = read_heldout(data, candidates.learner.model.entry, training, settings)
    exact = settings.exact or _is_causal(candidates, registry)
    stage = _Loaded.open(candidates, text, settings, exact=exact)
    columns = Comparison.of(candidates, stage.process, exact=exact)
    fitter = GateFitter(stage.process, stage.looked_at, settings.seed)
    observer = columns.observer(stage.silent) if exact else None
    watched = columns.watched(fitter) if observer is None else [columns.observed(observer)]
    measured = [*columns.combinations, *watched]
    losses = stage.measure(measured, partial(on_progress, "measuring"))
    calibrated = stage.calibrate(partial(on_progress, "calibrating"))
    words = stage.compare_words(partial(on_progress, "comparing words"))
    generated, missing = stage.generate(columns.best(losses), partial(on_progress, "writing"))
    return Evaluation(
        core=candidates.core,
        small=candidates.first,
        process=stage.process.name,
        measure=columns.measure,
        members=columns.members(losses),
        ensembles=columns.ensembles(losses),
        gain=columns.gain(losses),
        documents=len(losses.tokens),
        tokens=int(losses.tokens.sum()),
        bytes=int(losses.bytes.sum()),
        seed=settings.seed,
        seconds=time.monotonic() - began,
        generated=generated,
        remarks=(*text.remarks, *stage.remarks, *_left_over(stage.scored, losses), *missing),
        fitted=None if exact else fitter.gate(),
        gates=() if observer is None else gate_results(fit_joint_gates(observer.observations()), losses.bytes),
        trained=text.trained,
        calibration=calibrated,
        cloze=words,
    )


def _check_from_left(candidates: Candidates, settings: EvalSettings) -> None:
    """Raise UsageError if the probabilities of words or texts are to be measured and are not known."""
    wanted = {"--calibration": settings.calibration, "--cloze": settings.cloze and not settings.exact}
    asked = [flag for flag, needed in wanted.items() if needed]
    remedy = "Name a causal core, add --exact beside a masked one," if settings.cloze else "Name a causal core,"
    require(candidates.usual.from_left or not asked, INEXACT, f"{remedy} or omit {' and '.join(asked)}.")


def _is_causal(candidates: Candidates, registry: Registry) -> bool:
    """Whether a causal core is measured, or a small model alone that was made for one."""
    entries = [member.model.entry for member in candidates.members]
    for name in {entry.manifest.core for entry in entries} - {None}:
        with suppress(NoSuchModel):
            entries.append(registry.find(str(name)))
    return any(entry.manifest.attention == "autoregressive" for entry in entries)


def _left_over(scored: Sequence[ScoredText], losses: Losses) -> list[str]:
    """A sentence if some documents were not measured."""
    measured = len(losses.tokens)
    remark = f"{measured} of {len(scored)} documents were measured: the others are too short, or time ran out"
    return [remark] if measured < len(scored) else []


@dataclass(frozen=True)
class _Loaded:
    """Loaded models, and the text in their tokens.

    candidates: what is measured.
    settings: how it is measured.
    writer: all members, loaded once.
    judge: reads what they write, if there is one.
    text: the documents.
    scored: the documents in tokens.
    context: the private context, cut to the room that the small models have.
    exact: whether code lengths are measured.
    remarks: sentences about that cut, and about what memories were measured without.
    """

    candidates: Candidates
    settings: EvalSettings
    writer: Writer
    judge: Judge | None
    text: HeldOutText
    scored: list[ScoredText]
    context: tuple[int, ...]
    exact: bool
    remarks: tuple[str, ...]

    @classmethod
    def open(cls, candidates: Candidates, text: HeldOutText, settings: EvalSettings, *, exact: bool) -> _Loaded:
        """Load every model once, and encode the text as they read it."""
        first = candidates.members[0].model.entry
        chat = chat_of(first)
        if chat is not None and settings.context and any(document.turns for document in text.documents):
            problem = (
                f"conversations follow the chat template of {first.name!r}, which has no place for private context."
            )
            raise UsageError(problem, "Omit --context.")
        writer = EnsembleSpec(candidates.core, candidates.members, PLAIN, ()).open(settings.placement)
        _check_exact(writer, exact=exact)
        tokenizer = load_tokenizer(first.folder, first.name)
        scored = scored_texts(text.documents, tokenizer, writer.ends, chat)
        if not scored:
            problem = f"nothing of this text can be measured: {'; '.join(text.remarks) or 'it has no answers'}."
            raise UsageError(problem, "Name other text.")
        forgotten = _forget(writer, scored)
        judge = None if settings.judge is None else load_judge(settings.judge)
        context, remarks = _context(writer, settings.context)
        return cls(candidates, settings, writer, judge, text, scored, context, exact, (*forgotten, *remarks))

    @property
    def models(self) -> tuple[Member[LoadedModel], ...]:
        """The members; UsageError if one is a memory, which has no NELBO."""
        models = models_of(self.writer.members)
        if len(models) < len(self.writer.members):
            raise UsageError("a memory is measured by code lengths alone.", "Pass --exact, or leave the memory out.")
        return models

    @property
    def silent(self) -> list[str]:
        """The names of memories that hold nothing but what is measured."""
        memories = {one.name: one.model for one in self.writer.members if isinstance(one.model, LoadedMemory)}
        return [name for name, one in memories.items() if not one.denoiser.memory.origins and not self.context]

    @property
    def looked_at(self) -> float:
        """The share of the positions that a gate is fitted to."""
        tokens = float(sum(sum(one.counted) for one in self.scored))
        if self.exact:
            tokens = min(tokens, _EXACT_TOKENS_PER_SECOND * 60 * self.settings.minutes)
        return min(1.0, _GATED / tokens)

    @property
    def process(self) -> Process:
        """The noise process of all members."""
        return self.writer.members[0].model.denoiser.process

    def measure(self, combinations: Sequence[Combination], on_progress: Callable[[float], None]) -> Losses:
        """Measure all combinations: on whole texts if every member can score them, else canvas by canvas."""
        pace = Pace(60 * self.settings.minutes, on_progress)
        if self.exact:
            private = tuple(self.writer.codec.encode(self.settings.context)) if self.settings.context else ()
            how = CodeSettings(pace, self.context, private)
            return code_lengths(self.writer.members, self.scored, combinations, how)
        members = self.models
        backbones = [member.model.denoiser.backbone for member in members]
        if not self.context and all(member.model.scores_whole_texts for member in members):
            window = min(backbone.context for backbone in backbones)
            batch = max(1, _BATCH_TOKENS // window)
            windows = LossSettings(window, seed=self.settings.seed, batch=batch, pace=pace)
            return measure_combinations(backbones, self.process, self.scored, combinations, windows)
        if not self.context and all(can_be_read_whole(member.model.denoiser) for member in members):
            return block_losses(members, self.scored, combinations, BlockSettings(pace, self.settings.seed))
        settings = CanvasSettings(pace, self.settings.seed, ROUNDS, canvases_together(members), self.context)
        losses = canvas_losses(members, self.scored, combinations, settings)
        if losses is None:
            problem = f"fewer than {ENOUGH} documents have room for a block, or were reached in time."
            too_few = self.settings.documents < ENOUGH
            remedy = f"Pass --documents {ENOUGH} or more." if too_few else "Name more text, or raise --minutes."
            raise SsdError(problem, remedy)
        return losses

    @property
    def writers(self) -> dict[str, EnsembleSpec]:
        """The models alone and their ensemble as it writes by default, by name."""
        usual, authors = self.candidates.usual, self.candidates.authors
        models = {who: one for who, one in authors.items() if one.members[0].role != "memory"}
        return models | ({ENSEMBLE: usual} if len(usual.members) > 1 else {})

    def calibrate(self, on_progress: Callable[[float], None]) -> tuple[CalibrationResult, ...]:
        """Let the members and their ensemble write on from places of the documents, and compare what they write."""
        places = places_of(self.text.documents, self.settings.calibration, self.settings.seed)
        found: list[CalibrationResult] = []
        for number, (who, spec) in enumerate(self.writers.items() if places else ()):
            told = partial(_part, on_progress, number, len(self.writers))
            found += calibration(who, items(spec.reopen(self.writer), places, told), spec.confidence)
        return tuple(found)

    def compare_words(self, on_progress: Callable[[float], None]) -> tuple[ClozeResult, ...]:
        """Compare the next words of the members and their ensemble with those that the documents give."""
        found: list[ClozeResult] = []
        for number, (who, spec) in enumerate(self.writers.items() if self.settings.cloze else ()):
            told = partial(_part, on_progress, number, len(self.writers))
            words = list(words_of(spec.reopen(self.writer), self.text.documents, told))
            require(bool(words), "no row of this text gives words under 'cloze'.", "Name such rows, or omit --cloze.")
            found.append(agreement(who, words))
        return tuple(found)

    def generate(
        self, best: EnsembleSpec | None, on_progress: Callable[[float], None]
    ) -> tuple[tuple[TextMeasures, ...], Sequence[str]]:
        """Let the members and their best ensemble write, and measure their texts; sentences tell what is missing."""
        found = continuations(self.text.documents, self.settings.generate)
        if not found:
            asked = self.settings.generate > 0
            return (), ["no document is long enough to be continued"] * asked
        specs = self.candidates.authors | ({} if best is None else {ENSEMBLE: best})
        written = {PEOPLE: continued(self.writer, found)}
        for place, (who, spec) in enumerate(specs.items()):
            told = partial(_part, on_progress, place, len(specs))
            written[who] = write(spec.reopen(self.writer), found, self.settings.context, self.settings.seed, told)
        return measure_texts(written, found, self.judge, self.settings.seed), not_measured(
            has_judge=self.judge is not None
        )


def _forget(writer: Writer, texts: Sequence[ScoredText]) -> list[str]:
    """Take the texts that are measured, and their near-duplicates, out of the writer's memories, and say how many."""
    said = []
    for member in writer.members:
        if isinstance(member.model, LoadedMemory):
            whole = member.model.denoiser.memory
            kept = member.model.denoiser.memory = whole.without([text.tokens[1:] for text in texts])
            lost, held = len(whole.origins) - len(kept.origins), counted(len(whole.origins), "text")
            fate = "it is measured without them" if kept.origins else "so it says nothing"
            said += [f"{lost:,} of {held} in the memory {member.name!r} are this text or nearly so: {fate}"] * (
                lost > 0
            )
    return said


def _check_exact(writer: Writer, *, exact: bool) -> None:
    """Raise UsageError if code lengths are to be measured and a model has none."""
    lacking = next((member.name for member in writer.members if not has_code_length(member.model)), None)
    if exact and lacking is not None:
        problem = (
            f"the code length of {lacking!r} is not known: only masked models whose prefix never changes have one."
        )
        raise UsageError(problem, "Omit --exact.")


def _part(on_progress: Callable[[float], None], done: int, parts: int, share: float) -> None:
    """Report progress in one of several parts."""
    on_progress((done + share) / parts)


def _context(writer: Writer, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Encode the private context, cut to half of the smallest window, and return a sentence if it was cut."""
    if not text:
        return (), ()
    ids = writer.codec.encode(text + BETWEEN)
    room = min((one.model.denoiser.room for one in writer.members if one.role == "small"), default=len(ids) * 2) // 2
    cut = [f"{len(ids) - room} of {len(ids)} tokens of the private context do not fit beside a text"]
    return tuple(ids[:room]), tuple(cut * (len(ids) > room))
