"""Small models that read a causal core's states: the next token alone, or a canvas behind an anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.lib.timing import processor_seconds
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideConfig, SideNetwork

BLOCK = 16
ABSENT = -1  # a place of a canvas whose token is hidden
_WINDOW = 1024  # tokens of a note that the core reads
SEEN = 16  # states before the canvas that its tokens see
_HIDDEN = 2048  # of the layer that corrects the core's state
_WIDTH, _HEADS, _LAYERS = 384, 6, 2  # of the canvas
_GAP = 8  # the longest gap that is learned


@dataclass(frozen=True)
class Core:
    """The core as a member, and as what others read."""

    denoiser: CausalDenoiser

    @property
    def backbone(self) -> CausalCore:
        """Its network."""
        assert isinstance(self.denoiser.backbone, CausalCore)
        return self.denoiser.backbone

    @torch.no_grad()
    def states(self, text: Sequence[int]) -> Tensor:
        """Its states at each token: (T, 3 H)."""
        return self.denoiser.states(torch.tensor([list(text)]))[0]

    def each(self, text: Sequence[int]) -> Tensor:
        """As a member's."""
        return self.denoiser.log_p(self.states(text))

    def next(self, text: Sequence[int]) -> Tensor:
        """As a member's."""
        return self.denoiser.log_p(self.states(text)[-1:])[0]

    def in_gap(self, before: Sequence[int], own: Sequence[int], behind: Sequence[int]) -> Tensor:
        """As a member's: it sees the left side alone."""
        return self.each([*before, *own])[len(before) - 1 : -1]

    def draft(self, before: Sequence[int], count: int) -> list[int]:
        """As a member's: nothing."""
        return []


@dataclass(frozen=True)
class Read:
    """What a core made of notes, one after another.

    states: (N, 3 H) bfloat16. tokens: the one at each, (N,). first: where the note of each begins, (N,); last: its end.
    """

    states: Tensor
    tokens: Tensor
    first: Tensor
    last: Tensor

    @classmethod
    def of(cls, core: Core, notes: Sequence[Sequence[int]], until: float) -> Read:
        """Read notes in random order until all are read or the processor's clock stands at `until`."""
        parts: list[tuple[Tensor, Tensor]] = []
        for place in torch.randperm(len(notes)).tolist():
            note = notes[place][:_WINDOW]
            if len(note) > 1:
                parts.append((core.states(note).bfloat16(), torch.tensor(note)))
            if processor_seconds() > until:
                break
        states, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
        sizes = torch.tensor([len(own) for _, own in parts])
        last = sizes.cumsum(0)
        first, last = ((of).repeat_interleave(sizes) for of in (last - sizes, last))
        return cls(states, tokens, first, last)

    def canvases(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens behind anchors (N,) and which of them lie in the same note: (N, BLOCK) each."""
        places = anchors[:, None] + 1 + torch.arange(BLOCK)
        inside = places < self.last[anchors, None]
        return self.tokens[places.clamp(max=len(self.tokens) - 1)], inside

    def before(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The SEEN states up to anchors, (N, SEEN, 3 H), and which of them lie in the same note."""
        places = anchors[:, None] + torch.arange(1 - SEEN, 1)
        inside = places >= self.first[anchors, None]
        return self.states[places.clamp(min=0)], inside


class Reader(nn.Module):
    """A side network, or, with a canvas, block diffusion behind an anchor in the core's states.

    The tokens of the canvas, known or hidden, see each other and the last states up to the anchor (as in DFlash, Chen
    et al., 2026). What they make of it goes into the side network's hidden layer beside the anchor's states; the place
    next to the anchor begins with the core's last state, the others with nothing.
    """

    def __init__(self, core: CausalCore, canvas: bool) -> None:
        """Make an untrained one."""
        super().__init__()
        self._core = (core,)
        size, layers = core.width, core.middle_layers
        core.tap(layers)
        self.canvas = Canvas(core) if canvas else None
        config = SideConfig(core.rows, size, layers, _HIDDEN, BLOCK, core.context)
        self.side = SideNetwork(config, core)
        if canvas:
            self.side.body[1] = nn.Linear(config.inputs + _WIDTH, _HIDDEN)

    def forward(self, states: Tensor, inside: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """Last states for the core's head.

        states, inside: (N, n, 3 H) and (N, n), up to the anchor. tokens: of the canvas, (N, BLOCK), ABSENT where
        hidden. places: of the canvas that are predicted, (N, S). Returns (N, S, H).
        """
        (core,) = self._core
        anchor = states[:, -1].unflatten(-1, (-1, core.width)).float()
        read = functional.rms_norm(anchor, (core.width,)).flatten(-2)[:, None].expand(-1, places.shape[1], -1)
        if self.canvas is not None:
            hidden = self.canvas(states, inside, tokens)
            seen = hidden.gather(1, places[..., None].expand(-1, -1, _WIDTH))
            read = torch.cat([read, seen], dim=-1)
        start = anchor[:, None, 0] * (places == 0)[..., None]
        corrected: Tensor = start + self.side.body(read)
        return corrected


class Canvas(nn.Module):
    """A bidirectional transformer over a canvas, which sees the core's states before it."""

    def __init__(self, core: CausalCore) -> None:
        """Make an untrained one."""
        super().__init__()
        self._core = (core,)
        self.states = nn.Linear(3 * core.width, _WIDTH)
        self.tokens = nn.Linear(core.width, _WIDTH)
        self.hidden = nn.Parameter(torch.randn(_WIDTH) * 0.02)
        self.places = nn.Parameter(torch.randn(SEEN + BLOCK, _WIDTH) * 0.02)
        self.layers = nn.ModuleList(CanvasLayer() for _ in range(_LAYERS))
        self.drop = nn.Dropout(0.3)

    def forward(self, states: Tensor, inside: Tensor, tokens: Tensor) -> Tensor:
        """What each place of a canvas makes of it: (N, BLOCK, _WIDTH)."""
        (core,) = self._core
        normed = functional.rms_norm(states.unflatten(-1, (-1, core.width)).float(), (core.width,)).flatten(-2)
        memory = self.drop(self.states(normed)) + self.places[SEEN - states.shape[1] : SEEN]
        known = self.tokens(functional.rms_norm(core.embed(tokens.clamp(min=0)).float(), (core.width,)))
        x = (
            torch.where((tokens == ABSENT)[..., None], self.hidden.to(known.dtype), self.drop(known))
            + self.places[SEEN:]
        )
        mask = functional.pad(inside, (0, BLOCK), value=True)[:, None, None]
        for layer in self.layers:
            x = layer(x, memory, mask)
        return functional.rms_norm(x, (_WIDTH,))


class CanvasLayer(nn.Module):
    """Attention to the states and the canvas, and an MLP."""

    def __init__(self) -> None:
        """Make an untrained one."""
        super().__init__()
        self.query, self.out = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.seen = nn.Linear(_WIDTH, 2 * _WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH), nn.Dropout(0.3)
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """The canvas (N, BLOCK, _WIDTH) after states (N, n, _WIDTH); mask: (N, 1, 1, n + BLOCK)."""
        normed = functional.rms_norm(x, (_WIDTH,))
        keys, values = self.seen(torch.cat([memory.to(normed.dtype), normed], dim=1)).chunk(2, dim=-1)
        heads = (part.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in (self.query(normed), keys, values))
        query, key, value = heads
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        grown: Tensor = x + self.mlp(functional.rms_norm(x, (_WIDTH,)))
        return grown


def noised(tokens: Tensor, inside: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Canvases (N, BLOCK) with hidden tokens, and `count` hidden places of each, the first of them always.

    A quarter is hidden as a whole, a quarter from a random place on, a quarter in a gap of 1 to 8 tokens behind the
    anchor, and a quarter in as many random places as a random noise level says.
    """
    rows, places = len(tokens), torch.arange(BLOCK)
    kind = torch.arange(rows) % 4
    start = torch.where(kind == 1, torch.randint(0, BLOCK, (rows,)), 0)
    stop = torch.where(kind == 2, torch.randint(1, _GAP + 1, (rows,)), BLOCK)
    hidden = (places >= start[:, None]) & (places < stop[:, None])
    random = torch.rand(rows, BLOCK) < torch.rand(rows, 1)
    random[torch.arange(rows), torch.randint(0, BLOCK, (rows,))] = True
    hidden = torch.where((kind == 3)[:, None], random, hidden)
    first = hidden.long().argmax(1, keepdim=True)
    more = torch.multinomial(hidden.float(), count - 1, replacement=True)
    return tokens.masked_fill(hidden | ~inside, ABSENT), torch.cat([first, more], dim=1)
