"""The whole story on a notebook: train a small model, write with it, and measure what it adds to its core."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.generation.types import Options, Request
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Registry
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import begin

if TYPE_CHECKING:
    from ssdcli.engine.ensemble.members import Member
    from ssdcli.evaluation.measurement import Estimate
    from ssdcli.evaluation.scored_text import ScoredText
    from ssdcli.generation.loaded_model import LoadedModel
    from ssdcli.generation.writer import Writer
    from ssdcli.training.job import Trained, Watcher

NOTEBOOK = Path(__file__).parents[1] / "bundled" / "notebook"
NAME = "demo-notebook"
MINUTES = 3.0
CORE, SMALL, ENSEMBLE = "core", "small", "ensemble"
AUTHORS = (CORE, SMALL, ENSEMBLE)

_BATCH_TOKENS = 512  # a quarter of the default: four times the steps on so few notes
_PASSES = 30.0  # so that facts are remembered, at some cost on held-out notes
_PATIENCE = 0  # all passes, down to the end of the learning rate: beside a core, a small model may be too sure
# Models as small as these ramble at temperature 1, and go in circles at 0.
_WRITING = Options(max_tokens=48, temperature=0, repetition_penalty=1.2, plain=True)
FACTS = Options(max_tokens=16, temperature=0, seed=0, plain=True)


@dataclass(frozen=True)
class Fact:
    """A sentence of the notes.

    id: its name.
    prompt: its beginning.
    answer: what comes next.
    """

    id: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Notebook:
    """A folder of notes.

    folder: holds the notes to train on, and held-out ones.
    title: the notebook's name.
    description: what it is about, in a sentence.
    prompts: beginnings to continue.
    facts: sentences of the notes, to be completed.
    """

    folder: Path
    title: str
    description: str
    prompts: tuple[str, ...]
    facts: tuple[Fact, ...]

    @property
    def notes(self) -> Path:
        """The notes that are trained on."""
        return self.folder / "notes"

    @property
    def heldout(self) -> Path:
        """The notes that no model has seen."""
        return self.folder / "heldout"


@dataclass(frozen=True)
class Trio:
    """A core, a small model made for it, and their ensemble.

    core: the core's name.
    small: the small model's name.
    weight: the small model's, beside the core.
    writers: one for each of AUTHORS.
    """

    core: str
    small: str
    weight: float
    writers: Mapping[str, Writer]

    @property
    def members(self) -> tuple[Member[LoadedModel], ...]:
        """The core and the small model."""
        from ssdcli.generation.loaded_model import models_of

        return models_of([self.writers[author].members[0] for author in (CORE, SMALL)])


@dataclass(frozen=True)
class Continuations:
    """What AUTHORS write after one prompt.

    prompt: the beginning.
    seed: the same for all.
    texts: by author.
    """

    prompt: str
    seed: int
    texts: Mapping[str, str]


@dataclass(frozen=True)
class CodeLength:
    """Exact code length of held-out notes.

    documents: how many notes.
    bits_per_byte: of each of AUTHORS, with 95% intervals; notes are the independent draws.
    better: the better of the two members.
    gain: bits per byte that the ensemble saves over it.
    """

    documents: int
    bits_per_byte: Mapping[str, Estimate]
    better: str
    gain: Estimate


@dataclass(frozen=True)
class Recall:
    """How AUTHORS did on one fact.

    fact: the sentence.
    texts: what each of them wrote.
    hits: whether that holds the answer.
    chosen: which of all facts' answers each of them finds likeliest.
    """

    fact: Fact
    texts: Mapping[str, str]
    hits: Mapping[str, bool]
    chosen: Mapping[str, str]

    @property
    def told_apart(self) -> dict[str, bool]:
        """Which of AUTHORS chose the right answer."""
        return {author: answer == self.fact.answer for author, answer in self.chosen.items()}


def read_notebook(folder: Path = NOTEBOOK) -> Notebook:
    """Read a notebook's description, prompts and facts; its notes stay where they are."""
    about = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    lines = (folder / "cloze.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line) for line in lines if line.strip()]
    return Notebook(
        folder,
        about["title"],
        about["description"],
        tuple(about["prompts"]),
        tuple(Fact(fact["id"], fact["prompt"], fact["answer"]) for fact in facts),
    )


def settings_for(notebook: Notebook, minutes: float, core: str) -> TrainSettings:
    """How the demo trains: on the notes, for a core (UsageError for impossible minutes)."""
    data = (str(notebook.notes),)
    return TrainSettings(
        data=data,
        core=core,
        name=NAME,
        minutes=minutes,
        batch_tokens=_BATCH_TOKENS,
        passes=_PASSES,
        patience=_PATIENCE,
    )


def train(settings: TrainSettings, watcher: Watcher) -> Trained:
    """Train and register the small model, replacing an earlier one of its name."""
    from ssdcli.training.job import train_small

    registry = Registry()
    begin(registry, settings, overwrite=True)
    return train_small(settings, watcher, overwrite=True, registry=registry)


def open_trio(core: str, small: str) -> Trio:
    """Load the core alone, the small model alone, and both at the small model's tuned weight."""
    together = choose(core, [small])
    weight = next(member.weight for member in together.members if member.model.entry.name == small)
    both = together.open()
    writers = {CORE: _opened(choose(core), both), SMALL: _opened(choose(NO_CORE, [small]), both), ENSEMBLE: both}
    return Trio(core, small, weight, writers)


def _opened(spec: EnsembleSpec, other: Writer) -> Writer:
    """Open an ensemble, with another's models if it has them: a core at weight 0 was not loaded."""
    loaded = {member.name for member in other.members}
    return spec.reopen(other) if loaded.issuperset(member.name for member in spec.members) else spec.open()


def write_all(trio: Trio, prompts: Sequence[str], options: Options = _WRITING) -> list[Continuations]:
    """Let each of AUTHORS continue each prompt, all with the same seed."""
    requests = [Request(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    texts = _texts(trio, requests, options)
    return [
        Continuations(prompt, seed, {author: texts[author][seed] for author in AUTHORS})
        for seed, prompt in enumerate(prompts)
    ]


def predict(trio: Trio, heldout: Path) -> CodeLength:
    """Measure the code length, under each of AUTHORS, of notes that neither member has seen."""
    from ssdcli.engine.ensemble.schedules import Constant
    from ssdcli.evaluation.code_length import CodeSettings, code_lengths
    from ssdcli.evaluation.combinations import Combination, alone
    from ssdcli.evaluation.estimates import ratio

    members = trio.members
    ensemble = trio.writers[ENSEMBLE].ensemble
    schedules = {member.name: member.schedule for member in ensemble.members}
    both = Combination(ensemble.rule, tuple(schedules.get(member.name, Constant(0.0)) for member in members))
    losses = code_lengths(members, _heldout_texts(trio.core, heldout), [alone(0, 2), alone(1, 2), both], CodeSettings())
    bits = dict(zip(AUTHORS, losses.sums.T / math.log(2), strict=True))
    better = min((CORE, SMALL), key=lambda author: bits[author].sum())
    lengths = {author: ratio(sums, losses.bytes) for author, sums in bits.items()}
    return CodeLength(len(losses.sums), lengths, better, ratio(bits[better] - bits[ENSEMBLE], losses.bytes))


def recall(trio: Trio, facts: Sequence[Fact], options: Options = FACTS) -> list[Recall]:
    """Let each of AUTHORS complete the sentences, greedily; a text that holds the answer, in any case, is a hit.

    Each also ranks the answers of all facts for every sentence; a fact is told apart if its own answer comes first.
    """
    texts = _texts(trio, [Request(fact.prompt, seed=0) for fact in facts], options)
    chosen = _chosen(trio, facts)
    recalls = []
    for place, fact in enumerate(facts):
        said = {author: texts[author][place] for author in AUTHORS}
        said_it = {author: _says(text, fact.answer) for author, text in said.items()}
        recalls.append(Recall(fact, said, said_it, {author: chosen[author][place] for author in AUTHORS}))
    return recalls


def _chosen(trio: Trio, facts: Sequence[Fact]) -> dict[str, list[str]]:
    """Choose, as each of AUTHORS, an answer for each fact's sentence: the one whose log p gains most over its mean.

    The mean over all sentences takes out that some answers are likely anywhere (short ones, common words).
    """
    scores = _scores(trio, facts)
    chosen = {}
    for author, rows in scores.items():
        usual = [sum(column) / len(column) for column in zip(*rows, strict=True)]
        gains = [[score - mean for score, mean in zip(row, usual, strict=True)] for row in rows]
        chosen[author] = [facts[row.index(max(row))].answer for row in gains]
    return chosen


def _scores(trio: Trio, facts: Sequence[Fact]) -> dict[str, list[list[float]]]:
    """Log p of the answers of all facts after each fact's sentence, a list a sentence, under each of AUTHORS."""
    from ssdcli.demo.endings import Endings, predict_after, predict_together
    from ssdcli.generation.prompt_encoder import PromptEncoder, PromptParts

    members, encoder = trio.members, PromptEncoder(trio.members, gap=0)
    size = members[0].model.denoiser.backbone.block_size
    endings = Endings.of([encoder.codec.encode(" " + fact.answer)[:size] for fact in facts])
    scores: dict[str, list[list[float]]] = {author: [] for author in AUTHORS}
    for fact in facts:
        prompts = encoder.prompts(Request(fact.prompt, plain=True), PromptParts(fact.prompt), ())
        predicted = {
            member.name: predict_after(member.model.denoiser, prompt, endings)
            for member, prompt in zip(members, prompts, strict=True)
        }
        for author, writer in trio.writers.items():
            own = [predicted[member.name] for member in writer.members]
            scores[author].append(endings.log_p(predict_together(writer.ensemble, own, endings, size)))
    return scores


def hits(recalls: Sequence[Recall]) -> dict[str, int]:
    """Count the facts that each of AUTHORS said."""
    return {author: sum(recall.hits[author] for recall in recalls) for author in AUTHORS}


def told_apart(recalls: Sequence[Recall]) -> dict[str, int]:
    """Count the facts that each of AUTHORS told apart."""
    return {author: sum(recall.told_apart[author] for recall in recalls) for author in AUTHORS}


def _texts(trio: Trio, requests: Sequence[Request], options: Options) -> dict[str, list[str]]:
    return {
        author: [result.text for result in trio.writers[author].generate_batch(requests, options)] for author in AUTHORS
    }


def _says(text: str, answer: str) -> bool:
    return " ".join(answer.split()).casefold() in " ".join(text.split()).casefold()


def _heldout_texts(core: str, folder: Path) -> list[ScoredText]:
    """Read the notes of a folder in the core's tokens."""
    from ssdcli.data.documents import ReadReport
    from ssdcli.data.readers.files import read_documents
    from ssdcli.evaluation.scored_text import scored_text
    from ssdcli.text.openings import end_of_text
    from ssdcli.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Registry().find(core).folder, core)
    end = end_of_text(tokenizer)
    return [scored_text(document.text, tokenizer, end) for document in read_documents([str(folder)], ReadReport())]
