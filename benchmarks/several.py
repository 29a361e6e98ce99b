"""How well do two small models with their memories predict the text of one, of the other, and of both at once?

    python -m benchmarks several --small notes ssdcli/bundled/notebook/heldout --small til til.heldout.jsonl

Exact code lengths from the left, of the beginnings of held-out documents of each small model, and of documents that mix
both: the first half of one, then that of the other. The small models read one core, and are weighed by the gates of
their own trainings: alone, or together as `ssd generate --with A --with B` does. For comparison both ensembles are
averaged, with equal weights and with their chances of having written the text so far, where the author changes at each
token with a chance of 0.02 (fixed share, Herbster and Warmuth, 1998), and a gate of all members is fitted to other
documents of the same kind.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.beside_memory import notes_of
from benchmarks.lib.models import Model
from benchmarks.lib.tables import table
from ssdcli.engine.ensemble.gate import AverageGate, gate_of, joined
from ssdcli.engine.ensemble.members import Role
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.evaluation.joint_gate import Observations, constant_nats, fit_joint_gate, gated_nats
from ssdcli.registry.store import SMOLLM2

QUICK = {"documents": 2, "length": 32}
_CHANGES = 0.02  # how likely it is at each token that another ensemble goes on
_SETS: tuple[tuple[Role, ...], ...] = (("core", "small"), ("core", "small", "memory"))


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--small", nargs=2, action="append", required=True, metavar=("NAME", "HELDOUT"))
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, which both read")
    parser.add_argument("--documents", type=int, default=15, help="of each kind")
    parser.add_argument("--length", type=int, default=192, help="tokens of a document that are measured")


def main(given: Namespace) -> None:
    """Print a table of nats per token."""
    core, (one, other) = Model.named(given.core), (Model.named(name) for name, _ in given.small)
    kinds = [notes_of(path, core) for _, path in given.small]
    kinds = [[text[: given.length] for text in texts if len(text) >= given.length // 2] for texts in kinds]
    first, second = (texts[: given.documents] for texts in kinds)
    half = given.length // 2
    mixed = [[*left[:half], *right[:half]] for left, right in zip(first, second, strict=False)]
    sides = {one.name: first, other.name: second, "both": mixed}
    found = {name: _ways(_observed(texts, (one, other), core), (one, other)) for name, texts in sides.items()}
    rows = [[way, *(f"{found[name][way]:.3f}" for name in sides)] for way in next(iter(found.values()))]
    print(f"{len(first)}, {len(second)} and {len(mixed)} documents of up to {given.length} tokens; nats per token\n")
    print(table(["members", *sides], rows))


@torch.inference_mode()
def _observed(texts: Sequence[Sequence[int]], models: Sequence[Model], core: Model) -> Observations:
    """What the core, and each small model and its memory, say of all tokens, in one pass of the core over each text."""
    reader: Any = models[0].denoiser
    parts, entropies = [], []
    for text in texts:
        states = reader.states(torch.tensor([[core.manifest.begin or 0, *text[:-1]]]))[0]
        said: list[Tensor] = [reader.backbone.core.logits(states).log_softmax(-1)]
        for model in models:
            network: Any = model.backbone
            memory: Any = model.memory.denoiser
            looked_up = torch.stack(list(memory.conditionals(list(text), range(len(text)), states=states)))
            said += [network.logits(states).log_softmax(-1), looked_up]
        own = torch.tensor(text)[:, None]
        parts.append(torch.cat([log_p.gather(-1, own) for log_p in said], dim=1).double())
        entropies.append(torch.stack([entropy(log_p) for log_p in said], dim=1).double())
    numbers = torch.repeat_interleave(torch.tensor([len(text) for text in texts]))
    members: tuple[Role, ...] = ("core", *("small", "memory") * len(models))
    return Observations(members, torch.cat(parts), torch.cat(entropies), numbers)


def _ways(seen: Observations, models: Sequence[Model]) -> Mapping[str, float]:
    """Nats per token in every way."""
    found = {"the core": -seen.log_p[:, 0]}
    for roles in _SETS:
        places = [[0, *range(1 + 2 * own, 2 * own + len(roles))] for own in range(len(models))]
        gates = [_gate(model, roles) for model in models]
        beside = "" if "memory" not in roles else " and memory"
        alone = [_own(gate, _part(seen, own, gate.members)) for gate, own in zip(gates, places, strict=True)]
        found |= {f"core, {model.name}{beside}": nats for model, nats in zip(models, alone, strict=True)}
        every, gate = [0, *(place for own in places for place in own[1:])], joined(gates)
        together, what = _part(seen, every, gate.members), f"core, both{' and memories' * bool(beside)}"
        found |= {
            f"{what}: constant weights": constant_nats(gate.weights, together),
            f"{what}: gates joined": gated_nats(gate, together),
            f"{what}: mean of the two ensembles": _shared(alone, seen.texts, 1.0),
            f"{what}: by the text so far": _shared(alone, seen.texts, _CHANGES),
            f"{what}: a gate fitted to others": torch.from_numpy(fit_joint_gate(together).gated),
            f"{what}: oracle": -together.log_p.amax(1),
        }
    return {way: float(nats.sum()) / len(seen.texts) for way, nats in found.items()}


def _part(seen: Observations, places: Sequence[int], members: tuple[Role, ...]) -> Observations:
    return Observations(members, seen.log_p[:, places], seen.entropies[:, places], seen.texts)


def _gate(model: Model, roles: tuple[Role, ...]) -> AverageGate:
    gate = gate_of(model.manifest.joint_gates, roles)
    assert gate is not None, f"{model.name} has no gate of {roles}"
    return gate


def _own(gate: AverageGate, seen: Observations) -> Tensor:
    """Each token's nats by a gate that won, or else by its constant weights."""
    return gated_nats(gate, seen) if gate.is_default else constant_nats(gate.weights, seen)


def _shared(alone: Sequence[Tensor], texts: Tensor, changes: float) -> Tensor:
    """Each token's nats by a mixture of ensembles, by how likely each is to have written the text so far: (N,).

    changes: the chance that the next token is that of an ensemble drawn anew; 1 for equal weights throughout.
    """
    p, equal = torch.stack(list(alone), dim=1).neg().exp(), torch.full((len(alone),), 1 / len(alone)).double()
    found, text, shares = [], -1, equal
    for row, number in zip(p, texts.tolist(), strict=True):
        shares, text = equal if number != text else shares, number
        both = shares * row
        found.append(both.sum())
        shares = (1 - changes) * both / both.sum() + changes * equal
    return -torch.stack(found).log()
