"""The note that is most like a text, shown to a model before the text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus, encode, read_texts
from benchmarks.lib.gaps import Gap, GapSettings, View, Viewer, choose_gaps, left_side, measure
from benchmarks.lib.models import Model
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.combinations import Combination
from ssdcli.text.messages import BETWEEN
from ssdcli.text.passages import Bm25

SHOWN = ", shown a note"
Measure = Callable[[Sequence[Combination]], Columns]


class Library:
    """Notes in pieces of a few tokens, found by the tokens that they share with a text."""

    def __init__(self, notes: Sequence[Sequence[int]], length: int) -> None:
        """Cut every note into pieces of at most `length` tokens."""
        self.pieces = [list(note[start : start + length]) for note in notes for start in range(0, len(note), length)]
        self._ranking = Bm25(self.pieces)

    def best(self, query: Sequence[int]) -> list[int]:
        """The piece that is most like a query; the first if none shares a token with it."""
        return self.pieces[self._ranking.ranked(query)[0]]


@dataclass(frozen=True)
class Shelf:
    """A library whose notes are put before texts.

    end: the id that opens a document.
    between: the ids between a note and the text after it.
    room: the tokens that a model can read before a canvas.
    """

    library: Library
    end: int
    between: Sequence[int]
    room: int

    @classmethod
    def of(cls, texts: Sequence[str], model: Model, note: int, room: int) -> Shelf:
        """Notes of at most `note` tokens, put before texts as private context is."""
        between = model.tokenizer.encode(BETWEEN, add_special_tokens=False).ids
        return cls(Library(encode(texts, model.tokenizer), note), model.end, between, room)

    def view(self) -> View:
        """The text before a gap, preceded by the note that is most like it; each note is looked up once."""
        found: dict[int, Prompt] = {}

        def shown(gap: Gap) -> Prompt:
            if gap.key not in found:
                found[gap.key] = self._shown([token for token in gap.before if token != self.end])
            return found[gap.key]

        return shown

    def _shown(self, text: Sequence[int]) -> Prompt:
        note = [self.end, *self.library.best(text), *self.between]
        return Prompt([*note, *text[max(0, len(text) + len(note) - self.room) :]])


def add_notes(parser: ArgumentParser, repeats: int) -> None:
    """Add the arguments that `gaps_of` needs besides those of every long benchmark."""
    parser.add_argument("--note", type=int, default=96, help="tokens of a note that are shown, at most")
    parser.add_argument("--repeats", type=int, default=repeats, help="blocks of a document that are measured")


def gaps_of(
    models: Mapping[str, Model], shown: Sequence[str], corpus: Corpus, given: Namespace
) -> tuple[dict[str, Viewer], Measure]:
    """Viewers of blocks of a corpus's held-out documents, and the function that measures combinations of them.

    Every model is shown the text before the block. Some (`shown`) are there once more, with SHOWN after their names,
    shown the most similar note of the training text as well. The first model is the core, whose block size all have.
    """
    core = next(iter(models.values()))
    room = min(model.denoiser.room for model in models.values())
    note = Shelf.of(read_texts(corpus.train), core, given.note, room).view()
    viewers = {name: Viewer(model.denoiser, left_side) for name, model in models.items()}
    viewers |= {name + SHOWN: Viewer(models[name].denoiser, note) for name in shown}
    block = core.backbone.block_size
    settings = GapSettings(block, block, left=room, per_document=given.repeats)
    gaps = choose_gaps(core.scored_texts(corpus.heldout, given.documents), settings)
    return viewers, lambda combinations: measure(list(viewers.values()), combinations, gaps, settings).columns()
