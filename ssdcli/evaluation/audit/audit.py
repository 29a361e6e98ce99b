"""`ssd audit`: how much of its training text a model reveals, by three measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np
from tokenizers import Tokenizer

from ssdcli.data.canaries import Canaries, read_canaries
from ssdcli.engine.denoiser import Backbone
from ssdcli.engine.noise import fold
from ssdcli.engine.process import Process
from ssdcli.errors import SsdError, UsageError
from ssdcli.evaluation.audit.findings import Audit, Exposure, Membership, Verbatim, expose
from ssdcli.evaluation.audit.membership import ENOUGH, attack, match
from ssdcli.evaluation.audit.training_text import Excerpts, TrainingText, find_training_text, read_excerpts
from ssdcli.evaluation.audit.verbatim import find, share
from ssdcli.evaluation.eval_settings import AuditSettings
from ssdcli.evaluation.losses import LossSettings, measure
from ssdcli.evaluation.measurement import OnProgress
from ssdcli.evaluation.scored_text import ScoredText, scored_text
from ssdcli.generation.loaded_model import Shared, models_of, open_model
from ssdcli.generation.selection import choose
from ssdcli.generation.types import Options, Request
from ssdcli.generation.writer import Writer
from ssdcli.registry.compatibility import misfit
from ssdcli.registry.manifest import HEAD, MEMORY
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Rounds:
    """Iterates over the numbers of the rounds: at least one, and none that is expected to end too late.

    most: rounds, at most.
    seconds: by which the last one should end.
    on_round: told after every round which share is done, by number or by time, whichever is larger.
    clock: in seconds.
    """

    most: int
    seconds: float
    on_round: Callable[[float], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic

    def __iter__(self) -> Iterator[int]:
        began = self.clock()
        for number in range(self.most):
            yield number
            spent, done = self.clock() - began, number + 1
            next_end = spent * (done + 1) / done
            is_last = done == self.most or next_end > self.seconds
            self.on_round(1.0 if is_last else max(done / self.most, spent / self.seconds))
            if is_last:
                return


def paired_losses(
    members: Sequence[Backbone],
    process: Process,
    texts: Sequence[ScoredText],
    settings: LossSettings,
    rounds: Rounds,
) -> np.ndarray:
    """Measure the loss of each text under one or two members, all noised alike: (D, members), nats.

    Each round draws new noise levels and new noise, the same for all texts: their losses are compared, and what the
    noise adds to all of them cancels.
    """
    alike = [replace(text, noise=0) for text in texts]
    total, count = np.zeros((len(texts), len(members))), 0
    for number in rounds:
        drawn = replace(settings, seed=fold(settings.seed, number), repeats=1)
        total += measure(members, process, alike, range(len(members)), drawn).sums
        count += 1
    return np.asarray(total / count)


_CANDIDATES = 511  # sentences that a canary is ranked among: with itself 512, for an exposure of up to 9 bits
_DRAWS = 32  # sets of noise levels of a loss, at most
_WINDOW = 256  # tokens of a document that are measured
_SHORTEST = 16  # tokens of a document that is measured, at least
_BATCH_TOKENS = 2048
_TOGETHER = 8  # texts of a round, half of them with a prompt
_WRITTEN = 64  # texts that are written, at most
_TEXT_TOKENS = 128
_PROMPT = 100  # characters of a prompt
_BASELINE = 20_000  # characters of held-out text that are searched for


def audit(
    name: str,
    data: Sequence[str] = (),
    settings: AuditSettings | None = None,
    on_progress: OnProgress = lambda _doing, _share: None,
    registry: Registry | None = None,
) -> Audit:
    """Measure what a model reveals and store the result in its manifest.

    data: the text that it was trained on; without it only canaries are measured. A memory is told of, not measured.

    Raises NoSuchModel, UsageError for a model that cannot be audited and for text that is not its own, SsdError for a
    model that cannot be read.
    """
    began = time.monotonic()
    settings, registry = settings or AuditSettings(), registry or Registry()
    entry = _auditable(registry.find(name))
    memory = entry.manifest.memory
    if entry.manifest.kind == MEMORY:
        return Audit(name, None, None, None, None, settings.seed, time.monotonic() - began, memory, has_weights=False)
    canaries = read_canaries(entry.folder)
    text = find_training_text(entry, data) if data else None
    if canaries is None and text is None:
        problem = f"{name!r} was trained without canaries, and no text is named, so there is nothing to measure."
        raise UsageError(problem, f"Name the text that it was trained on: ssd audit {name} DATA.")
    on_progress("reading", 0.0)
    known = None if text is None else read_excerpts(text, Random(settings.seed))
    parts = (canaries is not None) + 2 * (text is not None)
    auditor = _Auditor(_load(entry, registry), settings.seed, 60 * settings.minutes / parts, on_progress)
    found = Audit(
        name,
        exposure=None if canaries is None else auditor.expose(canaries),
        verbatim=None if text is None or known is None else auditor.search(text, known),
        membership=None if known is None else auditor.guess(known, _core(entry, registry)),
        documents=None if known is None else known.documents,
        seed=settings.seed,
        seconds=time.monotonic() - began,
        memory=memory,
    )
    registry.set_metrics(name, found.metrics())
    return found


def _auditable(entry: Entry) -> Entry:
    """The model if it was trained here; else raise UsageError."""
    if entry.bundled or entry.manifest.source is not None:
        origin = "comes with ssd" if entry.bundled else f"was pulled from {entry.manifest.source}"
        problem = f"{entry.name!r} {origin}, and ssd does not know what it was trained on."
        raise UsageError(problem, "Audit a model that was made with 'ssd train-small'.")
    if entry.manifest.kind == HEAD:
        raise UsageError(f"{entry.name!r} is a draft head, which writes no text.", "Audit a small model.")
    return entry


@dataclass(frozen=True)
class _Subject:
    """The model under audit.

    writer: lets it write.
    tokenizer: its own, which reads special tokens as plain text.
    """

    writer: Writer
    tokenizer: Tokenizer

    @property
    def backbone(self) -> Backbone:
        return models_of(self.writer.members)[0].model.denoiser.backbone

    def encode(self, text: str) -> ScoredText:
        """Encode a whole text between two ends of text, as in training."""
        end = self.writer.members[0].model.format.ends[0]
        scored = scored_text(text, self.tokenizer, end)
        return replace(scored, tokens=[*scored.tokens, end])

    def losses(self, scored: Sequence[ScoredText], core: Backbone | None, seed: int, rounds: Rounds) -> np.ndarray:
        """Measure each text's loss in nats under the model, preceded by that under its core if given: (D, 1 or 2)."""
        members = [self.backbone] if core is None else [core, self.backbone]
        room = min(member.context for member in members)
        window = min(room, max(len(one.tokens) for one in scored))
        settings = LossSettings(window, seed=seed, batch=max(1, _BATCH_TOKENS // window))
        return paired_losses(members, self.writer.members[0].model.denoiser.process, scored, settings, rounds)


def _load(entry: Entry, registry: Registry) -> _Subject:
    core, members = (entry.name, {}) if entry.manifest.kind == "core" else (NO_CORE, {entry.name: 1.0})
    writer = choose(core, members, registry).open()  # without its memory, which holds the text itself
    tokenizer = load_tokenizer(entry.folder, entry.name)
    tokenizer.encode_special_tokens = True
    return _Subject(writer, tokenizer)


def _core(entry: Entry, registry: Registry) -> Backbone | None:
    """Load the core that a model was made for, if it is registered and reads text as the model does."""
    made_for, own = entry.manifest.core, entry.manifest
    if made_for is None:
        return None
    try:
        core = registry.find(made_for)
        # Both must see the same canvases, so their attention must be the same, too.
        alike = core.manifest.attention == own.attention and misfit(core.manifest, own) is None
        return open_model(core, shared=Shared(block_size=own.block_size)).denoiser.backbone if alike else None
    except SsdError:
        return None


@dataclass(frozen=True)
class _Auditor:
    """Takes the three measures of a model.

    subject: the model.
    seed: of all random draws.
    seconds: for each measure.
    on_progress: called with progress.
    """

    subject: _Subject
    seed: int
    seconds: float
    on_progress: OnProgress

    def _rounds(self, doing: str, most: int) -> Rounds:
        self.on_progress(doing, 0.0)
        return Rounds(most, self.seconds, partial(self.on_progress, doing))

    def expose(self, canaries: Canaries) -> Exposure:
        """Rank the canaries among sentences of the same form that were never planted."""
        texts = [*canaries.texts(), *canaries.candidates(_CANDIDATES, self.seed)]
        scored = [self.subject.encode(text) for text in texts]
        losses = self.subject.losses(scored, None, self.seed, self._rounds("exposure", _DRAWS))[:, 0]
        return expose(losses[: canaries.count], losses[canaries.count :], canaries.times())

    def search(self, text: TrainingText, known: Excerpts) -> Verbatim:
        """Let the model write, and search the training text for what it wrote.

        Spans that are also in held-out text are common (a greeting, a licence) and do not count as copied. Held-out
        text itself, searched for in the training text, shows how much people repeat anyway.
        """
        prompted, unprompted = self._write([_beginning(one) for one in known.train if len(one) > 2 * _PROMPT])
        heldout = _up_to(known.heldout, _BASELINE)
        self.on_progress("searching", 0.0)
        found = find([*prompted, *unprompted, *heldout], text.documents())
        copied, baseline = found.in_training - found.in_heldout, share(heldout, found.in_training)
        return Verbatim(share(prompted, copied), share(unprompted, copied), baseline, len(prompted + unprompted))

    def _write(self, beginnings: Sequence[str]) -> tuple[list[str], list[str]]:
        """Let the model write after beginnings of documents, and after nothing."""
        prompted: list[str] = []
        unprompted: list[str] = []
        half = _TOGETHER // 2
        for number in self._rounds("writing", _WRITTEN // _TOGETHER):
            prompts = beginnings[half * number : half * (number + 1)]
            requests = [*map(Request, prompts), *[Request()] * (_TOGETHER - len(prompts))]
            options = Options(max_tokens=_TEXT_TOKENS, seed=self.seed + _TOGETHER * number)
            texts = [result.text for result in self.subject.writer.generate_batch(requests, options)]
            prompted += texts[: len(prompts)]
            unprompted += texts[len(prompts) :]
        return prompted, unprompted

    def guess(self, known: Excerpts, core: Backbone | None) -> Membership | None:
        """Tell training documents from as many held-out ones by their losses; None if there are too few.

        Documents are paired by length and cut to the shorter one, since loss per token falls with length. With a core,
        the score is the core's loss minus the model's: a document that is easy for everybody has a low loss under both;
        one that only the model finds easy was probably in its text. This removes the difficulty of a document, which
        is most of the variance (a likelihood ratio; Carlini et al., "Membership inference attacks from first
        principles", 2022).
        """
        train, heldout = (self._long_enough(texts) for texts in (known.train, known.heldout))
        nearest = match([len(one.tokens) for one in train], [len(one.tokens) for one in heldout])
        pairs = [(train[place], other) for place, other in zip(nearest, heldout, strict=False)]
        if len(pairs) < ENOUGH:
            return None
        lengths = np.array([min(len(one.tokens), len(other.tokens)) for one, other in pairs])
        cut = [
            replace(one, tokens=one.tokens[:length])
            for side in zip(*pairs, strict=True)
            for one, length in zip(side, lengths, strict=True)
        ]
        rounds = self._rounds("membership", _DRAWS)
        losses = self.subject.losses(cut, core, self.seed, rounds) / np.tile(lengths - 1, 2)[:, None]
        known_better = -losses[:, -1]
        by_loss = attack(*np.split(known_better, 2))
        if core is None:
            return Membership(by_loss, None)
        return Membership(by_loss, attack(*np.split(losses[:, 0] + known_better, 2)))

    def _long_enough(self, texts: Sequence[str]) -> list[ScoredText]:
        """Encode the beginnings of the texts that are long enough."""
        window = min(_WINDOW, self.subject.backbone.context)
        scored = [self.subject.encode(text) for text in texts]
        return [replace(one, tokens=one.tokens[:window]) for one in scored if len(one.tokens) > _SHORTEST]


def _beginning(text: str) -> str:
    """The first words of a text."""
    return text[:_PROMPT].rsplit(maxsplit=1)[0]


def _up_to(texts: Sequence[str], characters: int) -> list[str]:
    """Take texts up to a number of characters in total; the last one is cut."""
    chosen = []
    for text in texts:
        chosen.append(text[:characters])
        characters -= len(text)
        if characters <= 0:
            break
    return chosen
