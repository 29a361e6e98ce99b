"""The recall of a memory: a metric is learned on the user's text, and each place that the core has read gets a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssdcli.data.store_side import Side, StoreSide
from ssdcli.data.token_store import TokenStore
from ssdcli.generation.loaded_model import open_model
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.models.memory.memory_files import Memory
from ssdcli.models.memory.recall import Metric, Recall
from ssdcli.models.memory.text_index import Ids
from ssdcli.options.checks import seed_word
from ssdcli.registry.store import Entry
from ssdcli.training.core_states import WINDOW, CoreStates, CoreTexts, counted_places, read_passages
from ssdcli.training.memory_text import places_in
from ssdcli.training.metric_learning import Effort, Examples, learn_metric
from ssdcli.training.plan import Grant
from ssdcli.training.prepare import Prepared

_FEWEST_PLACES, _FEWEST_TEXTS = 1000, 2  # that a metric is learned from
_EXAMPLES, _QUERIES = 1 << 16, 1 << 13  # of a long text, at most
_MOST_PLACES = 1 << 19  # that get a key
_COMPARING = 0.1  # share of the minutes in which a metric is learned
_READING = 0.5  # share of the minutes after which the core reads no more,
_READING_TUNED = 0.9  # or one that was trained before
_SLICE = 256  # positions whose predictions over the vocabulary are held at once
_PART = 1 << 14  # states that are projected at once

Keys = tuple[Ids, Tensor]  # places (n,), -1 for one that is not in the memory, and their keys (n, D) bfloat16


def core_texts(prepared: Prepared, side: Side) -> CoreTexts:
    """A side of a training's text as its core reads it."""
    window, text = min(WINDOW, prepared.model.config.context), StoreSide.of(prepared.store, side)
    return CoreTexts(text, prepared.opening, prepared.end, window, prepared.settings.seed)


def learn_recall(
    memory: Memory, prepared: Prepared, states: CoreStates, grant: Grant, watch: Callable[[int, int], None]
) -> Recall | None:
    """The recall of the memory of a training's text, by a metric that is learned on its training side.

    None where there is too little text, or the core gives the states of its last layer alone.

    states: the core's of the training side; the held-out side is read here, as far as there is time.
    watch: see `Effort`.
    """
    assert isinstance(prepared.model, (SideNetwork, TunedCore))
    core, store = prepared.model.core, prepared.store
    places = places_in(memory, store, "train", states.places)
    rows = np.flatnonzero(places >= 0)[:_MOST_PLACES]  # of documents that were read in a random order
    texts = np.searchsorted(memory.index.borders, places[rows])
    if not core.taps or len(rows) < _FEWEST_PLACES or len(np.unique(texts)) < _FEWEST_TEXTS:
        return None
    began, seconds = grant.clock(), _COMPARING * 60 * grant.minutes
    limit = _READING_TUNED if isinstance(prepared.model, TunedCore) else _READING
    effort = Effort(prepared.settings.seed, gone=lambda: (grant.clock() - began) / seconds, watch=watch)
    metric = learn_metric(_examples(states, rows, texts, core, effort.seed), core.taps, effort)
    watch(effort.steps, effort.steps)
    parts = [rows[start : start + _PART] for start in range(0, len(rows), _PART)]
    found = [(places[part], metric(states.read(part)).bfloat16()) for part in parts]
    heldout, every = core_texts(prepared, "heldout"), range(len(store.heldout_documents))
    for own, keys in _read_keys(core, metric, heldout, every if len(rows) < _MOST_PLACES else ()):
        found.append((places_in(memory, store, "heldout", own), keys))
        if grant.spent(limit) or sum(len(read) for read, _ in found) >= _MOST_PLACES:
            break
    return _recall(metric, found)


@torch.no_grad()
def _examples(states: CoreStates, rows: Ids, texts: Ids, core: CausalCore, seed: int) -> Examples:
    """Some of the rows of states, each of a text of this number, in a random order; the first are asked for."""
    chosen = np.random.default_rng(seed_word(seed)).permutation(len(rows))[:_EXAMPLES]
    rows = rows[chosen]
    tokens = torch.from_numpy(states.targets[rows])
    asked = zip(states.read(rows[:_QUERIES]).split(_SLICE), tokens[:_QUERIES].split(_SLICE), strict=True)
    losses = [
        functional.cross_entropy(core.logits(own.to(core.device)), following.to(core.device), reduction="none")
        for own, following in asked
    ]
    chances = torch.cat(losses).neg().exp().cpu()
    return Examples(states.read(rows, slice(-core.width, None)), tokens, torch.from_numpy(texts[chosen]), chances)


def renewed_recall(
    memory: Memory, old: Memory, store: TokenStore, core: Entry, base: Entry | None = None
) -> Recall | None:
    """The recall of a memory by the metric of an older one; None where nothing of it has a key.

    The core reads the texts that are new; others keep the keys that they had.

    store: what the memory was made of, in one side. base: that of a core which is an adapter.
    """
    assert old.recall is not None
    metric = old.recall.metric
    kept, new = _carried(old, memory)
    found = [kept]
    if new:
        model = open_model(core, origin=base)
        backbone, form = model.denoiser.backbone, model.format
        assert isinstance(backbone, CausalCore)
        backbone.tap(metric.taps)
        window = min(WINDOW, core.manifest.context)
        texts = CoreTexts(StoreSide.of(store, "train"), form.opening, form.ends[0], window, seed=0)
        for own, keys in _read_keys(backbone, metric, texts, new):
            found.append((places_in(memory, store, "train", own), keys))
            if sum(len(places) for places, _ in found) >= _MOST_PLACES:
                break
    return _recall(metric, found)


def _read_keys(core: CausalCore, metric: Metric, texts: CoreTexts, documents: Sequence[int]) -> Iterator[Keys]:
    """Let the core read some documents of a side: keys of the places in it."""
    for batch, _ in texts.batches(documents):
        states, _ = read_passages(core, batch)
        yield counted_places(batch), metric(states).bfloat16()


def _carried(old: Memory, new: Memory) -> tuple[Keys, list[int]]:
    """The keys of texts that a memory has in common with an old one, and the numbers of its other texts."""
    assert old.recall is not None
    known = {digest_of(text): number for number, text in enumerate(old.index.texts())}
    bounds = np.searchsorted(old.recall.places, old.index.borders)
    places, rows, others = [], [], []
    for number, text in enumerate(new.index.texts()):
        before = known.get(digest_of(text))
        if before is None:
            others.append(number)
        else:
            rows.append(np.arange(bounds[before], bounds[before + 1]))
            places.append(old.recall.places[rows[-1]] + new.index.borders[number] - old.index.borders[before])
    none = np.zeros(0, np.int64)
    return (np.concatenate([none, *places]), old.recall.keys[np.concatenate([none, *rows])]), others


def _recall(metric: Metric, found: Iterable[Keys]) -> Recall | None:
    """A recall of these keys, or of the first of them where they are many; None without any."""
    places, keys = (list(parts) for parts in zip(*found, strict=True))
    every = np.concatenate(places)
    rows = np.flatnonzero(every >= 0)[:_MOST_PLACES]
    rows = rows[np.argsort(every[rows])]
    return Recall(metric, every[rows], torch.cat(keys)[torch.from_numpy(rows)]) if len(rows) else None


def digest_of(text: NDArray[np.int32]) -> bytes:
    """What a text is known by."""
    return blake2b(text.tobytes(), digest_size=16).digest()
