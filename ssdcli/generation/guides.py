"""Guides as users write them, MODEL:LABEL=SCALE: parsed, checked against the ensemble's tokenizer, and loaded."""

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

DEFAULT_SCALE = 4.0
"""Measured (docs/lab/guidance.md): of the starter's texts 0.47 had the label unguided, 0.69 at 1, 0.88 at 4 and 1.00 at
16, at a perplexity that went up at 16 alone."""
_FORM = "Write MODEL:LABEL or MODEL:LABEL=SCALE, as in ./tone:friendly=4."
_ONLY_A_DRIVE = re.compile(r"[A-Za-z]:[\\/][^:]*")  # the colon of C:\models\tone does not separate a label
_SHOWN = 20  # labels in an error


@dataclass(frozen=True)
class GuideSpec:
    """A classifier, the label to steer to, and how strongly.

    model: a folder, or the name of a model in the cache of huggingface_hub.
    label: its name or its number.
    scale: the guidance scale; a negative one steers away from the label.
    """

    model: str
    label: str
    scale: float = DEFAULT_SCALE

    @classmethod
    def parse(cls, text: str) -> GuideSpec:
        """Read MODEL:LABEL or MODEL:LABEL=SCALE; the last colon ends the model, whose path may contain others."""
        model, _, rest = text.rpartition(":")
        label, equals, number = rest.rpartition("=") if "=" in rest else (rest, "", "")
        if not model or not label.strip() or _ONLY_A_DRIVE.fullmatch(text):
            raise UsageError(f"the guide {text!r} does not name a model and a label.", _FORM)
        return cls(model, label.strip(), _scale(text, number) if equals else DEFAULT_SCALE)


def open_guide(spec: GuideSpec, tokenizer: str, vocabulary: int, device: str = "cpu") -> Guide:
    """Load the classifier that a spec names, without using the network.

    tokenizer: the fingerprint of the ensemble's tokenizer. vocabulary: how many ids its members predict. Raises
    UsageError for a model that is not there, whose tokenizer or vocabulary does not fit, or that has no such label, and
    SsdError for one that cannot be read or is not a classifier.
    """
    folder = _folder(spec.model)
    _check_tokenizer(spec.model, folder, tokenizer)
    from ssdcli.engine.ensemble.guidance import ClassifierGuide
    from ssdcli.models.classifier import load_classifier

    classifier = load_classifier(folder, device)
    known = len(classifier.table)
    if known < vocabulary:
        raise UsageError(
            f"the classifier {spec.model!r} has {known} token ids, and the models predict {vocabulary}.",
            f"Call resize_token_embeddings({vocabulary}) on it with transformers, and save it again.",
        )
    return ClassifierGuide(classifier, _label(spec, classifier.labels), spec.scale)


def _scale(text: str, number: str) -> float:
    try:
        scale = float(number)
    except ValueError:
        raise UsageError(f"the scale of the guide {text!r} is not a number: {number!r}.", _FORM) from None
    if not math.isfinite(scale):
        raise UsageError(f"the scale of the guide {text!r} is not finite.", _FORM)
    return scale


def _folder(model: str) -> Path:
    """The folder of a classifier: this path, or else that of the model in the cache of huggingface_hub."""
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
            f"the tokenizer.json of the classifier {model!r} cannot be read ({error}).",
            "Save its tokenizer there with save_pretrained of transformers.",
        ) from error
    if found != expected:
        raise UsageError(
            f"the classifier {model!r} has a different tokenizer ({found[:12]}) from the models' ({expected[:12]}).",
            "Name a classifier with the models' tokenizer, or train one with their tokenizer.json.",
        )


def _label(spec: GuideSpec, labels: Sequence[str]) -> int:
    """The number of a label that is given by name, in any case, or by number."""
    lowered = [label.lower() for label in labels]
    if spec.label in labels:
        return labels.index(spec.label)
    if spec.label.lower() in lowered:
        return lowered.index(spec.label.lower())
    if spec.label.isdecimal() and int(spec.label) < len(labels):
        return int(spec.label)
    listed = ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
    remedy = f"{suggest(spec.label, labels)} It has {listed}."
    raise UsageError(f"the classifier {spec.model!r} has no label {spec.label!r}.", remedy.strip())
