"""What there is to tell of a finished training: the one source of its card, its report and its metrics."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ssdcli.data.documents import counted
from ssdcli.data.token_store import SideInfo


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Denoising losses on held-out text, by who predicts: "core", "small", "ensemble", as far as there are any.

    by_level: nats per token in stretches of noise levels of equal width from 0 to 1, nan where nothing was measured.
    weights, sweep: the small model's weights that were tried, and the ensemble's bits per byte at each; none without a
    core. weight: the best of them in (0, 1]. documents, tokens: how much was measured.
    """

    nats_per_token: Mapping[str, float]
    bits_per_byte: Mapping[str, float]
    by_level: Mapping[str, Sequence[float]]
    weights: Sequence[float] = ()
    sweep: Sequence[float] = ()
    weight: float | None = None
    documents: int
    tokens: int

    def rows(self) -> dict[str, float]:
        """All losses by the words that name them."""
        nats = {f"{who}, nats per token": value for who, value in self.nats_per_token.items()}
        return nats | {f"{who}, bits per byte": value for who, value in self.bits_per_byte.items()}


@dataclass(frozen=True)
class Sample:
    """How a held-out document begins, how it really goes on, and how each writer goes on from there, by its name."""

    opening: str
    real: str
    written: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card and a report say; a card says nothing that comes out of the text that the model was trained on.

    kind: "core", "small" or "adapter". base: the model that it was begun from. parameters: count; body_parameters:
    those beyond the embeddings. block_size, context, trained_tokens (seen in training): tokens. lengths: lengths[k]
    documents have from 2^k to 2^(k+1) - 1 tokens. data_lines: sentences of a ReadReport. history: points {"step",
    "loss", "seconds", and perhaps "heldout"}, losses in nats per token. kept: the step whose weights were kept, where
    that was not the last. command: what was typed. settings: what the training was told, the data included. license:
    an identifier such as "apache-2.0", if known.
    """

    name: str
    kind: str
    size: str | None = None
    parameters: int
    body_parameters: int
    process: str
    constants: Mapping[str, float]
    block_size: int
    context: int
    vocabulary: int
    core: str | None = None
    base: str | None = None
    train: SideInfo
    heldout: SideInfo
    lengths: Sequence[int]
    data_lines: Sequence[str]
    data_fingerprint: str
    trained_tokens: int
    steps: int
    seconds: float
    device: str
    history: Sequence[Mapping[str, float]]
    kept: int | None = None
    quality: Quality
    samples: Sequence[Sample]
    command: str
    settings: Mapping[str, str]
    license: str | None = None

    @property
    def passes(self) -> float:
        """How often the training split was seen, in the mean."""
        return self.trained_tokens / self.train.tokens if self.train.tokens else 0.0

    @property
    def weight(self) -> float | None:
        """The small model's best weight, if one was measured."""
        return self.quality.weight

    def _counted_parameters(self) -> str:
        if self.kind == "adapter":
            return f"{self.parameters:,}, beside those of {self.base}"
        return f"{self.parameters:,}, of which {self.body_parameters:,} beyond the embeddings"

    def makings(self) -> list[tuple[str, str]]:
        """How the model was made, as names and values, what is not known left out."""
        constants = ", ".join(f"{name} = {value:.12g}" for name, value in self.constants.items())
        passes = f", {self.passes:.1f} passes" if self.passes else ""
        rows = [
            ("size", self.size or ""),
            ("made for", self.core or ""),
            ("begun from", self.base or ""),
            ("parameters", self._counted_parameters()),
            ("noise process", f"{self.process} ({constants})" if constants else self.process),
            ("block", counted(self.block_size, "token")),
            ("context", counted(self.context, "token")),
            ("vocabulary", counted(self.vocabulary, "token")),
            ("training split", counted(self.train.tokens, "token")),
            ("seen in training", f"{counted(self.trained_tokens, 'token')}{passes}"),
            ("steps", f"{self.steps:,}"),
            ("weights kept", "" if self.kept is None else f"those of step {self.kept:,}"),
            ("time", f"{duration(self.seconds)} on {self.device}"),
            ("data fingerprint", self.data_fingerprint),
        ]
        return [row for row in rows if row[1]]


def metrics_lines(history: Sequence[Mapping[str, float]]) -> str:
    """One JSON object a line for each point of the history; null where a value is not finite."""
    points = ({name: value if math.isfinite(value) else None for name, value in p.items()} for p in history)
    return "".join(json.dumps(point) + "\n" for point in points)


def length_counts(lengths: Iterable[int]) -> list[int]:
    """How many of these lengths, each at least 1, lie from 2^k to 2^(k+1) - 1, for every k up to the longest."""
    places = Counter(length.bit_length() - 1 for length in lengths)
    return [places[k] for k in range(max(places, default=-1) + 1)]


def duration(seconds: float) -> str:
    """A time as people say it: `1 h 2 min`, `12 min 34 s`, `8 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def number(value: float) -> str:
    """A loss with three decimals, or what says that there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if math.isfinite(value) else "infinite"
