"""How often does a draft head that learns from general text guess what the core predicts?

    python -m benchmarks general_head --corpus til.train.jsonl til.heldout.jsonl --minutes 20 --save FILE

The core reads passages of the texts once; the head learns the core's own predictions one to three tokens behind a token
that the core has not read, first of the next one alone, then of all three. Agreement is with the core's likeliest
token behind the true text. What `--save` writes is what `ssdcli/bundled/draft_heads` holds.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.lib.corpora import corpora_of, encode, read_texts
from benchmarks.lib.models import Model
from benchmarks.lib.tables import table
from ssdcli.generation.loaded_model import process_of
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.draft_head import DraftHead
from ssdcli.models.general_heads import save_general_head
from ssdcli.registry.store import SMOLLM2
from ssdcli.training.core_states import Passage, read_passages
from ssdcli.training.prepare import open_readable

QUICK = {"minutes": 0.1, "tokens": 4000, "heldout": 2000}
_WINDOW, _RUNS, _RATE = 512, 512, 2e-3  # tokens that the core reads at once; runs of a step; peak learning rate
AHEAD = 3  # tokens that are drafted
_IDS = 6144  # the text's most frequent ids, and the first ones of the vocabulary, that are drafted
_SAMPLED = 1024  # ids that are scored at a step, beside the likeliest ones there
_NEARER = 0.7  # the weight of a drafted token beside that of the one before it
_ALONE = 0.6  # the share of the time in which only the next token is learned


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--minutes", type=float, default=20.0, help="of processor time for the steps")
    parser.add_argument("--tokens", type=int, default=300_000, help="of each training text that the core reads")
    parser.add_argument("--heldout", type=int, default=20_000, help="of each held-out text")
    parser.add_argument("--save", type=Path, help="write the head to this file")


@dataclass(frozen=True)
class Read:
    """What the core made of a text.

    states: (N, D). targets: the tokens after them, (N,). anchors: where runs of neighbours begin, (M,).
    """

    states: Tensor
    targets: Tensor
    anchors: Tensor

    def runs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The states of some runs (R, 1 + AHEAD, D), and the tokens after all but the last (R, AHEAD)."""
        places = self.anchors[chosen][:, None] + torch.arange(1 + AHEAD)
        return self.states[places], self.targets[places[:, :-1]]


def main(given: Namespace) -> None:
    """Train, save, and print how often the core agrees."""
    model, corpora = Model.named(given.core), corpora_of(given)
    if given.save is not None:
        given.save.parent.mkdir(parents=True, exist_ok=True)
    texts = [encode(read_texts(corpus.train), model.tokenizer) for corpus in corpora]
    core = open_readable(model.entry, process_of(model.entry))
    head, layers = untrained(core, np.array([token for own in texts for text in own for token in text]))
    opening = model.manifest.begin or 0
    trained = [read(core, own, opening, given.tokens) for own in texts]
    steps = learn(head, core, trained, given.minutes * 60)
    if given.save is not None:
        save_general_head(head, layers, core, given.save)
    print(f"{sum(len(one.targets) for one in trained):,} tokens read, {steps:,} steps\n")
    heldout = [encode(read_texts(corpus.heldout), model.tokenizer) for corpus in corpora]
    found = [agreement(head, core, read(core, own, opening, given.heldout)) for own in heldout]
    rows = [[one.name, *(f"{share:.2f}" for share in own)] for one, own in zip(corpora, found, strict=True)]
    print(table(["corpus", *(f"draft {place + 1}" for place in range(AHEAD))], rows))


def untrained(core: CausalCore, tokens: np.ndarray) -> tuple[DraftHead, tuple[int, ...]]:
    """An untrained head for the ids of a text, and the layers that it reads, as small models do."""
    layers = (2 * core.layer_count // 5, 4 * core.layer_count // 5)
    core.tap(layers)
    often = np.argsort(-np.bincount(tokens, minlength=core.rows), kind="stable")[:_IDS]
    ids = np.union1d(often, np.arange(min(_IDS, core.rows)))
    torch.manual_seed(0)
    return DraftHead(core.width, 1 + len(layers), torch.from_numpy(ids)), layers


@torch.no_grad()
def read(core: CausalCore, texts: Sequence[Sequence[int]], opening: int, most: int) -> Read:
    """Let a core read the beginnings of texts in a random order, up to so many tokens."""
    states, targets, anchors, count = [], [], [], 0
    for number in np.random.default_rng(0).permutation(len(texts)):
        tokens = [opening, *texts[number][: _WINDOW - 1]]
        found, following = read_passages(core, [Passage(tokens, [True] * (len(tokens) - 1))])
        states.append(found)
        targets.append(following)
        anchors.append(count + torch.arange(max(0, len(following) - AHEAD)))
        count += len(following)
        if count >= most:
            break
    return Read(torch.cat(states), torch.cat(targets), torch.cat(anchors))


def learn(head: DraftHead, core: CausalCore, given: Sequence[Read], seconds: float) -> int:
    """Train the head for so long; returns the number of steps."""
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), betas=(0.9, 0.95))
    with torch.no_grad():
        head.scale.fill_(float(given[0].states[:, : head.size].float().pow(2).mean().sqrt()))
    began, step = time.process_time(), 0
    while (done := (time.process_time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / 50, (1 - done) / 0.8)
        one = given[step % len(given)]
        states, tokens = one.runs(torch.randint(len(one.anchors), (_RUNS,), generator=random))
        ahead = 1 if done < _ALONE else AHEAD
        with torch.autocast("cpu", torch.bfloat16):
            loss = drafting_loss(head, core, states[:, : 1 + ahead], tokens[:, :ahead])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        step += 1
    return step


def drafting_loss(head: DraftHead, core: CausalCore, states: Tensor, tokens: Tensor) -> Tensor:
    """The cross-entropy of drafts with what the core predicts there, over some of the ids.

    states: (R, 1 + a, (1 + k) H). tokens: those after all but the last, (R, a). Ids that are drawn at random count for
    all that they stand for (sampled softmax, Bengio and Senécal, 2008).
    """
    own = states[:, 1:, : head.size]
    best = core.scores_of(own.flatten(0, 1), head.ids).argmax(-1).unique()
    others = torch.randperm(len(head.ids))[:_SAMPLED]
    others = others[~torch.isin(others, best)]
    share = (len(head.ids) - len(best)) / max(1, len(others))
    weights = torch.cat([torch.zeros(len(best)), torch.full((len(others),), math.log(share))])
    ids = head.ids[torch.cat([best, others])]
    losses, guess = [], torch.empty(0)
    for place, token in enumerate(core.embed(tokens).unbind(1)):
        guess = head.step(guess, token) if place else head.begin(states[:, 0], token)
        wanted = (core.scores_of(own[:, place], ids).float() + weights).softmax(-1)
        said = core.scores_of(head.as_state(guess), ids).float() + weights
        losses.append(_NEARER**place * functional.cross_entropy(said, wanted))
    return torch.stack(losses).sum()


@torch.no_grad()
def agreement(head: DraftHead, core: CausalCore, given: Read) -> list[float]:
    """How often each drafted token is the core's likeliest one, behind the true text."""
    right = [0] * AHEAD
    for part in torch.arange(len(given.anchors)).split(_RUNS):
        states, tokens = given.runs(part)
        guess = torch.empty(0)
        for place, token in enumerate(core.embed(tokens).unbind(1)):
            guess = head.step(guess, token) if place else head.begin(states[:, 0], token)
            guessed = head.ids[core.scores_of(head.as_state(guess).to(states.dtype), head.ids).argmax(-1)]
            right[place] += int((guessed == core.logits(states[:, 1 + place]).argmax(-1)).sum())
    return [count / len(given.anchors) for count in right]
