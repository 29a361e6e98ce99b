"""How strongly should a classifier guide, and what does it cost the text? Guided share and fluency by scale.

    python -m benchmarks guidance tech.train.jsonl.gz --kinds rust-lang python+peps --out FILE
    python -m benchmarks guidance --table FILE --plot FOLDER

Trains a small classifier on documents of two kinds, told apart by how their ids begin, and lets it guide a core that
writes from nothing, with the same seeds at every scale. The share of texts of the second kind is counted by the
classifier itself and by a second one, of single words of documents that the first has not seen. How fluent they are is
told by a causal model that was trained on all documents: its perplexity.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.lib.experiment import Line, Workshop, heading, lines, tokenizer_of
from benchmarks.lib.tables import table
from benchmarks.lib.writing import WRITTEN, Beginnings, add_judge, borrowed, draw, judge_of, judged, write, writer_of
from ssdcli.api import Options, Request, choose
from ssdcli.evaluation.continuations import Opening
from ssdcli.generation.guides import GuideSpec, open_guide
from ssdcli.models.judge import Judge
from ssdcli.registry.store import STARTER, Entry
from ssdcli.reports import charts

SCALES = (0, 3, 10, 30, 100, 300, 1000)
QUICK_SCALES = (0, 10, 100)
REAL = "texts of the second kind"
HEADER = ["scale", "guided share, by the guide", "by other words", "perplexity", "distinct-2", "repetition"]
_WANTED = 1  # the second kind
_LENGTHS = (16, 32, 48)  # tokens of the classifier's texts


def main() -> None:
    """Write at every scale that is missing, then print the table."""
    given = arguments()
    path = given.table
    if path is None:
        workshop = Workshop(given)
        bench = Bench(workshop, borrowed(workshop, given.core), given)
        workshop.piece({"scale": REAL, "seed": given.seed}, bench.real)
        for scale in given.scales:
            workshop.piece({"scale": scale, "seed": given.seed}, partial(bench.guided, scale))
        path = workshop.out
    found = {line["scale"]: line for line in lines(path) if "scale" in line}
    print(f"{heading(lines(path))}\n\n{len(found[REAL]['nats'])} texts of {WRITTEN} tokens at each scale\n")
    print(table(HEADER, [row(scale, line) for scale, line in found.items()]))
    if given.plot is not None:
        plot({scale: line for scale, line in found.items() if scale != REAL}, given.plot)


def arguments() -> argparse.Namespace:
    """What is asked for; a quick run has few scales and texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="gzipped JSON lines with 'id' and 'text'")
    parser.add_argument("--kinds", nargs=2, help="how the ids of the two kinds begin; the second is wanted")
    parser.add_argument("--core", default=STARTER, help="of the user's registry")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--rows", type=int, default=64, help="texts at each scale")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the classifier")
    add_judge(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="results, a line for each scale; models lie in a folder beside it")
    parser.add_argument("--table", type=Path, help="only print the table of this file")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the table's figures, too")
    parser.add_argument("--quick", action="store_true", help="a small run of a minute or so")
    given = parser.parse_args()
    if given.table is None and not (given.data and given.kinds):
        parser.error("name the data and the --kinds in it, or a --table")
    if given.quick:
        given.scales, given.rows, given.steps = QUICK_SCALES, 8, 200
    return given


# The work


@dataclass(frozen=True)
class Documents:
    """Tokenised documents, each with its kind (0 or 1)."""

    tokens: Sequence[Tensor]
    kinds: Sequence[int]

    def half(self, first: int) -> Documents:
        """Every other document from the first on."""
        return Documents(self.tokens[first::2], self.kinds[first::2])

    def windows(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        """Stretches of random documents, as many of each kind: (count, length) int64, and their kinds (count,)."""
        kinds = torch.arange(count) % 2
        places = [
            [i for i, k in enumerate(self.kinds) if k == kind and len(self.tokens[i]) > length] for kind in (0, 1)
        ]
        rows = []
        for kind in kinds.tolist():
            document = self.tokens[places[kind][int(torch.randint(len(places[kind]), ()))]]
            start = int(torch.randint(len(document) - length, ()))
            rows.append(document[start : start + length])
        return torch.stack(rows), kinds


@dataclass(frozen=True)
class Words:
    """A classifier of single words: log odds of the wanted kind for each token (V,)."""

    odds: Tensor

    @classmethod
    def of(cls, documents: Documents, vocabulary: int) -> Words:
        """Count; every token was seen once more in either kind."""
        counts = torch.ones(2, vocabulary)
        for tokens, kind in zip(documents.tokens, documents.kinds, strict=True):
            counts[kind] += torch.bincount(tokens, minlength=vocabulary)
        log_p = (counts / counts.sum(1, keepdim=True)).log()
        return cls(log_p[_WANTED] - log_p[1 - _WANTED])

    def wants(self, text: Tensor) -> bool:
        """Whether a text (T,) is of the wanted kind."""
        return bool(self.odds[text].sum() > 0)


class Bench:
    """Lets a guided core write; models are made when they are first needed."""

    def __init__(self, workshop: Workshop, core: Entry, given: argparse.Namespace) -> None:
        """Nothing is done yet."""
        self._workshop = workshop
        self._core = core
        self._given = given
        self._tokenizer = tokenizer_of(core)

    @cached_property
    def _documents(self) -> Documents:
        return _read(self._given.data, self._given.kinds, self._tokenizer)

    @cached_property
    def _words(self) -> Words:
        return Words.of(self._documents.half(1), self._core.manifest.vocabulary)

    @cached_property
    def _classifier(self) -> Path:
        """The folder of the classifier, trained on every other document."""
        folder = self._workshop.home / "classifier"
        if not (folder / "tokenizer.json").exists():
            torch.manual_seed(self._given.seed)
            _train(self._documents.half(0), self._core.manifest.vocabulary, self._given.steps).save_pretrained(folder)
            self._tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    @cached_property
    def _judge(self) -> Judge:
        return judge_of(self._workshop, self._core, [str(self._given.data)], self._given)

    def real(self) -> dict[str, Any]:
        """What there is to say of documents of the wanted kind, of which the classifier was told nothing."""
        torch.manual_seed(self._given.seed)
        texts, kinds = self._documents.half(1).windows(2 * self._given.rows, WRITTEN)
        return self._found([self._tokenizer.decode(text.tolist()) for text in texts[kinds == _WANTED]])

    def guided(self, scale: float) -> dict[str, Any]:
        """Texts from nothing at a scale, at the default temperature and top-p."""
        manifest = self._core.manifest
        spec = GuideSpec(str(self._classifier), str(_WANTED), scale)
        guide = open_guide(spec, manifest.tokenizer, manifest.vocabulary)
        members = choose(self._core.name, registry=self._workshop.registry).open().members
        writer = writer_of(members, self._core, [guide])
        written = write(writer, [Request()] * self._given.rows, Options(max_tokens=WRITTEN, seed=self._given.seed))
        return written | self._found(written["texts"])

    def _found(self, texts: Sequence[str]) -> dict[str, Any]:
        """What both classifiers and the judge say of texts."""
        model = BertForSequenceClassification.from_pretrained(self._classifier)
        ids = [torch.tensor(self._tokenizer.encode(text, add_special_tokens=False).ids[:WRITTEN]) for text in texts]
        with torch.no_grad():
            guided = [int(model(input_ids=one[None]).logits.argmax()) == _WANTED for one in ids]
        by_words = [self._words.wants(one) for one in ids]
        nothing = Beginnings([Opening(Request(), "", "")] * len(texts), texts)
        return {"guided": guided, "by words": by_words} | judged(self._judge, texts, nothing)


def _read(path: Path, kinds: Sequence[str], tokenizer: Tokenizer) -> Documents:
    """The documents of the two kinds."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = [(row["text"], kinds.index(k)) for row in rows for k in kinds if row["id"].startswith(k)]
    encodings = tokenizer.encode_batch([text for text, _ in chosen], add_special_tokens=False)
    return Documents([torch.tensor(e.ids) for e in encodings], [kind for _, kind in chosen])


def _train(documents: Documents, vocabulary: int, steps: int) -> BertForSequenceClassification:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    model = BertForSequenceClassification(BertConfig(vocab_size=vocabulary, max_position_embeddings=256, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        texts, kinds = documents.windows(32, _LENGTHS[step % len(_LENGTHS)])
        loss = model(input_ids=texts, labels=kinds).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


# The table


def row(scale: float | str, line: Line) -> list[object]:
    """A row of the table."""
    shares = [f"{np.mean(line[name]):.2f} ± {_error(line[name]):.2f}" for name in ("guided", "by words")]
    return [f"{scale}", *shares, f"{perplexity(line):,.0f}", line["distinct-2"], line["repetition"]]


def perplexity(line: Line) -> float:
    """What the judge makes of the texts, each counting the same."""
    return math.exp(float(np.mean(line["nats"])))


def _error(said: Sequence[bool]) -> float:
    """The standard error of a share."""
    return float(np.std(said) / math.sqrt(len(said)))


def plot(found: Mapping[float, Line], folder: Path) -> None:
    """Two pictures over the scale: the guided shares, and the perplexity beside that of unguided text."""
    axis = "scale of the guide"
    shares = {
        name: [(scale, float(np.mean(line[key]))) for scale, line in found.items()]
        for name, key in (("guide", "guided"), ("other words", "by words"))
    }
    picture = charts.curves_over_doublings(shares, "Share of texts with the guided label", (axis, "share"))
    draw(picture, folder / "guidance-share.svg")
    fluency = {"guided": [(scale, perplexity(line)) for scale, line in found.items()]}
    if 0 in found:
        fluency["unguided"] = [(scale, perplexity(found[0])) for scale in found]
    picture = charts.curves_over_doublings(fluency, "Perplexity of guided text, by the judge", (axis, "perplexity"))
    draw(picture, folder / "guidance-fluency.svg")


if __name__ == "__main__":
    main()
