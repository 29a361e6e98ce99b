"""A text that is read once, whose blocks are then denoised side by side, each after the clean text before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Denoiser, Prefix
from ssdcli.engine.full_attention import BlockCachedDenoiser, FullDenoiser
from ssdcli.engine.noise import GeneratorNoise
from ssdcli.engine.process import Canvas
from ssdcli.engine.prompt import PADDING, Prompt


def can_be_read_whole(denoiser: Denoiser) -> bool:
    """Whether a prefix never sees a canvas and is never forgotten, so that all blocks of a text share one reading.

    A causal language model has no canvas at all (see `CausalDenoiser.states`).
    """
    otherwise = isinstance(denoiser, CausalDenoiser | FullDenoiser | BlockCachedDenoiser)
    return not otherwise and not denoiser.backbone.forgets


@dataclass(frozen=True)
class WholeText:
    """A prompt and the text after it, cut into whole blocks of C columns together.

    A pass over all blocks predicts in each what `Denoiser.denoise` predicts on that block alone after the text before
    it: a column sees the prompt, the clean text before its block, and its own block's canvas.

    denoiser: of a model whose prefix does not see the canvas.
    tokens: (1, C) int64, the clean text; what fills its last block up is never read as text.
    prompt: the prompt alone.
    known: the prompt and the clean text but for the last block.
    """

    denoiser: Denoiser
    tokens: Tensor
    prompt: Prefix
    known: Prefix

    @classmethod
    def read(cls, denoiser: Denoiser, prompt: Prompt, tokens: Tensor) -> WholeText:
        """Read a text (n,) int64 after a prompt; it is not longer than `denoiser.reach(prompt)`."""
        size = denoiser.backbone.block_size
        filled = torch.nn.functional.pad(tokens, (0, -len(tokens) % size))[None]
        (start,) = denoiser.start([prompt])
        read = filled[:, :-size]
        (known,) = denoiser.commit(read, (start,)) if read.shape[1] else (start,)
        return cls(denoiser, filled, start, known)

    @property
    def blocks(self) -> Tensor:
        """The block of each column: (C,) int64."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) // self.denoiser.backbone.block_size

    def denoise(self, canvas: Canvas, t: Tensor | None = None) -> Tensor:
        """Hidden states that predict the columns of noised blocks side by side, (1, C, ...): (1, C, H).

        t: (1, C), their noise levels, for a model that is told them.
        """
        backbone = self.denoiser.backbone
        embedded = backbone.condition(self.denoiser.process.embed(canvas, backbone), t, None)
        positions = self.prompt.canvas_positions(self.tokens.shape[1])
        hidden = backbone.encode(embedded, positions, self._mask(), self.known.cache)
        return self._shifted(hidden) if backbone.shift else hidden

    def conditionals(self) -> Tensor:
        """Hidden states that predict each column when all columns before it are known and none after it: (C, H).

        A block's columns are predicted one after the other, those of all blocks at once: a pass for each place in a
        block. Needs a process that hides tokens, and no noise level.
        """
        columns, size = self.tokens.shape[1], self.denoiser.backbone.block_size
        hidden = self.denoiser.process.prior(columns, GeneratorNoise([0], self.tokens.device))
        places = torch.arange(columns, device=self.tokens.device) % size
        passes = [
            self.denoise(torch.where(places < place, self.tokens, hidden))[0, place::size] for place in range(size)
        ]
        return torch.stack(passes, dim=1).flatten(0, 1)

    def _mask(self) -> Tensor:
        """What each column sees of the prompt, of the text and of all canvases: (1, 1, C, P + C - block + C) bool."""
        blocks = self.blocks
        read = self.known.tokens.shape[1] - self.prompt.tokens.shape[1]
        prompt = (self.prompt.ranks != PADDING).expand(len(blocks), -1)
        before = blocks[None, :read] < blocks[:, None]
        return torch.cat([prompt, before, blocks[None] == blocks[:, None]], dim=1)[None, None]

    def _shifted(self, hidden: Tensor) -> Tensor:
        """The hidden states before each column (1, C, H): on its left in its block, or at the end of the clean text."""
        size = self.denoiser.backbone.block_size
        (last, _), (read, _) = self.prompt.cache.tail, self.known.cache.tail
        clean = last[:, -1:] if self.known is self.prompt else torch.cat([last[:, -1:], read[:, size - 1 :: size]], 1)
        left = hidden.roll(1, dims=1)
        left[:, ::size] = clean
        return left
