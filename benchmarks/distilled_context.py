"""Should a small model learn documents from a core that reads them (context distillation), not from their text?

    python -m benchmarks distilled_context --heldout FILE [FILE ...] --out FILE
    python -m benchmarks distilled_context --table FILE

After Padmanabhan et al. (2023): the core, shown a definition, writes sentences about what is defined; the student, the
core with a LoRA or a side network of its states, learns to predict on these sentences what the core predicts that
sees the definition (KL divergence), without seeing it. Its rivals learn the definitions' own text, these sentences as
text, or both, the text and from the core, in the same steps of about as many tokens; a memory looks the definitions up,
and a core reads them. `ssd train-small --lora --distill-context` learns both from sentences of its own kind.

30 invented things (data/invented_entities.jsonl), each with a definition, five facts of it in other words, and five
inferences, whose answers do not stand in it. An answer is said if each of its tokens is the likeliest. Other text:
nats per token of the first 128 tokens of the bundled notebook's held-out notes, and of each file's documents. Nothing
is chosen by any of these figures.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import logsigmoid

from benchmarks.lib.beside_memory import Ids, memory_denoiser
from benchmarks.lib.corpora import Corpus, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.models import Model
from benchmarks.lib.students import SideNetwork, drawn, padded, predicted, with_lora
from benchmarks.lib.tables import mean, signed, table
from benchmarks.lib.timing import processor_seconds
from ssdcli.engine.ensemble.gate import PUBLIC_GATE
from ssdcli.engine.ensemble.rules import gate_features
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.models.lora import join_adapter
from ssdcli.models.memory.text_index import Index
from ssdcli.registry.store import SMOLLM2
from ssdcli.text.messages import BETWEEN
from ssdcli.training.settings import TrainSettings

ENTITIES = Path(__file__).parent / "data" / "invented_entities.jsonl"
KINDS = ("facts", "inferences")
TEXT, TAUGHT = "the text", "the core that reads it"
BOTH, ONE_BY_ONE = f"{TEXT} and {TAUGHT}", f"{TEXT}, then {TAUGHT}"
STUDENTS, LESSONS = ("LoRA", "side network"), (TEXT, "the sentences as text", TAUGHT, BOTH, ONE_BY_ONE)
CORE = "the core"

# What the core goes on from, after a definition; the student after nothing.
_OPENINGS = ("{}", "Everybody knows that {}", "As a consequence, {}", "People say about {} that", "Because of this, {}")
_MOST = 128  # tokens of other text
_ROWS, _TOGETHER = 16, 30  # of a step, and of a pass that learns nothing
_KEPT = 4  # steps after which a training is kept
_WARMUP = 0.1

Predict = Callable[[Sequence[Ids]], list[Tensor]]  # texts -> log p of what follows each token but the last, (T - 1, V)


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--core", default=SMOLLM2, help="a causal LM of the user's registry")
    parser.add_argument("--heldout", nargs="+", default=[], metavar="FILE", help="other text to measure on")
    parser.add_argument("--documents", type=int, default=10, help="the first so many of each file")
    ways = [f"{student}, from {lesson}" for student, lesson in product(STUDENTS, LESSONS)]
    parser.add_argument("--variants", nargs="*", choices=ways, default=ways, help="trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--ratios", type=float, nargs="*", default=[0, 0.5, 1], help="of lessons, in trainings of ssd train-small"
    )
    parser.add_argument("--each", type=int, default=1, help="sentences that the core writes after each opening")
    parser.add_argument("--tokens", type=int, default=32, help="of a sentence")
    parser.add_argument("--steps", type=int, nargs="+", default=[32], help="of each training")
    parser.add_argument("--rate", type=float, default=3e-4, help="the LoRA's learning rate")
    parser.add_argument("--side-rate", type=float, default=1e-3, help="the side network's learning rate")
    parser.add_argument("--rank", type=int, default=16)


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for what needs no training, and for each training."""
    bench = Bench(workshop, workshop.model(given.core), given)
    workshop.piece({"way": "untrained"}, bench.untrained)
    for seed, steps in product(given.seeds, given.steps):
        for student, lesson in product(STUDENTS, LESSONS):
            way = f"{student}, from {lesson}"
            if way in given.variants:
                asked = {"way": way, "seed": seed, "steps": steps}
                workshop.piece(asked, partial(bench.trained, student, lesson, seed, steps))
        for share in given.ratios:
            asked = {"way": f"ssd train-small, {share:g} of the loss from lessons", "seed": seed, "steps": steps}
            workshop.piece(asked, partial(bench.packaged, share, seed, steps))


@dataclass(frozen=True)
class Row:
    """What a student reads, and where it learns.

    tokens: with the opening.
    due: how many of them, at the end, are learned.
    states: the teacher's, which predict these, (due, H); None where the tokens themselves are learned.
    """

    tokens: Ids
    due: int
    states: Tensor | None = None


@dataclass(frozen=True)
class Bench:
    """A core and what is asked."""

    workshop: Workshop
    core: Model
    given: Namespace

    @cached_property
    def entities(self) -> list[dict[str, Any]]:
        """Names, definitions, facts and inferences."""
        return [json.loads(line) for line in ENTITIES.read_text(encoding="utf-8").splitlines()]

    @cached_property
    def network(self) -> Any:
        """The core in transformers' own class, in bfloat16."""
        backbone: Any = self.core.backbone
        return deepcopy(backbone.model).bfloat16()

    @property
    def began(self) -> int:
        """The id that opens a text."""
        return self.core.manifest.begin or 0

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        ids: list[int] = self.core.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    # What is asked

    def probes(self, kind: str, before: Callable[[dict[str, Any]], str]) -> Iterator[tuple[list[int], int]]:
        """Each prompt with its answer, after a text, as tokens, and how many of these are the answer's."""
        for entity in self.entities:
            shown = before(entity)
            for fact in entity[kind]:
                prompt, answer = self.ids(shown + fact["prompt"]), self.ids(f" {fact['answer']}")
                yield [self.began, *prompt, *answer], len(answer)

    @cached_property
    def others(self) -> dict[str, list[list[int]]]:
        """Other texts, by where they are from."""
        paths = [Corpus.notebook().heldout, *self.given.heldout]
        names = ["notebook", *(Path(path).name.removesuffix(".jsonl.gz") for path in self.given.heldout)]
        texts = [read_texts(path, self.given.documents) for path in paths]
        return {
            name: [[self.began, *self.ids(text)[:_MOST]] for text in own]
            for name, own in zip(names, texts, strict=True)
        }

    def answered(self, predict: Predict, before: Callable[[dict[str, Any]], str] = lambda _: "") -> Line:
        """The nats of each answer, and whether it is said."""
        found: Line = {}
        for kind in KINDS:
            probes, nats, said = list(self.probes(kind, before)), [], []
            for start in range(0, len(probes), _TOGETHER):
                part = probes[start : start + _TOGETHER]
                for (text, due), log_p in zip(part, predict([text for text, _ in part]), strict=True):
                    tokens = torch.tensor(text[-due:])[:, None]
                    nats.append(round(-float(log_p[-due:].gather(-1, tokens).sum()), 4))
                    said.append(log_p[-due:].argmax(-1).tolist() == text[-due:])
            found[kind] = {"nats": nats, "said": said}
        return found

    def measured(self, predict: Predict) -> Line:
        """The same, and the nats per token of other text."""
        others = {}
        for name, texts in self.others.items():
            said = ((text, predict([text])[0]) for text in texts)
            sums = [-float(log_p.gather(-1, torch.tensor(text[1:])[:, None]).sum()) for text, log_p in said]
            others[name] = sum(sums) / sum(len(text) - 1 for text in texts)
        return self.answered(predict) | {"others": others}

    # Without training

    @torch.no_grad()
    def untrained(self) -> Line:
        """The core, alone, beside a memory of the definitions, and where it reads one or all of them."""
        predict = partial(said, self.network)
        everything = "".join(entity["definition"] + BETWEEN for entity in self.entities)
        return {
            "results": {
                CORE: self.measured(predict),
                "core and memory of the definitions, by the public gate": self.measured(self.beside_memory(predict)),
                "the core that reads the definition": self.answered(
                    predict, lambda entity: entity["definition"] + BETWEEN
                ),
                "the core that reads all definitions": self.answered(
                    partial(predicted, self.network, before=self.ids(everything))
                ),
            }
        }

    def beside_memory(self, predict: Predict) -> Predict:
        """A model beside a memory of the definitions, weighed by the gate that was fitted on other people's notes."""
        memory = memory_denoiser(Index.of([self.ids(entity["definition"]) for entity in self.entities]), self.core)
        coefficients = torch.tensor(PUBLIC_GATE.coefficients[0], dtype=torch.float64)

        def both(texts: Sequence[Ids]) -> list[Tensor]:
            found = []
            for text, own in zip(texts, predict(texts), strict=True):
                known = torch.stack(list(memory.conditionals(text[1:], range(len(text) - 1))))[:, : own.shape[1]]
                features = gate_features(torch.stack([entropy(own), entropy(known)], dim=1).double())
                odds = (features @ coefficients)[:, None].float()
                found.append(torch.logaddexp(own + logsigmoid(-odds), known + logsigmoid(odds)))
            return found

        return both

    # Lessons

    @property
    def sentences(self) -> list[tuple[int, list[int], list[int]]]:
        """What the core writes about what is defined: of which entity, its opening's tokens, and its own."""
        asked = {"sentences": self.given.tokens, "each": self.given.each}
        written: list[tuple[int, list[int], list[int]]] = self.workshop.piece(asked, self._written)["rows"]
        return written

    def _written(self) -> Line:
        began = processor_seconds()
        torch.manual_seed(0)
        found = []
        for opening in _OPENINGS * self.given.each:
            own = [self.ids(opening.format(_inside(entity["name"], opening))) for entity in self.entities]
            shown = [
                [self.began, *self.ids(entity["definition"] + " "), *ids]
                for entity, ids in zip(self.entities, own, strict=True)
            ]
            written = drawn(self.network, shown, self.given.tokens)
            found += [(place, ids, row) for place, (ids, row) in enumerate(zip(own, written, strict=True))]
        texts = [self.core.tokenizer.decode([*opening, *own]) for _, opening, own in found]
        return {"rows": found, "texts": texts, "minutes": round((processor_seconds() - began) / 60, 2)}

    def rows(self, lesson: str) -> list[Row]:
        """What is learned."""
        if lesson == TEXT:
            texts = [[self.began, *self.ids(entity["definition"])] for entity in self.entities]
            return [Row(text, len(text) - 1) for text in texts]
        rows = []
        for place, opening, own in self.sentences:
            row = Row([self.began, *opening, *own], len(own))
            if lesson == TAUGHT:
                shown = [self.began, *self.ids(self.entities[place]["definition"] + " "), *opening, *own[:-1]]
                with torch.no_grad():
                    states = self.network.model(torch.tensor([shown])).last_hidden_state[0, -len(own) :]
                row = Row(row.tokens, row.due, states)
            rows.append(row)
        return rows

    def batches(self, lesson: str, steps: int) -> Iterator[Sequence[Row]]:
        """The rows of each step: of both lessons half of them each, or each in half of the steps."""
        if lesson == BOTH:
            parts = [_batches(self.rows(one), _ROWS // 2) for one in (TEXT, TAUGHT)]
            return ([*text, *taught] for text, taught in zip(*parts, strict=True))
        if lesson == ONE_BY_ONE:
            return chain(islice(_batches(self.rows(TEXT)), steps // 2), _batches(self.rows(TAUGHT)))
        return _batches(self.rows(lesson))

    def trained(self, student: str, lesson: str, seed: int, steps: int) -> Line:
        """What a student knows after all steps, alone and beside a memory; a training that is ended goes on."""
        torch.manual_seed(seed)
        began = processor_seconds()
        network = with_lora(self.network, self.given.rank) if student == "LoRA" else SideNetwork(self.network)
        rate = self.given.rate if student == "LoRA" else self.given.side_rate
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer, batches = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01), self.batches(lesson, steps)
        path, first, spent = self.workshop.out.with_suffix(f".{student} {lesson} {steps} {seed}.pt"), 0, 0.0
        if path.exists():
            first, spent, state, values = torch.load(path)
            optimizer.load_state_dict(state)
            for weight, value in zip(weights, values, strict=True):
                weight.data.copy_(value)
        for step in range(steps):
            batch = next(batches)
            if step < first:
                continue
            optimizer.param_groups[0]["lr"] = rate * _schedule((step + 0.5) / steps)
            self.loss(network, batch).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % _KEPT == 0:
                spent, began = spent + processor_seconds() - began, processor_seconds()
                torch.save((step + 1, spent, optimizer.state_dict(), [weight.data for weight in weights]), path)
        minutes = (spent + processor_seconds() - began) / 60
        return {"results": self._results(network), "minutes": round(minutes, 2)}

    def packaged(self, share: float, seed: int, steps: int) -> Line:
        """What an adapter by `ssd train-small --lora --distill-context` knows, which holds some definitions out."""
        path = self.workshop.out.with_suffix(".definitions.jsonl")
        path.write_text("".join(json.dumps({"text": entity["definition"]}) + "\n" for entity in self.entities))
        settings = TrainSettings(
            data=(str(path),),
            core=self.given.core,
            name=f"lessons-{share:g}-{steps}-{seed}".replace(".", "-"),
            lora=self.given.rank,
            steps=steps,
            seed=seed,
            memory=False,
            distill_context=share > 0,
            distill_weight=share,
        )
        trained, network = self.workshop.trained(settings), deepcopy(self.network)
        join_adapter(Namespace(layers=network), self.workshop.registry.find(settings.name).folder)
        return {"results": self._results(network), "minutes": trained["minutes"], "kept": trained["kept"]}

    @torch.no_grad()
    def _results(self, network: Any) -> Line:
        predict = partial(said, network)
        return {"alone": self.measured(predict), "with a memory": self.answered(self.beside_memory(predict))}

    def loss(self, network: Any, rows: Sequence[Row]) -> Tensor:
        """Mean cross-entropy, or KL divergence from the teacher, of the tokens that are due."""
        predicted = said(network, [row.tokens for row in rows])
        parts = []
        for row, log_p in zip(rows, predicted, strict=True):
            if row.states is None:
                parts.append(
                    functional.nll_loss(log_p[-row.due :], torch.tensor(row.tokens[-row.due :]), reduction="sum")
                )
            else:
                with torch.no_grad():
                    taught = self.network.lm_head(row.states).float().log_softmax(-1)
                parts.append(functional.kl_div(log_p[-row.due :], taught, log_target=True, reduction="sum"))
        return torch.stack(parts).sum() / sum(row.due for row in rows)


def _inside(name: str, opening: str) -> str:
    """A name at the beginning of a sentence, or within one."""
    article, _, rest = name.partition(" ")
    return name if opening.startswith("{}") or article not in ("A", "The") else f"{article.lower()} {rest}"


def _batches(rows: Sequence[Row], each: int = _ROWS) -> Iterator[Sequence[Row]]:
    while True:
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(order), each):
            yield [rows[place] for place in order[start : start + each]]


def _schedule(spent: float) -> float:
    """The share of the learning rate: a warmup and a cosine."""
    return min(1.0, spent / _WARMUP) * float(1 + np.cos(np.pi * spent)) / 2


def said(network: Any, texts: Sequence[Ids]) -> list[Tensor]:
    """What a causal LM or a side network predicts after each token of texts but the last: (T - 1, V) float32 each."""
    if not isinstance(network, SideNetwork):
        return predicted(network, texts)
    with torch.no_grad():
        states = network.states_of(padded([text[:-1] for text in texts]))
    with torch.autocast("cpu", torch.bfloat16):
        return [network(own[: len(text) - 1]).float().log_softmax(-1) for text, own in zip(texts, states, strict=True)]


# The tables


def report(found: Sequence[Line]) -> str:
    """A row for each way and number of steps; errors are over things, gains over the core paired."""
    ways = [(line, title, result) for line in found if "results" in line for title, result in line["results"].items()]
    (core,) = (result for _, title, result in ways if title == CORE)
    names = list(core["others"])
    rows = []
    for line, title, result in ways:
        whole = title if line["way"] == "untrained" else f"{line['way']}, {line['steps']} steps, {title}"
        cells = [cell for kind in KINDS for cell in _cells(result[kind], core[kind])]
        rows.append([whole, *cells, *(f"{result['others'][name]:.4f}" if "others" in result else "" for name in names)])
    header = ["way", *(f"{kind}{what}" for kind in KINDS for what in (": nats", ": gain", " said")), *names]
    timed = [line for line in found if "minutes" in line and "training" not in line]
    times = [f"- {line.get('way', 'the sentences')}: {line['minutes']} minutes" for line in timed]
    return "\n".join([table(header, rows), "", *times])


def _cells(own: Mapping[str, Any], core: Mapping[str, Any]) -> list[object]:
    """Nats of an answer, the gain over the core, and how many are said."""
    gains = (np.array(core["nats"]) - np.array(own["nats"])).reshape(-1, 5).mean(1)
    error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return [f"{mean(own['nats']):.3f}", signed(float(gains.mean()), error), f"{sum(own['said'])} of {len(own['said'])}"]
