"""What there is to say about a finished training: the one source of its manifest, its card, its report and metrics."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssdcli.data.token_store import SideInfo
from ssdcli.machine.units import counted, duration
from ssdcli.registry.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Losses on held-out text, by what predicts: "core", "small" and "ensemble", where they were measured.

    nats_per_token: the mean losses; what they are, the manifest's `measure` says.
    bits_per_byte: the same in another unit.
    margins: half the widths of their 95% confidence intervals; nan for fewer than two documents.
    gain: the bits per byte that the ensemble saves over the better of core and small model, at weights that other
        documents chose; nan without an ensemble, and for a single document.
    gain_margin: half the width of its 95% confidence interval, paired by document.
    by_level: nats per token in bins of the noise level of equal width from 0 to 1, nan where nothing was measured; none
        for a code length, which has no noise.
    level_margins: half the widths of their 95% confidence intervals; nan where too few documents were measured.
    weights: the small model's weights that were tried, none without a core.
    sweep: the ensemble's bits per byte at each of them.
    reliability: by "probability" and "confidence" what these are of the likeliest tokens, which share of them is right,
        and how many there are, in bins; none where that was not measured.
    documents: how many were measured.
    tokens: how many were measured.
    """

    nats_per_token: Mapping[str, float]
    bits_per_byte: Mapping[str, float]
    margins: Mapping[str, float]
    gain: float = math.nan
    gain_margin: float = math.nan
    by_level: Mapping[str, Sequence[float]]
    level_margins: Mapping[str, Sequence[float]] = field(default_factory=dict)
    weights: Sequence[float] = ()
    sweep: Sequence[float] = ()
    reliability: Mapping[str, Sequence[tuple[float, float, int]]] = field(default_factory=dict)
    documents: int
    tokens: int


@dataclass(frozen=True)
class Sample:
    """Continuations of a held-out document.

    opening: how it begins.
    real: how it really continues.
    written: how each writer continues it, by the writer's name.
    """

    opening: str
    real: str
    written: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Description:
    """A trained model and its training.

    A model card shows only what gives nothing of the training text away; the report shows all of it.

    manifest: what the registry keeps of the model.
    size: the preset that gave its shape, None for a shape of its own.
    body_parameters: those beyond the embeddings.
    train: the size of the text that was trained on.
    heldout: the size of the text that was held out.
    lengths: lengths[k] documents have from 2^k to 2^(k+1) - 1 tokens.
    data_lines: sentences of a ReadReport.
    read: its counts.
    trained_tokens: how many were seen in training, repetitions included.
    steps: how many were taken.
    seconds: duration of the training.
    device: that it was trained on.
    history: points {"step", "loss", "seconds"}, some with "heldout"; losses in nats per token.
    kept: the step whose weights were kept, where that was not the last.
    quality: what was measured on the held-out text.
    samples: what the model writes, alone and with its core.
    command: the command that repeats the training, without the names of the data.
    settings: all settings of the training, the data included.
    license: an identifier such as "apache-2.0", if known.
    """

    manifest: Manifest
    size: str | None = None
    body_parameters: int
    train: SideInfo
    heldout: SideInfo
    lengths: Sequence[int]
    data_lines: Sequence[str]
    read: Mapping[str, Any] = field(default_factory=dict)
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
        """How often the training text was seen, on average."""
        return self.trained_tokens / self.train.tokens if self.train.tokens else 0.0

    @property
    def chosen(self) -> list[str]:
        """What the held-out text decided, so that its losses flatter the model somewhat."""
        decided = {
            "the step whose weights were kept": self.settings.get("patience") != "0"
            and any("heldout" in point for point in self.history),
            "the weight": self.manifest.weight is not None,
            "the gate": self.manifest.gate is not None,
        }
        return [what for what, did in decided.items() if did]

    def makings(self) -> list[tuple[str, str]]:
        """How the model was made, as names and values; what is unknown is left out."""
        model = self.manifest
        constants = ", ".join(f"{name} = {value:.12g}" for name, value in model.constants.items())
        passes = f", {self.passes:.1f} passes" if self.passes else ""
        rows = [
            ("size", self.size or ""),
            ("made for", model.core or ""),
            ("begun from", model.base or ""),
            ("parameters", self._parameters()),
            ("noise process", f"{model.process} ({constants})" if constants else model.process),
            ("block", counted(model.block_size, "token")),
            ("context", counted(model.context, "token")),
            ("vocabulary", counted(model.vocabulary, "token")),
            ("training split", counted(self.train.tokens, "token")),
            ("seen in training", f"{counted(self.trained_tokens, 'token')}{passes}"),
            ("steps", f"{self.steps:,}"),
            ("weights kept", "" if self.kept is None else f"those of step {self.kept:,}"),
            ("time", f"{duration(self.seconds)} on {self.device}"),
            ("data fingerprint", model.data or ""),
        ]
        return [row for row in rows if row[1]]

    def _parameters(self) -> str:
        if self.manifest.kind == "adapter":
            return f"{self.manifest.parameters:,}, beside those of {self.manifest.base}"
        every, beyond = self.manifest.parameters, self.body_parameters
        return f"{every:,}" if every == beyond else f"{every:,}, of which {beyond:,} beyond the embeddings"


def metrics_lines(history: Sequence[Mapping[str, float]]) -> str:
    """One JSON object a line for each point of the history; null where a value is not finite."""
    points = ({name: value if math.isfinite(value) else None for name, value in p.items()} for p in history)
    return "".join(json.dumps(point) + "\n" for point in points)


def length_counts(lengths: Iterable[int]) -> list[int]:
    """How many of these lengths, each at least 1, lie from 2^k to 2^(k+1) - 1, for every k up to the longest."""
    places = Counter(length.bit_length() - 1 for length in lengths)
    return [places[k] for k in range(max(places, default=-1) + 1)]


def number(value: float) -> str:
    """Format a loss with three decimals; a dash stands for nan."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if math.isfinite(value) else "infinite"


def interval(value: float, margin: float, sign: str = "") -> str:
    """Format a loss with its confidence interval, `1.500 ± 0.090`, or alone where there is none."""
    told = sign * (value > 0) + number(value)
    return f"{told} ± {margin:.3f}" if math.isfinite(margin) else told
