"""A head that drafts beside a causal core: it guesses what the core will predict behind a token it has not read yet.

With s the core's states at the last token that it has read (s_1 of its last layer), x_1, x_2, ... the tokens after it,
e(x) the core's embeddings, T the core's table, and all that W_1 and U_1 read divided by its root mean square:

    g_1 = s_1 + W_2 gelu(W_1 [s_1; ...; s_k; e(x_1)] + b_1) + b_2
    g_(i+1) = g_i + U_2 gelu(U_1 [g_i; e(x_(i+1))] + c_1) + c_2
    p(x_(i+1)) = softmax(T (a * rms(g_i))), over the ids that it drafts

So each guess knows the tokens drafted before it (Hydra heads, Ankner et al., 2024, arXiv 2402.05109, after the
independent heads of Medusa, Cai et al., 2024, arXiv 2401.10774). It learns the predictions themselves, not the text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.packed_linear import Matrix, PackedLinear, PlainLinear, pack_int8

FIRST, LATER = 1536, 1024  # hidden units


class DraftHead(nn.Module):
    """The head's own weights.

    ids: those that it drafts, (n,) int64.
    """

    ids: Tensor

    def __init__(self, size: int, layers: int, ids: Tensor) -> None:
        """Make an untrained head for a core with states of this size, of which those of some layers are read."""
        super().__init__()
        self.size = size
        self.first: nn.Module = nn.Sequential(nn.Linear((layers + 1) * size, FIRST), nn.GELU(), nn.Linear(FIRST, size))
        self.later: nn.Module = nn.Sequential(nn.Linear(2 * size, LATER), nn.GELU(), nn.Linear(LATER, size))
        self.scale = nn.Parameter(torch.ones(size))
        self.register_buffer("ids", ids)

    def begin(self, states: Tensor, embedded: Tensor) -> Tensor:
        """The guess behind the first token that was not read.

        states: at the token before it, (..., k H). embedded: the token, (..., H). Returns (..., H).
        """
        parts = states.to(self.scale.dtype).unflatten(-1, (-1, self.size))
        read = torch.cat([self._rms(parts).flatten(-2), self._rms(embedded.to(self.scale.dtype))], dim=-1)
        made: Tensor = parts[..., 0, :] + self.first(read)
        return made

    def step(self, guess: Tensor, embedded: Tensor) -> Tensor:
        """The guess (..., H) behind one more token (..., H)."""
        read = torch.cat([self._rms(guess), self._rms(embedded.to(guess.dtype))], dim=-1)
        made: Tensor = guess + self.later(read)
        return made

    def as_state(self, guess: Tensor) -> Tensor:
        """A guess (..., H) in place of the core's last state."""
        return self._rms(guess) * self.scale

    def _rms(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (self.size,))


class _InEightBits(nn.Module):
    """Two layers in 8 bits, a quarter of what is read of them otherwise: a worse guess costs a draft and no text."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        linear = [layer for layer in layers.children() if isinstance(layer, nn.Linear)]
        self._first, self._last = (pack_int8(Matrix([layer.weight], layer.bias)) for layer in linear)

    def forward(self, x: Tensor) -> Tensor:
        return self._last(self._first.activated(x.bfloat16()[None], "gelu"))[0].to(x.dtype)


class DraftingCore:
    """A trained head at work on its core; see `StatesGuess`."""

    def __init__(self, head: DraftHead, core: CausalCore) -> None:
        """The core's states must hold what the head reads; its layers are packed for a CPU, where they stand."""
        self.ids = head.ids
        self._core = core
        self._head = head
        rows = core.head_rows(head.ids)
        self._dtype = rows.dtype
        small = rows.device.type == "cpu" and rows.dtype == torch.bfloat16
        self._scores: PackedLinear = pack_int8(Matrix([rows])) if small else PlainLinear(rows, None)
        if small:
            head.first, head.later = _InEightBits(head.first), _InEightBits(head.later)

    def begin(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The guess (N, H) behind tokens (N,) int64 that follow the ones with these states (N, k H)."""
        return self._head.begin(states, self._core.embed(tokens))

    def step(self, guess: Tensor, tokens: Tensor) -> Tensor:
        """The guess (N, H) behind one more token (N,) int64."""
        return self._head.step(guess, self._core.embed(tokens))

    def log_p(self, guess: Tensor) -> Tensor:
        """Log p of the ids as the next token: (N, n) float32."""
        scores = self._scores(self._head.as_state(guess).to(self._dtype)[None])[0]
        return torch.log_softmax(scores.float(), dim=-1)
