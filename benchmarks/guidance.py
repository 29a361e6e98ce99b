"""How strongly should a classifier guide, and what does it cost the text? Prints a table of scales.

Trains a small classifier on documents of two kinds, told apart by how their ids begin, and lets it guide a core. A
judge that knows other documents counts the texts of the second kind; a bigram model of both tells how likely they are.

Example: python benchmarks/guidance.py tech.train.jsonl.gz --kinds rust-lang python+peps
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ssdcli.machine import prepare_machine

prepare_machine()

import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import BertConfig, BertForSequenceClassification  # noqa: E402

from ssdcli.engine.denoiser import Denoiser  # noqa: E402
from ssdcli.engine.ensemble import Ensemble, Member  # noqa: E402
from ssdcli.engine.nucleus import Picker  # noqa: E402
from ssdcli.engine.process import make_process  # noqa: E402
from ssdcli.engine.prompt import Prompt  # noqa: E402
from ssdcli.engine.sampler import SamplerConfig, sample  # noqa: E402
from ssdcli.engine.schedules import Constant  # noqa: E402
from ssdcli.guides import GuideSpec, open_guide  # noqa: E402
from ssdcli.models.folder import load_backbone  # noqa: E402
from ssdcli.registry.store import Registry  # noqa: E402
from ssdcli.training.tokenizer import END_OF_TEXT, special_id  # noqa: E402

_WANTED = 1  # the second kind
_DISCOUNT = 0.5
_LENGTHS = (16, 32, 48)  # tokens of the classifier's texts


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
class Judge:
    """Unigram log odds of the wanted kind (V,), and log p of a token after another (V, V)."""

    odds: Tensor
    bigrams: Tensor

    @classmethod
    def of(cls, documents: Documents, vocabulary: int) -> Judge:
        """Count; bigrams are smoothed by absolute discounting."""
        unigrams, pairs = torch.ones(2, vocabulary), torch.zeros(vocabulary, vocabulary)
        for tokens, kind in zip(documents.tokens, documents.kinds, strict=True):
            unigrams[kind] += torch.bincount(tokens, minlength=vocabulary)
            pairs.view(-1).index_add_(0, tokens[:-1] * vocabulary + tokens[1:], torch.ones(len(tokens) - 1))
        seen, kinds = pairs.sum(1, keepdim=True), (pairs > 0).sum(1, keepdim=True)
        rest = unigrams.sum(0) / unigrams.sum()
        pairs = ((pairs - _DISCOUNT).clamp(min=0) + (_DISCOUNT * kinds + 1e-3) * rest) / (seen + 1e-3)
        kinds_of_word = (unigrams / unigrams.sum(1, keepdim=True)).log()
        return cls(kinds_of_word[_WANTED] - kinds_of_word[1 - _WANTED], pairs.log())

    def wants(self, texts: Tensor) -> Tensor:
        """Whether texts (B, T) are of the wanted kind: (B,) bool."""
        return self.odds[texts].sum(1) > 0

    def nats(self, texts: Tensor) -> float:
        """Mean -log p of a token after the one before."""
        return -float(self.bigrams[texts[:, :-1], texts[:, 1:]].mean())


def main() -> None:
    """Train the classifier, write texts at every scale, and judge them."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    core = Registry().find(arguments.core)
    tokenizer = Tokenizer.from_file(str(core.folder / "tokenizer.json"))
    documents = _read(arguments.data, arguments.kinds, tokenizer)
    judge = Judge.of(documents.half(1), core.manifest.vocabulary)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, torch {torch.__version__}; {arguments}\n")
    with tempfile.TemporaryDirectory() as folder:
        model = _train(documents.half(0), core.manifest.vocabulary, arguments.steps)
        texts, kinds = documents.half(1).windows(200, _LENGTHS[-1])
        right = (model(input_ids=texts).logits.argmax(-1) == kinds).double().mean()
        print(
            f"The classifier is right about {right:.2f} of 200 other texts, which have {judge.nats(texts):.2f} nats.\n"
        )
        model.save_pretrained(folder)
        tokenizer.save(str(Path(folder) / "tokenizer.json"))
        print("| scale | label, says the classifier | label, says the judge | nats/token | distinct tokens |")
        print("|---|---|---|---|---|")
        for scale in arguments.scales:
            written = _write(arguments, GuideSpec(folder, str(_WANTED), scale), tokenizer)
            said = (model(input_ids=written).logits.argmax(-1) == _WANTED).double().mean()
            distinct = sum(len(row.unique()) for row in written) / written.numel()
            judged = judge.wants(written).double().mean()
            print(f"| {scale:g} | {said:.2f} | {judged:.2f} | {judge.nats(written):.2f} | {distinct:.2f} |", flush=True)
            if arguments.show:
                print("\n", [tokenizer.decode(row.tolist()) for row in written[:2]], "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="gzipped JSON lines with 'id' and 'text'")
    parser.add_argument(
        "--kinds", nargs=2, required=True, help="how the ids of the two kinds begin; the second is wanted"
    )
    parser.add_argument("--core", default="starter")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 3, 10, 30, 100, 300, 1000])
    parser.add_argument("--rows", type=int, default=64, help="texts at each scale")
    parser.add_argument("--tokens", type=int, default=48, help="tokens of a text")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="show two texts of each scale")
    return parser.parse_args()


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


def _write(arguments: argparse.Namespace, spec: GuideSpec, tokenizer: Tokenizer) -> Tensor:
    """Texts from nothing at the default temperature and top-p, the same seeds at every scale: (rows, tokens)."""
    core = Registry().find(arguments.core)
    manifest, end = core.manifest, special_id(tokenizer, END_OF_TEXT)
    process = make_process(manifest.process, manifest.vocabulary, manifest.constants)
    ensemble = Ensemble((Member(core.name, Denoiser(load_backbone(core.folder), process), Constant(1.0)),))
    guide = open_guide(spec, manifest.tokenizer, manifest.vocabulary)
    # No text ends here: the judges compare texts of one length.
    config = SamplerConfig(
        manifest.block_size, arguments.tokens, process.default_steps, (-1,), Picker(1.0, 0.95), guides=(guide,)
    )
    prompts = [[Prompt([end])] * arguments.rows]
    with torch.no_grad():
        steps = sample(ensemble, process, prompts, list(range(arguments.rows)), config)
        return torch.cat([process.tokens(step.canvas) for step in steps if step.last], dim=1)


if __name__ == "__main__":
    main()
