"""Text that a causal core writes itself, on from places of a user's text: what its drafts will be asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from ssdcli.engine.noise import fold
from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.text.codec import Codec
from ssdcli.text.messages import Message
from ssdcli.text.openings import TextFormat
from ssdcli.training.core_states import CoreTexts, Passage

_READ, _WRITTEN = 32, 64  # tokens of the user's text, and of the core's after them
_TEMPERATURE = 0.7


@torch.no_grad()
def write_on(
    core: CausalCore, read: PrefixCache, count: int, random: torch.Generator, never: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """What a core writes after what it has read, (R, count) int64, and the states that predicted it, (R, count, D).

    never: ids that it does not write.
    """
    assert read.tail is not None
    states, spaced, drawn, predicting = read.tail[0][:, -1:], read.spaced(count), list[Tensor](), list[Tensor]()
    for place in range(read.columns, read.columns + count):
        logits = core.logits(states)[:, 0].index_fill_(
            -1, torch.tensor(never, dtype=torch.int64, device=core.device), -torch.inf
        )
        p = torch.softmax(logits / _TEMPERATURE, dim=-1).cpu()
        predicting.append(states)
        drawn.append(torch.multinomial(p, 1, generator=random))
        embedded = core.embed(drawn[-1].to(core.device))
        states = core.write(embedded, torch.full_like(drawn[-1], place, device=core.device), spaced, place)
    return torch.cat(drawn, 1), torch.cat(predicting, 1)


@dataclass(frozen=True)
class OwnText:
    """A core that writes on from texts, after a chat template every second time if it has one.

    rows: that it writes together.
    """

    core: CausalCore
    codec: Codec
    form: TextFormat
    rows: int = 16

    def batches(self, texts: CoreTexts) -> Iterator[tuple[list[Passage], int]]:
        """The passages of texts, and after those of each pass some that the core wrote; counted as in `CoreTexts`.

        Only what it wrote counts in the latter; their places lie behind those of the text, apart from each other.
        """
        following = len(texts.side.tokens)
        for number, (batch, documents) in enumerate(texts.batches()):
            yield batch, documents
            random = torch.Generator().manual_seed(fold(texts.seed, number) >> 1)
            prompts = self._prompts(batch, random, asks=self.form.chat is not None and number % 2 == 1)
            written = [
                self._passage(*row, following + place * 2 * _WRITTEN) for place, row in self._rows(prompts, random)
            ]
            following += len(written) * 2 * _WRITTEN
            if written:
                yield written, documents

    def _prompts(self, batch: Sequence[Passage], random: torch.Generator, *, asks: bool) -> Tensor:
        """What the core goes on from, all of one length: (R, n) int64; none where all passages are short."""
        long = [passage.tokens for passage in batch if len(passage.tokens) > _READ]
        prompts = []
        for number in range(self.rows if long else 0):
            tokens = long[number % len(long)]
            start = int(torch.randint(1, len(tokens) - _READ + 1, (), generator=random))
            prompts.append(self._prompt(list(tokens[start : start + _READ]), asks=asks))
        length = Counter(map(len, prompts)).most_common(1)[0][0] if prompts else 0  # text is not always encoded alike
        return torch.tensor([one for one in prompts if len(one) == length], dtype=torch.int64)

    def _prompt(self, tokens: list[int], *, asks: bool) -> list[int]:
        if not asks or self.form.chat is None:
            return [self.form.opening, *tokens]
        return self.codec.encode_chat([Message("user", self.codec.decode(tokens))], self.form.chat.render)

    @torch.no_grad()
    def _rows(self, prompts: Tensor, random: torch.Generator) -> Iterator[tuple[int, tuple[list[int], list[int]]]]:
        """The number of each prompt, the prompt, and what is written after it."""
        if not prompts.numel():
            return
        core = self.core
        positions = torch.arange(prompts.shape[1], device=core.device).expand_as(prompts)
        read = core.extend(core.embed(prompts.to(core.device)), positions, None, core.new_cache())
        drawn, _ = write_on(core, read, _WRITTEN, random)
        yield from zip(count(), zip(prompts.tolist(), drawn.tolist(), strict=True), strict=False)

    def _passage(self, prompt: list[int], drawn: list[int], place: int) -> Passage:
        """A prompt and what was written after it up to an end of text, which stands at this place."""
        kept = next((number + 1 for number, token in enumerate(drawn) if token in self.form.ends), len(drawn))
        counted = [number >= len(prompt) for number in range(1, len(prompt) + kept)]
        places = range(place - len(prompt) + 1, place + kept)
        return Passage([*prompt, *drawn[:kept]], counted, places)
