"""Code lengths of documents under a causal LM, and under what some notes make of it in a few minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.lib.tables import mean
from benchmarks.lib.timing import processor_seconds

Loss = Callable[[Sequence[int]], list[float]]

_ROWS, _WINDOW = 4, 256  # windows of a step of the LoRA, and their tokens
_POSITIONS = 1024  # of a step of the side network
_WIDTH = 512  # of the side network's hidden layer
_READING = 0.4  # share of the side network's time in which the core reads the notes, at most
_WARMUP = 0.05  # share of the time
_VALIDATIONS = 8  # of a training, each on the beginnings of some notes that are held back
_VALIDATED, _BEGINNING = 12, 128  # those notes, and their tokens
_HELD_BACK = 10  # of so many notes, one is held back from a training


@torch.inference_mode()
def nats_of(model: Any, text: Sequence[int], before: Sequence[int] = ()) -> list[float]:
    """-log p of every token of a text after its first, under a causal LM that has read other tokens before."""
    hidden = model.model(torch.tensor([[*before, *text[:-1]]])).last_hidden_state[0, len(before) :]
    return _nats(model.lm_head(hidden), torch.tensor(text[1:])).tolist()


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of targets (N,) int64 under logits (N, V): (N,) float32."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")


# Training


@dataclass(frozen=True)
class Notes:
    """Tokenised notes, each opened like a document: those that are learned from, and those that are held back."""

    learned: Sequence[Sequence[int]]
    held_back: Sequence[Sequence[int]]

    @classmethod
    def split(cls, notes: Sequence[Sequence[int]]) -> Notes:
        """Hold one note in ten back."""
        return cls([note for place, note in enumerate(notes) if place % _HELD_BACK], notes[::_HELD_BACK])

    @property
    def beginnings(self) -> list[Sequence[int]]:
        """The beginnings of some notes that are held back."""
        return [note[: _BEGINNING + 1] for note in self.held_back[:_VALIDATED]]

    def own_loss(self, losses: Loss) -> float:
        """Nats per token of these beginnings."""
        return mean(nats for note in self.beginnings for nats in losses(note))


@dataclass(frozen=True)
class Budget:
    """The time of a training in seconds of the processor, its learning rate and its seed."""

    seconds: float
    rate: float
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """What a training left.

    losses: -log p of a text's tokens.
    own_loss: nats per token of the notes that were held back.
    steps: those that it took.
    parameters: those that it trained.
    """

    losses: Loss
    own_loss: float
    steps: int
    parameters: int


def _train(weights: list[nn.Parameter], loss: Callable[[], Tensor], own: Callable[[], float], budget: Budget) -> int:
    """Train by AdamW with a warmup and a cosine, keep what the notes held back like best, and count the steps."""
    optimizer = torch.optim.AdamW(weights, lr=budget.rate, weight_decay=0.01)
    began, steps, spent = processor_seconds(), 0, 0.0
    best = own(), [weight.detach().clone() for weight in weights]
    while spent < 1:
        warm, cosine = min(1.0, spent / _WARMUP + 0.01), (1 + torch.tensor(torch.pi * spent).cos()) / 2
        optimizer.param_groups[0]["lr"] = budget.rate * warm * float(cosine)
        loss().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps, before = steps + 1, spent
        spent = (processor_seconds() - began) / budget.seconds
        if int(spent * _VALIDATIONS) > int(before * _VALIDATIONS) and (found := own()) < best[0]:
            best = found, [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, kept in zip(weights, best[1], strict=True):
            weight.copy_(kept)
    return steps


def train_lora(core: Any, notes: Notes, budget: Budget, rank: int) -> Fitted:
    """Train a LoRA on every linear layer of a causal LM; the core stays as it is."""
    network, steps = adapted(core, notes, budget, rank)
    losses: Loss = lambda text: nats_of(network, text)  # noqa: E731
    return Fitted(losses, notes.own_loss(losses), steps, sum(weight.numel() for weight in _trained(network)))


def adapted(core: Any, notes: Notes, budget: Budget, rank: int) -> tuple[Any, int]:
    """A copy of a causal LM with a LoRA that was trained on notes, and the steps that this took."""
    torch.manual_seed(budget.seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    network: Any = inject_adapter_in_model(config, deepcopy(core).bfloat16())
    weights = _trained(network)
    for weight in weights:
        weight.data = weight.data.float()  # the steps are too small for bfloat16
    windows = _windows(notes.learned)

    def loss() -> Tensor:
        rows = next(windows)
        hidden = network.model(rows[:, :-1]).last_hidden_state
        return _nats(network.lm_head(hidden).flatten(0, 1), rows[:, 1:].flatten()).mean()

    steps = _train(weights, loss, lambda: notes.own_loss(lambda text: nats_of(network, text)), budget)
    network.float()
    return network, steps


def _trained(network: Any) -> list[nn.Parameter]:
    return [weight for weight in network.parameters() if weight.requires_grad]


def _windows(notes: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Random windows of the notes one after another: (_ROWS, _WINDOW + 1) int64."""
    tokens = torch.tensor([token for note in notes for token in note])
    length = min(_WINDOW + 1, len(tokens))
    while True:
        starts = torch.randint(0, len(tokens) - length + 1, (_ROWS, 1))
        yield tokens[starts + torch.arange(length)]


class SideNetwork(nn.Module):
    """A small network that reads three of a frozen core's states and corrects the last one before the core's own table.

    Its output is zero at first, so that it begins as the core.
    """

    def __init__(self, core: Any) -> None:
        """Read the states after a third of the layers, two thirds, and all of them."""
        super().__init__()
        self.core = (core,)  # in a tuple, so that its weights are not this network's
        layers, hidden = core.config.num_hidden_layers, core.config.hidden_size
        self.layers = (layers // 3, 2 * layers // 3, layers)
        last = nn.Linear(_WIDTH, hidden)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(nn.Linear(3 * hidden, _WIDTH), nn.GELU(), last)

    @torch.no_grad()
    def states(self, tokens: Sequence[int]) -> Tensor:
        """The core's states at each of T tokens: (T, 3, H)."""
        (core,) = self.core
        found = core.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        return torch.stack([found[layer][0] for layer in self.layers], dim=1)

    def forward(self, states: Tensor) -> Tensor:
        """Logits of the token after each: (N, 3, H) to (N, V)."""
        (core,) = self.core
        normed = functional.rms_norm(states, states.shape[-1:]).flatten(1)
        logits: Tensor = core.lm_head(states[:, -1] + self.body(normed))
        return logits

    def nats(self, text: Sequence[int]) -> list[float]:
        """-log p of every token of a text after its first."""
        return self.nats_after(self.states(text[:-1]), text)

    @torch.inference_mode()
    def nats_after(self, states: Tensor, text: Sequence[int]) -> list[float]:
        """The same where the states have been computed."""
        return _nats(self(states), torch.tensor(text[1:])).tolist()


def train_side_network(core: Any, notes: Notes, budget: Budget) -> Fitted:
    """Train a side network on the core's states of the notes; reading them is part of the time."""
    torch.manual_seed(budget.seed)
    fast = SideNetwork(deepcopy(core).bfloat16())
    began = processor_seconds()
    states, targets = _read(fast, notes, began + _READING * budget.seconds)
    checked = [(fast.states(note[:-1]), note) for note in notes.beginnings]

    def loss() -> Tensor:
        rows = torch.randint(0, len(targets), (_POSITIONS,))
        with torch.autocast("cpu", torch.bfloat16):
            logits = fast(states[rows])
        return _nats(logits, targets[rows]).mean()

    def own() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return mean(nats for read, note in checked for nats in fast.nats_after(read, note))

    left = Budget(budget.seconds - (processor_seconds() - began), budget.rate, budget.seed)
    weights = list(fast.parameters())
    steps = _train(weights, loss, own, left)
    exact = SideNetwork(core)
    exact.load_state_dict(fast.state_dict())
    return Fitted(exact.nats, notes.own_loss(exact.nats), steps, sum(weight.numel() for weight in weights))


def _read(network: SideNetwork, notes: Notes, until: float) -> tuple[Tensor, Tensor]:
    """States of the core (N, 3, H) and the tokens after them (N,), of as many notes in random order as time allows."""
    states: list[Tensor] = []
    targets: list[int] = []
    for place in torch.randperm(len(notes.learned)).tolist():
        note = notes.learned[place][: 4 * _WINDOW]
        if len(note) > 1:
            states.append(network.states(note[:-1]))
            targets += note[1:]
        if processor_seconds() > until:
            break
    return torch.cat(states), torch.tensor(targets)
