"""Guides as a user names them, MODEL:LABEL=SCALE: found, checked against the ensemble's tokenizer, and opened."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdcli.errors import SsdError, UsageError
from ssdcli.registry.manifest import tokenizer_fingerprint
from ssdcli.registry.names import suggest

if TYPE_CHECKING:
    from ssdcli.engine.ensemble.guidance import Guide

DEFAULT_SCALE = 30.0
"""Found with benchmarks/guidance.py: a BERT of two layers that tells PEPs from text about Rust.

At scales 0, 10, 30, 100 and 300, a share of 0.47, 0.62, 0.75, 0.78 and 1.00 of the starter's texts were PEPs to it, at
a perplexity of 38, 41, 42, 98 and 102; of a simplex core's 0.44, 0.97, 1.00 and 1.00 up to 100. A model that is less
sure of its tokens needs more: their probabilities are in the gradient.
"""
_FORM = "Write MODEL:LABEL or MODEL:LABEL=SCALE, as in ./tone:friendly=50."
_ONLY_A_DRIVE = re.compile(r"[A-Za-z]:[\\/][^:]*")  # the colon of C:\models\tone parts no label
_SHOWN = 20  # labels


@dataclass(frozen=True)
class GuideSpec:
    """A classifier, the label to steer to, and how strongly; a negative scale steers away from it.

    model: a folder, or the name of a model in the cache of huggingface_hub. label: its name or its number.
    """

    model: str
    label: str
    scale: float = DEFAULT_SCALE

    @classmethod
    def parse(cls, text: str) -> GuideSpec:
        """Read MODEL:LABEL or MODEL:LABEL=SCALE; the last colon parts the model, whose path may hold others."""
        model, _, rest = text.rpartition(":")
        label, equals, number = rest.rpartition("=") if "=" in rest else (rest, "", "")
        if not model or not label.strip() or _ONLY_A_DRIVE.fullmatch(text):
            raise UsageError(f"the guide {text!r} does not name a model and a label.", _FORM)
        return cls(model, label.strip(), _scale(text, number) if equals else DEFAULT_SCALE)


def open_guide(spec: GuideSpec, tokenizer: str, vocabulary: int, device: str = "cpu") -> Guide:
    """Load the classifier that a spec names, from this machine alone.

    tokenizer: the fingerprint of the ensemble's. vocabulary: the ids that its members predict. Raises UsageError for a
    model that is not there, whose tokenizer or vocabulary does not fit, or that knows no such label, and SsdError for
    one that cannot be read or does not classify.
    """
    folder = _folder(spec.model)
    _check_tokenizer(spec.model, folder, tokenizer)
    from ssdcli.engine.ensemble.guidance import ClassifierGuide
    from ssdcli.models.classifier import load_classifier

    classifier = load_classifier(folder, device)
    known = len(classifier.table)
    if known < vocabulary:
        raise UsageError(
            f"the classifier {spec.model!r} knows {known} token ids, and the models predict {vocabulary}.",
            f"Call resize_token_embeddings({vocabulary}) on it with transformers, and save it again.",
        )
    return ClassifierGuide(classifier, _label(spec, classifier.labels), spec.scale)


def _scale(text: str, number: str) -> float:
    try:
        scale = float(number)
    except ValueError:
        raise UsageError(f"the guide {text!r} has a scale {number!r} that is no number.", _FORM) from None
    if not math.isfinite(scale):
        raise UsageError(f"the guide {text!r} has a scale that is not finite.", _FORM)
    return scale


def _folder(model: str) -> Path:
    """The folder of a classifier: the one of this path, or the one in the cache of huggingface_hub."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        found = None
    if not isinstance(found, str):
        raise UsageError(
            f"there is no folder {model!r}, and no model of this name in the cache of Hugging Face.",
            "Give the folder of a classifier, or get one with 'hf download NAME'.",
        )
    return Path(found).parent


def _check_tokenizer(model: str, folder: Path, expected: str) -> None:
    try:
        found = tokenizer_fingerprint((folder / "tokenizer.json").read_bytes())
    except OSError as error:
        raise SsdError(
            f"the classifier {model!r} has no tokenizer.json that can be read ({error}).",
            "Save its tokenizer there with save_pretrained of transformers.",
        ) from error
    if found != expected:
        raise UsageError(
            f"the classifier {model!r} has another tokenizer ({found[:12]}) than the models ({expected[:12]}).",
            "Name a classifier with the models' tokenizer, or train one with their tokenizer.json.",
        )


def _label(spec: GuideSpec, labels: Sequence[str]) -> int:
    """The place of a label that is given as it is spelled, in other letter case, or by its number."""
    lowered = [label.lower() for label in labels]
    if spec.label in labels:
        return labels.index(spec.label)
    if spec.label.lower() in lowered:
        return lowered.index(spec.label.lower())
    if spec.label.isdecimal() and int(spec.label) < len(labels):
        return int(spec.label)
    listed = ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
    remedy = f"{suggest(spec.label, labels)} It knows {listed}."
    raise UsageError(f"the classifier {spec.model!r} has no label {spec.label!r}.", remedy.strip())
