"""How strongly should a classifier guide, and what does it cost the text?

    python -m benchmarks guidance tech.train.jsonl.gz --kinds rust-lang python+peps --cores starter smollm2 --out FILE

Trains a small classifier of transformers over each core's tokens on documents of two kinds, told apart by how their ids
begin, and lets it guide the core after a few beginnings that say nothing of either, with the same seeds at every scale.
The share of texts of the second kind is counted by the classifier itself and by single words, counted in documents that
the classifier has not seen; what the texts cost is the exact perplexity of the judge, a causal core.
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.lib.experiment import Line, Workshop, grouped
from benchmarks.lib.models import Model
from benchmarks.lib.tables import table
from benchmarks.lib.timing import processor_seconds
from ssdcli.api import Options, Request, Writer, choose
from ssdcli.engine.ensemble import guidance
from ssdcli.engine.ensemble.guidance import ClassifierGuide
from ssdcli.evaluation.generated import distinct_ngrams, words
from ssdcli.generation.guides import GuideSpec, open_guide
from ssdcli.models.judge import Judge
from ssdcli.registry.store import SMOLLM2, STARTER

QUICK = {"scales": (0, 3), "rows": 8, "steps": 100, "ways": ["canvas"], "cores": [STARTER]}
BEGINNINGS = ("In this", "The following", "This document", "When", "We", "If a", "There are", "One of the")
WRITTEN = 48  # tokens of a text
REAL = "texts of the second kind"
_WANTED = 1  # the second kind
_READ = 4000  # characters of a document
_LENGTHS = (4, 8, 16, 32, 48)  # tokens of the classifier's texts: beginnings, too
WAYS = ("canvas", "canvas, by the logits", "from the left")


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", type=Path, nargs="?", help="gzipped JSON lines with 'id' and 'text'")
    parser.add_argument("--kinds", nargs=2, default=("rust-lang", "python+peps"), help="how the ids of the kinds begin")
    parser.add_argument("--cores", nargs="+", default=[STARTER, SMOLLM2], help="of the user's registry")
    parser.add_argument("--judge", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--ways", nargs="+", default=WAYS, help="in which a masked core writes")
    parser.add_argument("--scales", type=float, nargs="+", default=(0, 1, 2, 4, 8, 16))
    parser.add_argument("--lists", type=int, nargs="+", default=(guidance.CANDIDATES,), help="candidates of a token")
    parser.add_argument("--rows", type=int, default=32, help="texts at each scale")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the classifier")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for the real texts, and for each core, way and scale."""
    judge = workshop.model(given.judge)
    for core in map(workshop.model, given.cores):
        guided = Guided(workshop, core, judge, given)
        workshop.piece({"core": core.name, "way": REAL, "scale": "", "list": 0}, guided.documents_themselves)
        causal = core.manifest.attention == "autoregressive"
        for way in WAYS[-1:] if causal else given.ways:
            for scale in given.scales:
                for size in given.lists if way == WAYS[-1] else [0]:
                    asked = {"core": core.name, "way": way, "scale": scale, "list": size}
                    workshop.piece(asked, partial(guided.at, way, scale, size))


# Documents of two kinds


@dataclass(frozen=True)
class Documents:
    """Tokenised documents, each with its kind (0 or 1)."""

    tokens: Sequence[Tensor]
    kinds: Sequence[int]

    @classmethod
    def read(cls, path: Path, kinds: Sequence[str], tokenizer: Tokenizer) -> Documents:
        """The documents whose ids begin like one of the kinds."""
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        chosen = [
            (row["text"][:_READ], kinds.index(kind)) for row in rows for kind in kinds if row["id"].startswith(kind)
        ]
        encodings = tokenizer.encode_batch([text for text, _ in chosen], add_special_tokens=False)
        return cls([torch.tensor(encoding.ids) for encoding in encodings], [kind for _, kind in chosen])

    def half(self, first: int) -> Documents:
        """Every other document, beginning with this one."""
        return Documents(self.tokens[first::2], self.kinds[first::2])

    def windows(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        """Windows of random documents, the same number of each kind: (count, length) int64, their kinds (count,)."""
        kinds = torch.arange(count) % 2
        pairs = list(zip(self.tokens, self.kinds, strict=True))
        long = [[text for text, own in pairs if own == kind and len(text) > length] for kind in (0, 1)]
        rows = []
        for kind in kinds.tolist():
            text = long[kind][int(torch.randint(len(long[kind]), ()))]
            start = int(torch.randint(len(text) - length, ()))
            rows.append(text[start : start + length])
        return torch.stack(rows), kinds

    def odds(self, vocabulary: int) -> Tensor:
        """Log odds of the wanted kind for each token (V,), every token counted once more in either kind."""
        counts = torch.ones(2, vocabulary)
        for tokens, kind in zip(self.tokens, self.kinds, strict=True):
            counts[kind] += torch.bincount(tokens, minlength=vocabulary)
        log_p = (counts / counts.sum(1, keepdim=True)).log()
        return log_p[_WANTED] - log_p[1 - _WANTED]


def train(documents: Documents, vocabulary: int, steps: int) -> BertForSequenceClassification:
    """A small BERT that tells the kinds apart."""
    config = BertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        texts, kinds = documents.windows(32, _LENGTHS[step % len(_LENGTHS)])
        loss = model(input_ids=texts, labels=kinds).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


# The work


class ByTheLogits(ClassifierGuide):
    """Follows the gradient by the logits, as SSD-LM does, which is smaller the less likely a token is."""

    def push(self, log_p: Tensor, written: Tensor) -> Tensor:
        """The gradient by the embeddings, times p."""
        return super().push(log_p, written) * log_p.float().softmax(-1).nan_to_num()


@dataclass(frozen=True)
class Guided:
    """A core that writes under guidance; the classifier is trained when it is first needed."""

    workshop: Workshop
    core: Model
    judge: Model
    given: Namespace

    @cached_property
    def _documents(self) -> Documents:
        return Documents.read(self.given.data, self.given.kinds, self.core.tokenizer)

    @cached_property
    def _odds(self) -> Tensor:
        return self._documents.half(1).odds(self.core.manifest.vocabulary)

    @cached_property
    def _classifier(self) -> Path:
        """The folder of the classifier, trained on every other document."""
        folder = self.workshop.home / f"classifier-{self.core.name}"
        if not (folder / "tokenizer.json").exists():
            torch.manual_seed(0)
            model = train(self._documents.half(0), self.core.manifest.vocabulary, self.given.steps)
            model.save_pretrained(folder)
            shutil.copy(self.core.folder / "tokenizer.json", folder)
        return folder

    @cached_property
    def _judge(self) -> Judge:
        backbone: Any = self.judge.backbone
        return Judge(backbone.model, self.judge.tokenizer)

    @cached_property
    def _writer(self) -> Writer:
        return choose(self.core.name, registry=self.workshop.registry).open()

    @property
    def _beginnings(self) -> list[str]:
        return [BEGINNINGS[row % len(BEGINNINGS)] for row in range(self.given.rows)]

    def documents_themselves(self) -> Line:
        """What is found of documents of the wanted kind that the classifier was not trained on."""
        torch.manual_seed(0)
        texts, kinds = self._documents.half(1).windows(2 * self.given.rows, WRITTEN)
        return self._found([self.core.tokenizer.decode(text.tolist()) for text in texts[kinds == _WANTED]])

    def at(self, way: str, scale: float, size: int) -> Line:
        """Texts at a scale, at the default temperature and top-p."""
        manifest = self.core.manifest
        guide = open_guide(
            GuideSpec(str(self._classifier), str(_WANTED), scale), manifest.tokenizer, manifest.vocabulary
        )
        if way == WAYS[1] and isinstance(guide, ClassifierGuide):
            guide = ByTheLogits(guide.classifier, guide.label, guide.scale)
        guidance.CANDIDATES = size
        causal = manifest.attention == "autoregressive"
        writer = Writer(self._writer.members, self._writer.core, guides=[guide])
        options = Options(max_tokens=WRITTEN, seed=0, endless=True, plain=True)
        options = replace(options, sampler="left-to-right" if way == WAYS[-1] and not causal else None)
        began = processor_seconds()
        results = writer.generate_batch([Request(before) for before in self._beginnings], options)
        seconds = processor_seconds() - began
        passes = sum(result.steps for result in results) / sum(result.tokens for result in results)
        texts = [result.text for result in results]
        return {"texts": texts, "seconds": seconds / len(texts), "passes": passes} | self._found(texts)

    def _found(self, texts: Sequence[str]) -> Line:
        """What both classifiers and the judge find of texts."""
        model = BertForSequenceClassification.from_pretrained(self._classifier)
        encode = partial(self.core.tokenizer.encode, add_special_tokens=False)
        ids = [torch.tensor(encode(text).ids[:WRITTEN]) for text in texts]
        with torch.no_grad():
            guided = [int(model(input_ids=one[None]).logits.argmax()) == _WANTED for one in ids]
        readings = [self._judge.read(before, text) for before, text in zip(self._beginnings, texts, strict=True)]
        return {
            "guided": guided,
            "by words": [bool(self._odds[one].sum() > 0) for one in ids],
            "nats": [round(reading.nats / max(1, reading.tokens), 4) for reading in readings],
            "distinct-2": round(distinct_ngrams([words(text) for text in texts], 2), 4),
        }


# The table


def report(found: Sequence[Line]) -> str:
    """A row for each scale, in groups by core and way."""
    header = ["core", "way", "candidates", "scale", "by the guide", "by other words", "perplexity", "distinct-2"]
    groups = grouped(found, "core", "way", "list")
    return table(
        [*header, "steps a token", "seconds a text"], [row(line) for group in groups.values() for line in group]
    )


def row(line: Line) -> list[object]:
    """Shares with standard errors, the perplexity of all texts, and how varied the texts are."""
    names = line["core"], line["way"], line["list"] or "", f"{line['scale']:g}" if line["way"] != REAL else ""
    shares = [f"{np.mean(line[name]):.2f} ± {error(line[name]):.2f}" for name in ("guided", "by words")]
    cost = [f"{line[name]:.2f}" if name in line else "" for name in ("passes", "seconds")]
    perplexity = math.exp(float(np.mean(line["nats"])))
    judged = f"{perplexity:,.0f} ± {perplexity * error(line['nats']):,.0f}"
    return [*names, *shares, judged, line["distinct-2"], *cost]


def error(found: Sequence[float]) -> float:
    """The standard error of a mean over texts."""
    return float(np.std(found) / math.sqrt(len(found)))
