"""How many passes of a core does a draft head save?

    python -m benchmarks general_head --heads mine --corpus til.train.jsonl til.heldout.jsonl

The core continues the beginnings of held-out documents greedily, without writing an 8-gram twice. From each place of
what it wrote, every head drafts three tokens by its likeliest ids; the passes are those that the core would have taken
to write the same text, verifying each draft. Heads are made by `ssd train-small --recipe base`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.continuations import Drawing, begun, write
from benchmarks.lib.corpora import Corpus, corpora_of, encode, read_texts
from benchmarks.lib.tables import table
from ssdcli.api import Placement, Request, Writer, load
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.draft_head import DraftHead
from ssdcli.models.general_heads import FOLDER, general_head
from ssdcli.registry.manifest import WEIGHTS
from ssdcli.registry.store import SMOLLM2, Registry
from ssdcli.training.core_states import Passage, read_passages
from ssdcli.training.drafting_objective import AHEAD

QUICK = {"texts": 1, "length": 8}
_BEFORE, _NO_REPEAT = 48, 8


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--heads", nargs="*", default=[], help="of the user's registry, beside those of the package")
    parser.add_argument("--texts", type=int, default=8, help="of each corpus")
    parser.add_argument("--length", type=int, default=64, help="tokens that are written after each beginning")


@dataclass(frozen=True)
class Written:
    """What a core wrote after beginnings of one length.

    states: its own, at all tokens but the last, (B, n, D). tokens: (B, n + 1). first: where what it wrote begins.
    """

    states: Tensor
    tokens: Tensor
    first: int

    @classmethod
    def after(cls, corpus: Corpus, core: CausalCore, writer: Writer, given: Namespace) -> Written:
        """Let the core go on from the first held-out documents that are long enough."""
        codec = writer.members[0].model.codec
        texts = [ids for ids in encode(read_texts(corpus.heldout), codec.tokenizer) if len(ids) > _BEFORE]
        texts = [ids[:_BEFORE] for ids in texts[: given.texts]]
        opening = writer.members[0].model.format.opening
        requests = [Request(codec.decode(ids), plain=True) for ids in texts]
        prompts = [[opening, *codec.encode(request.prompt)] for request in requests]
        found = write(begun(writer, requests), writer, prompts, Drawing(given.length, no_repeat=_NO_REPEAT))
        rows = [[*prompt, *own] for prompt, own in zip(prompts, found.tolist(), strict=True)]
        shortest = min(map(len, rows))
        rows = [row[-shortest:] for row in rows]
        read, _ = read_passages(core, [Passage(row, [True] * (shortest - 1)) for row in rows])
        return cls(read.view(len(rows), shortest - 1, -1), torch.tensor(rows), shortest - given.length)

    def drafts(self, head: DraftHead, core: CausalCore) -> Tensor:
        """The likeliest tokens by a head behind each token that is followed by `AHEAD` others: (B, m, AHEAD).

        The first stand behind the token before what the core wrote.
        """
        last = self.tokens.shape[1] - AHEAD
        states, token = self.states[:, self.first - 2 : last - 1], self.tokens[:, self.first - 1 : last]
        guess, found = head.begin(states.flatten(0, 1), core.embed(token.flatten())), list[Tensor]()
        for place in range(AHEAD):
            guess = head.step(guess, core.embed(found[-1])) if place else guess
            found.append(head.ids[core.logits(head.as_state(guess))[:, head.ids].argmax(-1)])
        return torch.stack(found, dim=-1).view(len(self.tokens), -1, AHEAD)

    def right(self, head: DraftHead, core: CausalCore) -> Tensor:
        """Which drafted tokens are those that the core wrote, if those before them are: (B, m, AHEAD) bool."""
        following = self.tokens[:, self.first :].unfold(1, AHEAD, 1)
        right: Tensor = (self.drafts(head, core) == following).long().cumprod(-1).bool()
        return right


def main(given: Namespace) -> None:
    """Print how often the drafts are right, and the tokens a pass."""
    writer = load(given.core, placement=Placement("float32"))
    model: Any = writer.members[0].model
    core: CausalCore = model.denoiser.backbone
    core.tap(core.middle_layers)
    registry, rows = Registry(), []
    heads = {name: [registry.find(name).folder / WEIGHTS] for name in given.heads}
    heads["bundled"] = sorted(FOLDER.glob("*.safetensors"))
    found = {name: general_head(core, files) for name, files in heads.items()}
    with torch.no_grad():
        written = {corpus.name: Written.after(corpus, core, writer, given) for corpus in corpora_of(given)}
        for name, (head, _) in ((name, pair) for name, pair in found.items() if pair is not None):
            for corpus, text in written.items():
                right = text.right(head, core)
                shares = [f"{float(right[..., place].float().mean()):.2f}" for place in range(AHEAD)]
                rows.append([name, corpus, *shares, f"{tokens_a_pass(right.sum(-1)):.2f}"])
    print(table(["head", "text", *(f"{place + 1} right" for place in range(AHEAD)), "tokens a pass"], rows))


def tokens_a_pass(accepted: Tensor) -> float:
    """Of texts at whose places (B, m) so many drafted tokens are right."""
    passes = tokens = 0
    for row in accepted.tolist():
        place = 0
        while place < len(row):
            place, passes, tokens = place + row[place] + 1, passes + 1, tokens + row[place] + 1
    return tokens / passes
