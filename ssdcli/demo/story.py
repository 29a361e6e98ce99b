"""The whole story on a notebook: train a small model, write with it, and measure what it adds to its core."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssdcli.generation.blend import Blend
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.generation.types import Options, Request
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Registry
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import begin

if TYPE_CHECKING:
    from ssdcli.engine.ensemble.members import Member
    from ssdcli.evaluation.combinations import Combination
    from ssdcli.evaluation.measurement import Estimate
    from ssdcli.evaluation.scored_text import ScoredText
    from ssdcli.generation.loaded_model import Loaded
    from ssdcli.generation.writer import Writer
    from ssdcli.training.job import Trained, Watcher

NOTEBOOK = Path(__file__).parents[1] / "bundled" / "notebook"
NAME = "demo-notebook"
MINUTES = 2.0
CORE, SMALL, ENSEMBLE, MEMORY = AUTHORS = ("core", "small", "ensemble", "with_memory")

_BATCH_TOKENS = 512  # a quarter of the default: four times the steps on so few notes
_PASSES = 30.0  # so that facts are remembered, at some cost on held-out notes
_PATIENCE = 0  # all passes, down to the end of the learning rate: beside a core, a small model may be too sure
# Models as small as these ramble at temperature 1, and go in circles at 0.
_WRITING = Options(max_tokens=48, temperature=0, repetition_penalty=1.2, plain=True)
_ASKING = 75.0  # seconds for facts: on a slow machine fewer are asked, so that the demo takes minutes there, too
_TOGETHER = 8
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
class Cast:
    """A core and a small model made for it, and all who write.

    core: the core's name.
    small: the small model's name.
    weight: the small model's, beside the core without memory.
    writers: by author: the core, the small model, both, and both with the small model's memory, where it has one.
    """

    core: str
    small: str
    weight: float
    writers: Mapping[str, Writer]

    @property
    def members(self) -> dict[str, Member[Loaded]]:
        """All members of all writers, by name."""
        return {member.name: member for writer in self.writers.values() for member in writer.members}


@dataclass(frozen=True)
class Continuations:
    """What each author writes after one prompt.

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
    bits_per_byte: of each author, with 95% intervals; notes are the independent draws.
    gain: bits per byte that all together, the last author, save over the core.
    """

    documents: int
    bits_per_byte: Mapping[str, Estimate]
    gain: Estimate


@dataclass(frozen=True)
class FactAnswers:
    """How the authors did on one fact.

    fact: the sentence.
    texts: what each of them wrote.
    hits: whether that holds the answer.
    """

    fact: Fact
    texts: Mapping[str, str]
    hits: Mapping[str, bool]


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
    settings = TrainSettings(data=(str(notebook.notes),), core=core, name=NAME, minutes=minutes)
    if Registry().find(core).manifest.attention == "autoregressive":
        return settings  # what reads the core's states learns enough by default
    return replace(settings, batch_tokens=_BATCH_TOKENS, passes=_PASSES, patience=_PATIENCE)


def train(settings: TrainSettings, watcher: Watcher) -> Trained:
    """Train and register the small model, replacing an earlier one of its name."""
    from ssdcli.training.job import train_small

    registry = Registry()
    begin(registry, settings, overwrite=True)
    return train_small(settings, watcher, overwrite=True, registry=registry)


def open_cast(core: str, small: str) -> Cast:
    """Load the core alone, the small model alone, both at its tuned weight, and both with its memory if it has one."""
    plain = Blend(memory=False)
    alone, both = choose(NO_CORE, [small], blend=plain), choose(core, [small], blend=plain)
    specs, together = {CORE: choose(core), SMALL: alone, ENSEMBLE: both}, choose(core, [small])
    if any(member.role == "memory" for member in together.members):
        specs[MEMORY] = together
    weight = next(member.weight for member in specs[ENSEMBLE].members if member.name == small)
    everyone = together.open()
    return Cast(core, small, weight, {author: _opened(spec, everyone) for author, spec in specs.items()})


def _opened(spec: EnsembleSpec, other: Writer) -> Writer:
    """Open an ensemble, with another's models if it has them: a core at weight 0 was not loaded."""
    loaded = {member.name for member in other.members}
    return spec.reopen(other) if loaded.issuperset(member.name for member in spec.members) else spec.open()


def write_all(cast: Cast, prompts: Sequence[str], options: Options = _WRITING) -> list[Continuations]:
    """Let each author continue each prompt, all with the same seed."""
    requests = [Request(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    texts = _texts(cast, requests, options)
    return [
        Continuations(prompt, seed, {author: written[seed] for author, written in texts.items()})
        for seed, prompt in enumerate(prompts)
    ]


def predict(cast: Cast, heldout: Path) -> CodeLength:
    """Measure the code length, under each author, of notes that no member has seen."""
    from ssdcli.evaluation.code_length import CodeSettings, code_lengths
    from ssdcli.evaluation.estimates import ratio

    members = cast.members
    combinations = [_combination(writer, list(members)) for writer in cast.writers.values()]
    texts = _heldout_texts(cast.core, heldout)
    losses = code_lengths(list(members.values()), texts, combinations, CodeSettings())
    bits = dict(zip(cast.writers, losses.sums.T / math.log(2), strict=True))
    lengths = {author: ratio(sums, losses.bytes) for author, sums in bits.items()}
    *_, last = bits.values()
    return CodeLength(len(losses.sums), lengths, ratio(bits[CORE] - last, losses.bytes))


def _combination(writer: Writer, names: Sequence[str]) -> Combination:
    """A writer's ensemble as a combination of all members: those that it lacks have weight 0."""
    from ssdcli.engine.ensemble.schedules import Constant
    from ssdcli.evaluation.combinations import Combination

    own = {member.name: member.schedule for member in writer.members}
    return Combination(writer.ensemble.rule, tuple(own.get(name, Constant(0.0)) for name in names))


def recall(
    cast: Cast,
    facts: Sequence[Fact],
    options: Options = FACTS,
    seconds: float = _ASKING,
    clock: Callable[[], float] = time.monotonic,
) -> list[FactAnswers]:
    """Let each author complete the sentences, greedily; a text that holds the answer, in any case, is a hit.

    Some are asked together, and no more once the seconds are over.
    """
    until, answers = clock() + seconds, list[FactAnswers]()
    while len(answers) < len(facts) and (not answers or clock() < until):
        asked = facts[len(answers) : len(answers) + _TOGETHER]
        texts = _texts(cast, [Request(fact.prompt, seed=0) for fact in asked], options)
        for place, fact in enumerate(asked):
            said = {author: written[place] for author, written in texts.items()}
            answers.append(FactAnswers(fact, said, {author: _says(text, fact.answer) for author, text in said.items()}))
    return answers


def hits(answers: Sequence[FactAnswers]) -> dict[str, int]:
    """Count the facts that each author said."""
    return {author: sum(one.hits[author] for one in answers) for author in answers[0].hits}


def _texts(cast: Cast, requests: Sequence[Request], options: Options) -> dict[str, list[str]]:
    return {
        author: [result.text for result in writer.generate_batch(requests, options)]
        for author, writer in cast.writers.items()
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
