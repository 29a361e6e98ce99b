"""The whole story on a notebook: train a small model, write with it, and measure what it adds to its core."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdcli.generation.selection import choose
from ssdcli.generation.types import Options, Request
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import STARTER, Registry
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import begin

if TYPE_CHECKING:
    from ssdcli.evaluation.scored_text import ScoredText
    from ssdcli.generation.writer import Writer
    from ssdcli.training.job import Trained, Watcher

NOTEBOOK = Path(__file__).parents[1] / "bundled" / "notebook"
NAME = "demo-notebook"
MINUTES = 3.0
CORE, SMALL, ENSEMBLE = "core", "small", "ensemble"
AUTHORS = (CORE, SMALL, ENSEMBLE)

_BATCH_TOKENS = 512  # a quarter of the default: four times the steps on so few notes
_PASSES = 30.0  # so that facts are remembered, at some cost on held-out notes
# Models as small as these ramble at temperature 1.
_WRITING = Options(max_tokens=48, temperature=0.8, top_p=0.9, plain=True)
FACTS = Options(max_tokens=16, temperature=0, seed=0, plain=True)
_REPEATS = 2  # sets of noise levels for each held-out note


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
class HeldoutLoss:
    """Denoising loss on held-out notes.

    documents: how many notes.
    bits_per_byte: of each of AUTHORS.
    better: the better of the two members.
    gain: bits per byte that the ensemble saves over it.
    standard_error: of the gain, with notes as the independent draws.
    """

    documents: int
    bits_per_byte: Mapping[str, float]
    better: str
    gain: float
    standard_error: float


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


def settings_for(notebook: Notebook, minutes: float = MINUTES) -> TrainSettings:
    """How the demo trains: on the notes, for the bundled core (UsageError for impossible minutes)."""
    data = (str(notebook.notes),)
    return TrainSettings(
        data=data, core=STARTER, name=NAME, minutes=minutes, batch_tokens=_BATCH_TOKENS, passes=_PASSES
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
    writers = {CORE: choose(core).open(), SMALL: choose(NO_CORE, [small]).open(), ENSEMBLE: together.open()}
    return Trio(core, small, weight, writers)


def write_all(trio: Trio, prompts: Sequence[str], options: Options = _WRITING) -> list[Continuations]:
    """Let each of AUTHORS continue each prompt, all with the same seed."""
    requests = [Request(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    texts = _texts(trio, requests, options)
    return [
        Continuations(prompt, seed, {author: texts[author][seed] for author in AUTHORS})
        for seed, prompt in enumerate(prompts)
    ]


def predict(trio: Trio, heldout: Path, repeats: int = _REPEATS) -> HeldoutLoss:
    """Measure the denoising loss of the members and their ensemble on notes that neither member has seen."""
    from ssdcli.evaluation.losses import LossSettings, measure

    core, small = (trio.writers[author].members[0].model.denoiser for author in (CORE, SMALL))
    texts = _heldout_texts(trio.core, heldout)
    window = min(core.backbone.context, small.backbone.context)
    shares = {CORE: 0.0, SMALL: 1.0, ENSEMBLE: trio.weight}
    losses = measure(
        (core.backbone, small.backbone),
        core.process,
        texts,
        sorted(set(shares.values())),
        LossSettings(window, repeats),
    )
    bits = {author: float(losses.bits_per_byte()[losses.place(share)]) for author, share in shares.items()}
    better = min((CORE, SMALL), key=lambda author: bits[author])
    gain, error = losses.difference(trio.weight, shares[better])
    in_bits = float(losses.tokens.sum() / losses.bytes.sum()) / math.log(2)
    return HeldoutLoss(len(texts), bits, better, gain * in_bits, error * in_bits)


def recall(trio: Trio, facts: Sequence[Fact], options: Options = FACTS) -> list[Recall]:
    """Let each of AUTHORS complete the sentences, greedily; a text that holds the answer, in any case, is a hit.

    Each also ranks the answers of all facts for every sentence; a fact is told apart if its own answer comes first.
    """
    texts = _texts(trio, [Request(fact.prompt, seed=0) for fact in facts], options)
    chosen = {author: _chosen(trio.writers[author], facts) for author in AUTHORS}
    recalls = []
    for place, fact in enumerate(facts):
        said = {author: texts[author][place] for author in AUTHORS}
        said_it = {author: _says(text, fact.answer) for author, text in said.items()}
        recalls.append(Recall(fact, said, said_it, {author: chosen[author][place] for author in AUTHORS}))
    return recalls


def _chosen(writer: Writer, facts: Sequence[Fact]) -> list[str]:
    """Choose an answer for each fact's sentence: the one whose log p gains most over its mean for all sentences.

    The mean takes out that some answers are likely anywhere (short ones, common words).
    """
    answers = [" " + fact.answer for fact in facts]
    scores = [writer.score(fact.prompt, answers) for fact in facts]
    usual = [sum(column) / len(column) for column in zip(*scores, strict=True)]
    gains = [[score - mean for score, mean in zip(row, usual, strict=True)] for row in scores]
    return [facts[row.index(max(row))].answer for row in gains]


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
