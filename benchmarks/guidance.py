"""How strongly should a classifier guide, and what does it cost the text?

    python -m benchmarks guidance tech.train.jsonl.gz --kinds rust-lang python+peps --out FILE
    python -m benchmarks guidance --table FILE --plot FOLDER

Trains a small classifier on documents of two kinds, told apart by how their ids begin, and lets it guide a core that
writes from nothing, with the same seeds at every scale. The share of texts of the second kind is counted by the
classifier itself and by single words, counted in documents that the classifier has not seen. Their perplexity is that
of a causal model that was trained on all documents.
"""

from __future__ import annotations

import gzip
import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.lib.charts import curves_over_doublings
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.tables import table
from benchmarks.lib.writing import WRITTEN, Bench, add_judge, draw, write, writer_of
from ssdcli.api import Options, Request, choose
from ssdcli.errors import UsageError
from ssdcli.generation.guides import GuideSpec, open_guide
from ssdcli.registry.store import STARTER

QUICK = {"scales": (0, 10, 100), "rows": 8, "steps": 200}
REAL = "texts of the second kind"
_WANTED = 1  # the second kind
_LENGTHS = (16, 32, 48)  # tokens of the classifier's texts


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", type=Path, nargs="?", help="gzipped JSON lines with 'id' and 'text'")
    parser.add_argument("--kinds", nargs=2, help="how the ids of the two kinds begin; the second is wanted")
    parser.add_argument("--core", default=STARTER, help="of the user's registry")
    parser.add_argument("--scales", type=float, nargs="+", default=(0, 3, 10, 30, 100, 300, 1000))
    parser.add_argument("--rows", type=int, default=64, help="texts at each scale")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the classifier")
    parser.add_argument("--seed", type=int, default=0)
    add_judge(parser)


def check(given: Namespace) -> None:
    """UsageError for arguments that leave nothing to measure."""
    if not (given.data and given.kinds):
        raise UsageError("nothing says what to tell apart.", "Name the data and the --kinds in it, or a --table.")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for the real texts and for each scale."""
    core = workshop.model(given.core)
    guided = Guided(workshop, core, given, [str(given.data)])
    workshop.piece({"scale": REAL, "seed": given.seed}, guided.documents_themselves)
    for scale in given.scales:
        workshop.piece({"scale": scale, "seed": given.seed}, partial(guided.at, scale))


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
        chosen = [(row["text"], kinds.index(kind)) for row in rows for kind in kinds if row["id"].startswith(kind)]
        encodings = tokenizer.encode_batch([text for text, _ in chosen], add_special_tokens=False)
        return cls([torch.tensor(encoding.ids) for encoding in encodings], [kind for _, kind in chosen])

    def half(self, first: int) -> Documents:
        """Every other document, beginning with this one."""
        return Documents(self.tokens[first::2], self.kinds[first::2])

    def windows(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        """Windows of random documents, the same number of each kind: (count, length) int64, their kinds (count,)."""
        kinds = torch.arange(count) % 2
        long = [
            [text for text, k in zip(self.tokens, self.kinds, strict=True) if k == kind and len(text) > length]
            for kind in (0, 1)
        ]
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


@dataclass(frozen=True)
class Guided(Bench):
    """A core that writes under guidance; the classifier is trained when it is first needed."""

    @cached_property
    def _documents(self) -> Documents:
        return Documents.read(self.given.data, self.given.kinds, self.core.tokenizer)

    @cached_property
    def _odds(self) -> Tensor:
        return self._documents.half(1).odds(self.core.manifest.vocabulary)

    @cached_property
    def _classifier(self) -> Path:
        """The folder of the classifier, trained on every other document."""
        folder = self.workshop.home / "classifier"
        if not (folder / "tokenizer.json").exists():
            torch.manual_seed(self.given.seed)
            model = train(self._documents.half(0), self.core.manifest.vocabulary, self.given.steps)
            model.save_pretrained(folder)
            self.core.tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    def documents_themselves(self) -> Line:
        """What is found of documents of the wanted kind that the classifier was not trained on."""
        torch.manual_seed(self.given.seed)
        texts, kinds = self._documents.half(1).windows(2 * self.given.rows, WRITTEN)
        return self._found([self.core.tokenizer.decode(text.tolist()) for text in texts[kinds == _WANTED]])

    def at(self, scale: float) -> Line:
        """Texts from nothing at a scale, at the default temperature and top-p."""
        manifest = self.core.manifest
        spec = GuideSpec(str(self._classifier), str(_WANTED), scale)
        guide = open_guide(spec, manifest.tokenizer, manifest.vocabulary)
        members = choose(self.core.name, registry=self.workshop.registry).open().members
        writer, options = writer_of(members, self.core, [guide]), Options(max_tokens=WRITTEN, seed=self.given.seed)
        written = write(writer, [Request()] * self.given.rows, options)
        return written | self._found(written["texts"])

    def _found(self, texts: Sequence[str]) -> Line:
        """What both classifiers and the judge find of texts."""
        model = BertForSequenceClassification.from_pretrained(self._classifier)
        encode = partial(self.core.tokenizer.encode, add_special_tokens=False)
        ids = [torch.tensor(encode(text).ids[:WRITTEN]) for text in texts]
        with torch.no_grad():
            guided = [int(model(input_ids=one[None]).logits.argmax()) == _WANTED for one in ids]
        by_words = [bool(self._odds[one].sum() > 0) for one in ids]
        return {"guided": guided, "by words": by_words} | self.judged(texts, [""] * len(texts))


# The table


def report(found: Sequence[Line]) -> str:
    """A row for each scale."""
    header = ["scale", "guided share, by the guide", "by other words", "perplexity", "distinct-2", "repetition"]
    group = [line for line in found if "scale" in line]
    title = f"{len(group[0]['nats'])} texts of {WRITTEN} tokens at each scale"
    return f"{title}\n\n{table(header, map(row, group))}"


def row(line: Line) -> list[object]:
    """Shares with standard errors, the perplexity, and how varied the texts are."""
    shares = [f"{np.mean(line[name]):.2f} ± {error(line[name]):.2f}" for name in ("guided", "by words")]
    scale = line["scale"] if line["scale"] == REAL else f"{line['scale']:g}"
    return [scale, *shares, f"{perplexity(line):,.0f}", line["distinct-2"], line["repetition"]]


def error(said: Sequence[bool]) -> float:
    """The standard error of a share."""
    return float(np.std(said) / math.sqrt(len(said)))


def perplexity(line: Line) -> float:
    """The judge's, every text counting the same."""
    return math.exp(float(np.mean(line["nats"])))


def plot(lines: Sequence[Line], folder: Path) -> None:
    """Two pictures over the scale: the guided shares, and the perplexity beside that of unguided text."""
    found: Mapping[float, Line] = {line["scale"]: line for line in lines if line.get("scale", REAL) != REAL}
    axis = "scale of the guide"
    shares = {
        name: [(scale, float(np.mean(line[key]))) for scale, line in found.items()]
        for name, key in (("guide", "guided"), ("other words", "by words"))
    }
    picture = curves_over_doublings(shares, "Share of texts with the guided label", (axis, "share"))
    draw(picture, folder / "guidance-share.svg")
    fluency = {"guided": [(scale, perplexity(line)) for scale, line in found.items()]}
    if 0 in found:
        fluency["unguided"] = [(scale, perplexity(found[0])) for scale in found]
    picture = curves_over_doublings(fluency, "Perplexity of guided text, by the judge", (axis, "perplexity"))
    draw(picture, folder / "guidance-fluency.svg")
