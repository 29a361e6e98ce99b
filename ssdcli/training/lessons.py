"""Lessons that a causal core writes from documents: what it says once it has read one, and how it predicts that.

Context distillation in two stages (Padmanabhan et al., "Propagating knowledge updates to LMs through distillation",
2023), with the core as its own teacher. First it reads a passage and writes on from how a sentence of it begins, again
and again. Then an adapter of it learns to predict what was written, without the passage, as the core did that had read
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ssdcli.data.store_side import StoreSide
from ssdcli.data.windows import Corpus, Windows, WindowShape
from ssdcli.engine.noise import fold
from ssdcli.errors import require
from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.options.checks import seed_word
from ssdcli.registry.disk import replacing
from ssdcli.text.codec import Codec
from ssdcli.text.messages import BETWEEN
from ssdcli.text.openings import ends_of
from ssdcli.training.core_states import CoreTexts
from ssdcli.training.own_text import write_on

if TYPE_CHECKING:
    from ssdcli.training.prepare import Prepared

PASSAGE = 256  # tokens that the core reads before it writes
CUE, WRITTEN = 4, 32  # tokens of a sentence that a lesson begins with, and those that the core writes after them
_EACH = 5  # lessons of a passage
_BESIDE = 8  # lessons beside a window of text
_MOST_BYTES = 1 << 30  # of states
_CLOSING = tuple(".!?:;\n。！？：；")  # a sentence begins after such a token
_LESSONS = 1  # names the draws of their order
_FILE = "lessons.safetensors"


@dataclass(frozen=True)
class Lessons:
    """What was written, and how it was predicted.

    tokens: an opening, how a sentence of a passage begins, and what was written then: (R, 1 + CUE + WRITTEN) int64.
    states: the core's that predicted what it wrote, which had read the passage: (R, WRITTEN, H) bfloat16.
    """

    tokens: Tensor
    states: Tensor

    @classmethod
    def joined(cls, parts: list[Lessons]) -> Lessons:
        """Those of all parts, one at least."""
        return cls(torch.cat([part.tokens for part in parts]), torch.cat([part.states for part in parts]))

    @classmethod
    def open(cls, folder: Path) -> Lessons | None:
        """Those that `save` left in a folder, if it did."""
        path = folder / _FILE
        return cls(**load_file(path)) if path.exists() else None

    def save(self, folder: Path) -> None:
        """Keep them in a folder."""
        with replacing(folder / _FILE) as stream:
            stream.write(save({"tokens": self.tokens, "states": self.states}))


@dataclass(frozen=True)
class LessonWriter:
    """A core that writes on from what it has read.

    ends: ids that end a text, which it does not write.
    """

    core: CausalCore
    codec: Codec
    ends: tuple[int, ...]

    def lessons(self, texts: CoreTexts, stops: Callable[[int], bool]) -> Lessons:
        """Lessons of all documents, in a random order, until there are enough; UsageError for none.

        texts: whose windows are the passages.
        stops: asked after each document with the number of those that were read.
        """
        parts: list[Lessons] = []
        order = np.random.default_rng(seed_word(texts.seed)).permutation(len(texts.side.documents)).tolist()
        for done, number in enumerate(order, 1):
            for place, passage in enumerate(texts.passages(number)):
                own = [token for token in passage.tokens[1:] if token != texts.end]
                if len(own) >= CUE:
                    random = torch.Generator().manual_seed(fold(texts.seed, number, place) >> 1)
                    parts.append(self.of(texts.opening, own, random))
            if parts and (stops(done) or len(parts) * parts[0].states.nbytes >= _MOST_BYTES):
                break
        problem = f"no document has the {CUE} tokens that the core would write on from."
        require(bool(parts), problem, "Pass longer documents, or omit --distill-context.")
        return Lessons.joined(parts)

    @torch.no_grad()
    def of(self, opening: int, passage: list[int], random: torch.Generator) -> Lessons:
        """The lessons of a passage."""
        starts, between = torch.tensor(self._starts(passage)), self.codec.encode(BETWEEN)
        chosen = starts[torch.randint(len(starts), (_EACH,), generator=random)]
        cues = torch.tensor(passage)[chosen[:, None] + torch.arange(CUE)]
        read = self._extended(self.core.new_cache(), torch.tensor([[opening, *passage, *between]]))
        read = self._extended(read.for_rows(_EACH), cues)
        written, states = write_on(self.core, read, WRITTEN, random, never=self.ends)
        tokens = torch.cat([torch.full((_EACH, 1), opening), cues, written], dim=1)
        return Lessons(tokens, states.to("cpu", torch.bfloat16))

    def _starts(self, passage: list[int]) -> list[int]:
        """Where sentences begin in a passage, which is such a place itself, with a cue's tokens from there on."""
        closed = (self.codec.decode([token]).rstrip(" ").endswith(_CLOSING) for token in passage)
        later = [place for place, after in enumerate(closed, 1) if after and place <= len(passage) - CUE]
        return [0, *later]

    def _extended(self, read: PrefixCache, tokens: Tensor) -> PrefixCache:
        """What it has read with further tokens (R, n)."""
        places = torch.arange(read.columns, read.columns + tokens.shape[1], device=self.core.device)
        return self.core.extend(self.core.embed(tokens.to(self.core.device)), places.expand_as(tokens), None, read)


def read_lessons(prepared: Prepared, stops: Callable[[int], bool]) -> Lessons | None:
    """The lessons of a training of an adapter of a causal core that asks for them, written unless an earlier start has.

    UsageError for a core that has no room for them.
    """
    model, settings = prepared.model, prepared.settings
    if not isinstance(model, TunedCore) or not settings.distill_context:
        return None
    kept = Lessons.open(prepared.workspace)
    if kept is not None:
        return kept
    codec = Codec(prepared.tokenizer)
    room = model.config.context - 1 - len(codec.encode(BETWEEN)) - CUE - WRITTEN
    problem = f"the core's context of {model.config.context} tokens has no room for a passage and what follows it."
    require(room >= CUE, problem, "Omit --distill-context.")
    adapter = prepared.beginning.adapter
    assert prepared.core is not None
    assert adapter is not None
    writer = LessonWriter(model.core, codec, ends_of(prepared.core, prepared.tokenizer))
    side = StoreSide.of(prepared.store, "train")
    texts = CoreTexts(side, prepared.opening, prepared.end, min(PASSAGE, room), settings.seed)
    with adapter.disable_adapter():  # untrained, it would change nothing but the time
        lessons = writer.lessons(texts, stops)
    lessons.save(prepared.workspace)
    return lessons


class LessonWindows(Windows):
    """Windows of text and, beside each, lessons in endless epochs of their own; sample i is always the same."""

    def __init__(self, corpus: Corpus, shape: WindowShape, seed: int, samples: int, lessons: Lessons) -> None:
        """Of these documents and lessons."""
        super().__init__(corpus, shape, seed, samples)
        self._lessons = lessons

    def __getitem__(self, index: int) -> dict[str, Tensor | dict[str, Tensor]]:
        sample = super().__getitem__(index)
        columns = sample["columns"]
        assert isinstance(columns, dict)
        rows = torch.tensor([self._row(index * _BESIDE + number) for number in range(_BESIDE)])
        beside = {"lessons": self._lessons.tokens[rows], "taught": self._lessons.states[rows]}
        return sample | {"columns": columns | beside}

    def _row(self, number: int) -> int:
        """The row of the lesson of this number."""
        epoch, place = divmod(number, len(self._lessons.tokens))
        random = np.random.default_rng((seed_word(self._seed), epoch, _LESSONS))
        return int(random.permutation(len(self._lessons.tokens))[place])
