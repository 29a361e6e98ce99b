"""Next-word distributions of models beside those that rows of the text give, by people's answers or another model.

The probability of a word is that of its tokens, each given those before it. With the shares q of the words at a place
and the model's probabilities p, the divergence there is sum q log(q / p) in nats (Kullback and Leibler, 1951).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdcli.data.documents import Document
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.process.masked import Masked
from ssdcli.evaluation.estimates import ratio
from ssdcli.evaluation.measurement import Estimate
from ssdcli.generation.gap_choice import branching
from ssdcli.generation.prompt_encoder import PromptEncoder, PromptParts
from ssdcli.generation.types import Request
from ssdcli.generation.writer import Writer

_BEFORE = 1000  # characters of the text before a place that are read, at most


@dataclass(frozen=True)
class ClozeResult:
    """How an author's next words agree with those that are given.

    name: the author's.
    places: how many were compared.
    divergence: of its distribution from the given one, in nats a place.
    correlation: of its probabilities with the given shares, over all words of all places.
    top: the share of places at which it finds the word likeliest, among those that are given, that has the most.
    """

    name: str
    places: int
    divergence: Estimate
    correlation: float
    top: Estimate

    def to_json(self) -> dict[str, Any]:
        """The object in the `cloze` of `ssd eval --json`."""
        correlation = self.correlation if math.isfinite(self.correlation) else None
        told = {"name": self.name, "places": self.places, "divergence": self.divergence.to_json()}
        return told | {"correlation": correlation, "top_word": self.top.to_json()}


@dataclass(frozen=True)
class Words:
    """The words at a place.

    document: its number.
    shares: that are given, (W,).
    log_p: by an author, (W,).
    """

    document: int
    shares: np.ndarray
    log_p: np.ndarray


def words_of(
    writer: Writer, documents: Sequence[Document], on_progress: Callable[[float], None] = lambda _: None
) -> Iterator[Words]:
    """What an author says of the words at all places of some documents."""
    found = [
        (number, document.text[:place][-_BEFORE:], target.words)
        for number, document in enumerate(documents)
        for target in document.cloze
        if (place := target.place(document.text)) is not None
    ]
    for done, (number, before, words) in enumerate(found, 1):
        log_p = word_log_p(writer, before, list(words))
        yield Words(number, np.array(list(words.values())), log_p.double().numpy())
        on_progress(done / len(found))


@torch.no_grad()
def word_log_p(writer: Writer, before: str, words: Sequence[str]) -> Tensor:
    """Log p of each word right after a text, (W,) float32 on the CPU: all are read in one pass after it."""
    first, ensemble = writer.members[0].model.denoiser, branching(writer.ensemble)
    assert isinstance(first.process, Masked)
    ids = [writer.codec.encode(f" {word}")[: first.block_size] for word in words]
    prompts = PromptEncoder(writer.members, gap=0).prompts(
        Request(before, plain=True), PromptParts.continued(before), ()
    )
    rows = [[own] * len(ids) for own in prompts]
    prefixes = ensemble.start(rows, [1.0])
    longest = max(map(len, ids))
    padded = torch.tensor([[*own, *[-1] * (longest - len(own))] for own in ids], device=first.device)
    canvas = padded.new_full((len(ids), first.block_size), first.process.mask_id)
    none = torch.zeros(len(ids), dtype=torch.bool, device=first.device)
    inner = padded[:, :-1].masked_fill(padded[:, 1:] < 0, -1)  # all tokens of a word but its last
    ahead = Lookahead.of(canvas, inner, none, first.process)
    log_p = ensemble.ahead(ahead, prefixes, ensemble.heard(rows, prefixes)).log_p
    own = log_p.gather(-1, padded.clamp(min=0)[..., None])[..., 0]
    return torch.where(padded < 0, 0.0, own).sum(1).cpu()


def agreement(name: str, found: Sequence[Words]) -> ClozeResult:
    """How an author agrees with what is given at some places, one at least."""
    documents = np.array([one.document for one in found])
    nats = np.array([_divergence(one.shares, one.log_p) for one in found])
    tops = np.array([float(one.shares[one.log_p.argmax()] == one.shares.max()) for one in found])
    count = np.bincount(documents)
    sums = [ratio(np.bincount(documents, values)[count > 0], count[count > 0]) for values in (nats, tops)]
    shares, p = (
        np.concatenate(column) for column in zip(*((one.shares, np.exp(one.log_p)) for one in found), strict=True)
    )
    varies = min(shares.std(), p.std()) > 0
    correlation = float(np.corrcoef(shares, p)[0, 1]) if varies else math.nan
    return ClozeResult(name, len(found), sums[0], correlation, sums[1])


def _divergence(shares: np.ndarray, log_p: np.ndarray) -> float:
    return float((shares * (np.log(shares) - log_p)).sum())
