"""What keeps a causal core from repeating itself, and what does it cost?

    python -m benchmarks repetition --heldout HELDOUT --core smollm2 --out FILE

The core alone continues the first tokens of held-out documents, one token a pass, with the classes that `ssd generate`
holds repetition down with: greedily, and drawn in several ways. A text ends where the core ends it. Nats
per token of what it wrote are those of its unchanged prediction. Of the documents' own text, what the changed
prediction takes more than the unchanged one is the mean over the tokens that it leaves possible; others are counted.

For comparison, transformers' own penalty is applied to the core's logits as they are, and to log p.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from benchmarks.lib.corpora import own_text, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.tables import table
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.repetition import KnownText, Repetition
from ssdcli.generation.loaded_model import LoadedModel, open_model
from ssdcli.machine.placement import Placement
from ssdcli.registry.store import SMOLLM2

QUICK = {"rows": 2, "before": 16, "length": 24}
DRAWS = ((0.0, 1.0), (0.7, 0.9), (1.0, 0.95))  # temperatures and top-p
UNCHANGED = "unchanged"
N = 8  # repeated n-grams are counted for this n

# Of log p (B, V), the core's logits, and the tokens before (B, T): the changed log p.
Change = Callable[[Tensor, Tensor, Tensor], Tensor]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--heldout", nargs="+", default=own_text(), help="text that the core was not trained on")
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--rows", type=int, default=12, help="documents")
    parser.add_argument("--before", type=int, default=48, help="tokens of a document that are continued")
    parser.add_argument("--length", type=int, default=256, help="tokens of a continuation, at most")
    parser.add_argument("--draw", type=float, nargs=2, action="append", metavar=("TEMPERATURE", "TOP_P"))


# The ways


@dataclass(frozen=True)
class Way:
    """How predictions are changed before a token is drawn."""

    change: Change
    min_p: float = 0.0


def held_down(penalty: float = 1.0, no_repeat: int = 0) -> Change:
    """As `ssd generate` does it."""
    repetition = Repetition(penalty, no_repeat)

    def change(log_p: Tensor, _: Tensor, tokens: Tensor) -> Tensor:
        text = torch.nn.functional.pad(tokens, (0, 1), value=-1)
        canvas = KnownText(text, tokens.shape[1], 1)
        return repetition.apply(log_p[:, None], canvas, canvas.canvas < 0)[:, 0]

    return change


def penalised(penalty: float, of_logits: bool) -> Change:
    """As transformers does it, on the core's logits or on log p."""
    process = RepetitionPenaltyLogitsProcessor(penalty)

    def change(log_p: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        changed: Tensor = process(tokens, logits if of_logits else log_p)
        return changed.log_softmax(-1)

    return change


def ways() -> dict[str, Way]:
    """All ways by name, the unchanged prediction first."""
    found = {UNCHANGED: Way(lambda log_p, logits, tokens: log_p)}
    found |= {f"--repetition-penalty {x:g}": Way(held_down(x)) for x in (1.05, 1.1, 1.2)}
    found |= {f"--no-repeat {n}": Way(held_down(no_repeat=n)) for n in (6, 8, 12)}
    found |= {f"--min-p {x:g}": Way(found[UNCHANGED].change, x) for x in (0.05, 0.1)}
    found["penalty 1.1 of the core's logits"] = Way(penalised(1.1, of_logits=True))
    return found | {"penalty 1.1 of log p": Way(penalised(1.1, of_logits=False))}


# The work


def work(given: Namespace, workshop: Workshop) -> None:
    """Let the core read the documents, and write after their beginnings, in every way."""
    model = open_model(workshop.model(given.core).entry, Placement("float32"))
    whole = given.before + given.length
    ids = [model.after(model.codec.encode(text)).before for path in given.heldout for text in read_texts(path)]
    documents = torch.tensor([row[:whole] for row in ids if len(row) >= whole][: given.rows])
    core = Core.of(model)
    workshop.piece({"texts": "the documents"}, lambda: read(core, documents, given.before))
    for (temperature, top_p), (name, way) in product(given.draw or DRAWS, ways().items()):
        if temperature or not way.min_p:
            picker = Picker(temperature, top_p, way.min_p)
            asked = {"way": name, "temperature": temperature, "top-p": top_p}
            workshop.piece(asked, partial(write, core, documents[:, : given.before], given.length, picker, way.change))


@dataclass(frozen=True)
class Core:
    """A causal class, and the ids that end its texts."""

    model: Any
    ends: Tensor

    @classmethod
    def of(cls, model: LoadedModel) -> Core:
        """A causal core, without what makes it a member of an ensemble."""
        backbone: Any = model.denoiser.backbone
        return cls(backbone.model, torch.tensor(model.format.ends))

    @torch.no_grad()
    def steps(self, tokens: Tensor, length: int, choose: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """The tokens (B, T) and so many more, each chosen by log p (B, V), logits and the tokens before it."""
        cache, fresh = None, tokens
        for _ in range(length):
            output = self.model(fresh, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            fresh = choose(logits.log_softmax(-1), logits, tokens)[:, None]
            tokens = torch.cat([tokens, fresh], dim=1)
        return tokens


def read(core: Core, documents: Tensor, before: int) -> Line:
    """Documents (N, T) from a token on: nats over the unchanged of possible tokens, and the share of the others."""
    nats: dict[str, list[Tensor]] = {name: [] for name in ways()}

    def follow(log_p: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        following = documents[:, tokens.shape[1]]
        for name, way in ways().items():
            p = Picker(min_p=way.min_p).probabilities(way.change(log_p, logits, tokens))
            nats[name].append(-(p / p.sum(-1, keepdim=True)).gather(1, following[:, None]).log())
        return following

    core.steps(documents[:, :before], documents.shape[1] - before, follow)
    losses = {name: torch.stack(found) for name, found in nats.items()}
    usual = losses[UNCHANGED]
    return {
        "repeated": repeated(documents[:, before:].tolist()),
        "nats": usual.mean().item(),
        "over": {name: (found - usual)[found.isfinite()].mean().item() for name, found in losses.items()},
        "impossible": {name: found.isinf().float().mean().item() for name, found in losses.items()},
    }


def write(core: Core, before: Tensor, length: int, picker: Picker, change: Change) -> Line:
    """Continuations (N, P): the share of repeated n-grams, the core's nats per token, and tokens a text."""
    noise, nats = CounterNoise(range(len(before))), list[Tensor]()

    def draw(log_p: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        drawn = picker.draw(change(log_p, logits, tokens)[:, None], noise.derive(tokens.shape[1]))
        nats.append(-log_p.gather(1, drawn))
        return drawn[:, 0]

    written = core.steps(before, length, draw)[:, before.shape[1] :]
    kept = torch.isin(written, core.ends).cumsum(1) == 0
    texts = [row[alive].tolist() for row, alive in zip(written, kept, strict=True)]
    return {
        "repeated": repeated(texts),
        "nats": torch.cat(nats, 1)[kept].mean().item(),
        "tokens": kept.sum().item() / len(kept),
    }


def repeated(texts: Sequence[Sequence[int]]) -> float:
    """The share of the texts' n-grams that stood in the same text before."""
    grams = [[tuple(text[first : first + N]) for first in range(len(text) - N + 1)] for text in texts]
    total = sum(map(len, grams))
    return 1 - sum(len(set(own)) for own in grams) / total if total else 0.0


# The table


def report(found: Sequence[Line]) -> str:
    """A row for each way."""
    (human,) = (line for line in found if "over" in line)
    written = {(line["way"], line["temperature"]): line for line in found if "way" in line}
    temperatures = sorted({temperature for _, temperature in written})
    header = [f"{what}, T = {t:g}" for t in temperatures for what in ("repeated", "nats", "tokens")]
    rows = [["the documents", f"{human['repeated']:.1%}", f"{human['nats']:.3f}", *[""] * len(header)]]
    for name, over in human["over"].items():
        cells = [cell for t in temperatures for cell in _cells(written.get((name, t)))]
        rows.append([name, *cells, f"{over:+.3f}", f"{human['impossible'][name]:.2%}"])
    return table(["", *header, "nats over", "impossible"], rows)


def _cells(line: Line | None) -> list[str]:
    if line is None:
        return [""] * 3
    return [f"{line['repeated']:.1%}", f"{line['nats']:.3f}", f"{line['tokens']:.0f}"]
