"""Many prompts continued in one batch by an ensemble beside a causal core, one token a step.

On a CPU the engine runs a causal core row by row, so that a row is bit for bit what it is alone. Here all rows share a
pass, which reads the weights once: the same texts but for rounding, a dozen times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.api import Request, Writer
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.generation.prompt_encoder import PromptEncoder, PromptParts
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
from ssdcli.models.memory.recall_denoiser import RecallDenoiser


class Member(Protocol):
    """What predicts the next token of every row."""

    def log_p(self) -> Tensor:
        """Of the next tokens: (B, V)."""

    def append(self, tokens: Tensor) -> None:
        """Go on after these tokens, (B,)."""


class CoreMember:
    """A causal LM in transformers' own class, its prompts padded on the left."""

    def __init__(self, backbone: Any, prompts: Sequence[Sequence[int]], shared: Sequence[int] = ()) -> None:
        """Read the prompts; shared: ids before all of them, which are read once."""
        self.backbone, rows, width = backbone, len(prompts), max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        self.seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        self.cache = None
        if shared:
            self.cache = backbone.model.model(torch.tensor([shared]), use_cache=True).past_key_values
            self.cache.batch_repeat_interleave(rows)
            self.seen = torch.cat([torch.ones(rows, len(shared), dtype=torch.int64), self.seen], dim=1)
        self._read(ids)

    def _read(self, ids: Tensor) -> None:
        places = (self.seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        read = self.backbone.model.model(
            ids, attention_mask=self.seen, position_ids=places, past_key_values=self.cache, use_cache=True
        )
        self.cache, self.hidden = read.past_key_values, read.last_hidden_state[:, -1]

    def log_p(self) -> Tensor:
        """See `Member`."""
        log_p: Tensor = torch.log_softmax(self.backbone.logits(self.hidden).float(), dim=-1)
        return log_p

    def append(self, tokens: Tensor) -> None:
        """See `Member`."""
        self.seen = torch.cat([self.seen, torch.ones_like(tokens)[:, None]], dim=1)
        self._read(tokens[:, None])


class MemoryMember:
    """A memory, which looks up what is written."""

    def __init__(self, denoiser: MemoryDenoiser, prompts: Sequence[Prompt]) -> None:
        """Begin after the prompts."""
        self.denoiser, self.rows = denoiser, denoiser.start(prompts)

    def log_p(self) -> Tensor:
        """See `Member`."""
        depth = self.denoiser.index.depth
        return torch.stack([self.denoiser.log_p(row.written.tokens[-depth:], (), row) for row in self.rows])

    def append(self, tokens: Tensor) -> None:
        """See `Member`."""
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.written.extend([token])


class SmallMember:
    """A small model, or a memory that recalls, whose canvas is filled from the left."""

    def __init__(self, denoiser: Denoiser | RecallDenoiser, prompts: Sequence[Prompt]) -> None:
        """Begin a canvas after the prompts."""
        self.denoiser: Any = denoiser
        self.prefix, self.known = denoiser.start(prompts), 0
        assert isinstance(denoiser.process, Masked)
        self.hidden = torch.full((len(prompts), denoiser.block_size), denoiser.process.mask_id)
        self.canvas = self.hidden.clone()

    def log_p(self) -> Tensor:
        """See `Member`."""
        level = 1 - self.known / self.canvas.shape[1]
        log_p: Tensor = self.denoiser.denoise(self.canvas, level, None, self.prefix)[:, self.known]
        return log_p

    def append(self, tokens: Tensor) -> None:
        """See `Member`."""
        self.canvas[:, self.known] = tokens
        self.known += 1
        if self.known == self.canvas.shape[1]:
            self.prefix = self.denoiser.commit(self.canvas, self.prefix)
            self.canvas, self.known = self.hidden.clone(), 0


@dataclass(frozen=True)
class Drawing:
    """How tokens are chosen.

    count: how many are written.
    temperature: 0 for greedily; else they are drawn with a fixed seed.
    no_repeat: n, where no n-gram of the prompt and the text so far is written again; 0 to allow all.
    """

    count: int
    temperature: float = 0.0
    no_repeat: int = 0


@torch.inference_mode()
def write(members: Sequence[Member], writer: Writer, prompts: Sequence[Sequence[int]], how: Drawing) -> Tensor:
    """Continue all rows, whose prompts have these ids: (B, count) int64."""
    generator, temperature = torch.Generator().manual_seed(0), how.temperature
    ensemble, rows, written = writer.ensemble, [list(prompt) for prompt in prompts], []
    for _ in range(how.count):
        log_p = ensemble.combine([member.log_p() for member in members], ensemble.weights(0.5))
        for place, row in enumerate(rows):
            log_p[place, _forbidden(row, how.no_repeat)] = -torch.inf
        if temperature == 0:
            tokens = log_p.argmax(-1)
        else:
            tokens = torch.multinomial((log_p / temperature).softmax(-1), 1, generator=generator)[:, 0]
        for member in members:
            member.append(tokens)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        written.append(tokens)
    return torch.stack(written, dim=1)


def _forbidden(text: Sequence[int], n: int) -> list[int]:
    """The ids that would write an n-gram of the text again; none for 0."""
    if n == 0 or len(text) < n:
        return []
    last = text[-(n - 1) :]
    return [text[at + n - 1] for at in range(len(text) - n + 1) if text[at : at + n - 1] == last]


def begun(writer: Writer, requests: Sequence[Request], shared: Sequence[int] = ()) -> list[Member]:
    """The members of an ensemble after these prompts, each as it sees them; shared: ids that the core reads first."""
    encoder = PromptEncoder(writer.members, gap=0)
    members: list[Member] = []
    rows = [encoder.prompts(request, PromptParts(request.prompt), ()) for request in requests]
    for member, prompts in zip(writer.members, zip(*rows, strict=True), strict=True):
        denoiser: Any = member.model.denoiser
        if member.role == "core":
            own = [prompt.before[1:] if shared else prompt.before for prompt in prompts]
            members.append(CoreMember(denoiser.backbone, own, shared))
        elif member.role == "memory" and not isinstance(denoiser, RecallDenoiser):
            members.append(MemoryMember(denoiser, prompts))
        else:
            members.append(SmallMember(denoiser, prompts))
    return members
