"""Does a small model learn which words may come next from given distributions, and what does its own text lose by it?

    python -m benchmarks cloze --out FILE
    python -m benchmarks cloze --corpus TRAIN HELDOUT --out FILE

The distributions are the core's own at another temperature, so that they differ from the text: at places between words,
the likeliest tokens that begin a word, each completed greedily. Two small models are trained on the notes of the
bundled notebook, or of another corpus, one of them with the distributions at places of these notes. Both and the core
are compared with the distributions at places of held-out notes: the divergence in nats, the correlation over all words,
and how often the likeliest word is the same; intervals are over notes. Nats are per token of the held-out notes.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.corpora import Corpus, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.models import Model
from benchmarks.lib.tables import table
from ssdcli.data.cloze import Branch
from ssdcli.evaluation.next_words import Words, agreement
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.registry.store import SMOLLM2
from ssdcli.training.cloze_states import read_branches
from ssdcli.training.core_states import Passage, read_passages
from ssdcli.training.prepare import open_readable
from ssdcli.training.settings import TrainSettings

PLAIN, TAUGHT = "small model of the text", "small model of the text and the distributions"
_CHARACTERS = 1200  # of a note, at most
_LONGEST = 4  # tokens of a word
_SLICE = 256  # positions whose predictions are held at once
_GAP = re.compile(r"(?<=\S) (?=[A-Za-z])")

Row = dict[str, Any]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs=2, metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--core", default=SMOLLM2, help="a causal LM of the user's registry")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--words", type=int, default=6, help="at a place")
    parser.add_argument("--places", type=int, nargs=2, default=(2400, 2400), metavar=("TRAINING", "HELDOUT"))
    parser.add_argument("--minutes", type=float, default=3.0, help="of processor time for each training")
    parser.add_argument("--seed", type=int, default=0)


def work(given: Namespace, workshop: Workshop) -> None:
    """Make the distributions, train both small models, and compare them."""
    corpus = Corpus.notebook() if given.corpus is None else Corpus.of(*given.corpus)
    teacher = Teacher(workshop.model(given.core), given)
    folder = workshop.home / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in ("taught", "heldout", "plain")}
    for name, path, count in zip(("taught", "heldout"), (corpus.train, corpus.heldout), given.places, strict=True):
        workshop.piece({"rows": name}, partial(_written, teacher, path, count, files[name]))
    taught = [json.loads(line) for line in files["taught"].read_text(encoding="utf-8").splitlines()]
    files["plain"].write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in taught), encoding="utf-8")
    for name in ("plain", "taught"):
        settings = TrainSettings(
            (str(files[name]),), core=given.core, name=name, minutes=given.minutes, seed=given.seed, memory=False
        )
        workshop.trained(settings)
    rows = [json.loads(line) for line in files["heldout"].read_text(encoding="utf-8").splitlines()]
    for name, small in {given.core: None, PLAIN: "plain", TAUGHT: "taught"}.items():
        model = None if small is None else workshop.model(small)
        workshop.piece({"author": name}, partial(_compared, teacher, model, rows, name))


def _written(teacher: Teacher, path: str, count: int, file: Path) -> Line:
    rows = list(teacher.rows(read_texts(path), count))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [word for row in rows for target in row["cloze"] for word in target["words"]]
    tokens = [len(teacher.ids(f" {word}")) for word in words]
    places = sum(len(row["cloze"]) for row in rows)
    return {"notes": len(rows), "places": places, "words": len(words), "longer": sum(one > 1 for one in tokens)}


@dataclass(frozen=True)
class Teacher:
    """A core that says at a temperature which words may come next."""

    core: Model
    given: Namespace

    @cached_property
    def network(self) -> CausalCore:
        """The core as a small model reads it in its training, with all states that one reads."""
        network = open_readable(self.core.entry, self.core.process)
        network.tap(network.middle_layers)
        return network

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        ids: list[int] = self.core.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def opened(self, text: str) -> list[int]:
        """The tokens of a text after the opening."""
        return [self.core.manifest.begin or 0, *self.ids(text)]

    @cached_property
    def begins_word(self) -> Tensor:
        """Which ids begin a word: (V,) bool."""
        texts = [self.core.tokenizer.decode([id]) for id in range(self.core.tokenizer.get_vocab_size())]
        begins = torch.zeros(self.core.manifest.vocabulary, dtype=torch.bool)
        begins[: len(texts)] = torch.tensor([text[:1] == " " and text[1:2].isalpha() for text in texts])
        return begins

    def rows(self, texts: Sequence[str], count: int) -> Iterator[Row]:
        """The beginnings of texts with distributions at some places, so many in all, drawn at random."""
        kept = [text[:_CHARACTERS] for text in texts]
        gaps = [(number, gap.end()) for number, text in enumerate(kept) for gap in _GAP.finditer(text)]
        chosen = Random(self.given.seed).sample(gaps, min(count, len(gaps)))
        for number, text in enumerate(kept):
            own = sorted(at for document, at in chosen if document == number)
            whole = [at for at in own if self.ids(text)[: len(self.ids(text[: at - 1]))] == self.ids(text[: at - 1])]
            words = self._words(text, whole) if whole else []
            yield {"text": text, "cloze": [{"at": at, "words": one} for at, one in zip(whole, words, strict=True)]}

    def _words(self, text: str, places: Sequence[int]) -> list[Mapping[str, float]]:
        """The likeliest words at each place with their shares."""
        tokens, before = self.opened(text), [len(self.ids(text[: at - 1])) for at in places]
        first = self._log_p(tokens, [Branch(0, at, [([0], 1.0)]) for at in before])
        tempered = (first / self.given.temperature).masked_fill(~self.begins_word, -torch.inf).softmax(-1)
        shares, tops = tempered.topk(self.given.words)
        words = [[[id] for id in row] for row in tops.tolist()]
        for _ in range(_LONGEST - 1):
            open_words = [word for row in words for word in row if word[-1] >= 0]
            if not open_words:
                break
            self._extend(tokens, before, words)
        shares = (shares / shares.sum(1, keepdim=True)).tolist()
        return [self._told(row, own) for row, own in zip(words, shares, strict=True)]

    def _extend(self, tokens: Sequence[int], before: Sequence[int], words: list[list[list[int]]]) -> None:
        """Add to each word the token that goes on with it; one that is complete ends with -1 from then on."""
        branches = [
            Branch(0, at, [([*word, 0], 1.0) for word in row if word[-1] >= 0])
            for at, row in zip(before, words, strict=True)
        ]
        open_words = [word for row in words for word in row if word[-1] >= 0]
        last = np.cumsum([len(word) + 1 for word in open_words]) - 1
        states = read_branches(self.network, tokens, branches).states[torch.from_numpy(last)]
        for word, id in zip(open_words, self._logits(states).argmax(-1).tolist(), strict=True):
            goes_on = self.core.tokenizer.decode([id])[:1].isalpha()
            word.append(id if goes_on else -1)

    def _told(self, words: Sequence[Sequence[int]], shares: Sequence[float]) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for ids, share in zip(words, shares, strict=True):
            word = self.core.tokenizer.decode([id for id in ids if id >= 0]).strip()
            found[word] = found.get(word, 0.0) + round(share, 6)
        return found

    def _log_p(self, tokens: Sequence[int], branches: Sequence[Branch]) -> Tensor:
        return self._logits(read_branches(self.network, tokens, branches).states).log_softmax(-1)

    @torch.no_grad()
    def _logits(self, states: Tensor) -> Tensor:
        """The core's, after states (N, D): (N, V) float32."""
        width = self.network.width
        return torch.cat([self.network.logits(part[:, :width]).float() for part in states.split(_SLICE)])


@torch.no_grad()
def _compared(teacher: Teacher, model: Model | None, rows: Sequence[Row], name: str) -> Line:
    """How an author agrees with the distributions, and its nats per token of the text."""
    network = None if model is None else _on(teacher.network, model)
    found: list[Words] = []
    nats, count = 0.0, 0
    for number, row in enumerate(rows):
        tokens = teacher.opened(row["text"])
        places = [len(teacher.ids(row["text"][: target["at"] - 1])) for target in row["cloze"]]
        words = [{word: teacher.ids(f" {word}") for word in target["words"]} for target in row["cloze"]]
        branches = [Branch(0, at, [(ids, 1.0) for ids in own.values()]) for at, own in zip(places, words, strict=True)]
        if branches:
            read = read_branches(teacher.network, tokens, branches)
            log_p = _said(teacher.network, network, read.states, read.targets)
            lengths = torch.tensor([len(ids) for own in words for ids in own.values()])
            sums = torch.stack([part.sum() for part in log_p.split(lengths.tolist())]).double().numpy()
            split = np.split(sums, np.cumsum([len(own) for own in words])[:-1])
            shares = [np.array(list(target["words"].values())) for target in row["cloze"]]
            found += [Words(number, own / own.sum(), said) for own, said in zip(shares, split, strict=True)]
        states, targets = read_passages(teacher.network, [Passage(tokens, [True] * (len(tokens) - 1))])
        nats -= float(_said(teacher.network, network, states, targets).sum())
        count += len(targets)
    told = agreement(name, found).to_json()
    return {"author": name, **told, "nats": round(nats / count, 4), "tokens": count}


def _on(core: CausalCore, model: Model) -> SideNetwork:
    """A small model on a core that is loaded."""
    backbone = model.backbone
    assert isinstance(backbone, SideNetwork)
    own = SideNetwork(backbone.config, core)
    own.load_state_dict(backbone.state_dict())
    return own.eval()


def _said(core: CausalCore, network: SideNetwork | None, states: Tensor, targets: Tensor) -> Tensor:
    """Log p of tokens (N,) after states (N, D): (N,)."""
    parts = []
    for part, own in zip(states.split(_SLICE), targets.split(_SLICE), strict=True):
        logits = core.logits(part[:, : core.width]) if network is None else network.logits(part)
        parts.append(logits.float().log_softmax(-1).gather(-1, own[:, None])[:, 0])
    return torch.cat(parts)


def report(found: Sequence[Line]) -> str:
    """What was made, and the table of authors."""
    made = [
        f"{line['rows']}: {line['notes']} notes, {line['places']:,} places, {line['words']:,} words, of which "
        f"{line['longer']:,} have several tokens"
        for line in found
        if "rows" in line
    ]
    header = ["author", "divergence", "correlation", "top word", "nats per token"]
    rows = [
        [
            line["author"],
            _interval(line["divergence"]),
            f"{line['correlation']:.3f}",
            _interval(line["top_word"]),
            line["nats"],
        ]
        for line in found
        if "author" in line
    ]
    return "\n".join(made) + "\n\n" + table(header, rows)


def _interval(told: Mapping[str, float]) -> str:
    return f"{told['value']:.3f} ± {told['high'] - told['value']:.3f}"
