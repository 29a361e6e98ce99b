"""What of a text is predicted, laid out as when it is written: runs of tokens, cut where a member's window slides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of a text that count: all of a plain one after its opening, or an answer.

    Blocks are counted from its start. If it does not count, it is what is heard before an answer.
    """

    text: ScoredText
    start: int
    stop: int
    counts: bool = True

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def tokens(self) -> list[int]:
        """The ids."""
        return list(map(int, self.text.tokens[self.start : self.stop]))


@dataclass(frozen=True)
class Window:
    """A part of a run that a member predicts without reading anew.

    prompt: what it reads before.
    tokens: the part, of whole blocks unless the run ends with it.
    """

    prompt: Prompt
    tokens: list[int]


def runs_of(text: ScoredText, heard: int = 0) -> list[Run]:
    """The runs of a text, in order; before each answer so many tokens at most that do not count, but are heard."""
    runs, start = [], 0
    for counts, run in groupby(text.counted):
        stop = start + len(list(run))
        if counts:
            runs.append(Run(text, start, stop))
        elif (first := max(start, stop - heard, 1)) < stop < len(text.counted):
            runs.append(Run(text, first, stop, counts=False))
        start = stop
    return runs


def windows(model: LoadedModel, run: Run, context: Sequence[int] = ()) -> Iterator[Window]:
    """Cut a run where a member's window slides in writing: each part is read after half of the window at least.

    context: private ids, which stay in view before what a window holds that has slid.
    """
    denoiser, tokens = model.denoiser, run.tokens
    prompt = model.after(run.text.own(run.start), context, opened=run.text.opened)
    always = model.after([], context, opened=run.text.opened).before
    kept = max(1, (denoiser.room - len(always)) // 2)
    while tokens:
        reach = denoiser.reach(prompt)
        window = Window(prompt, tokens[:reach])
        yield window
        beside_context = Prompt([*always, *[*prompt.before[len(always) :], *window.tokens][-kept:]])
        prompt, tokens = beside_context if context else denoiser.slid(prompt, window.tokens), tokens[reach:]
