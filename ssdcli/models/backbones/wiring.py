"""Which native class a core's config.json names, and the backbone that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import DiffusionGemmaForBlockDiffusion, PreTrainedModel, RobertaForMaskedLM

from ssdcli.errors import SsdError
from ssdcli.models.backbones.diffusion_gemma import DiffusionGemmaBackbone
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.backbones.roberta import RobertaBackbone
from ssdcli.models.backbones.ssdlm import SsdLmBackbone, SsdLmForDiffusion
from ssdcli.models.backbones.tess2 import Tess2Backbone, Tess2ForDiffusion


@dataclass(frozen=True)
class Wiring:
    """A native class and the backbone that knows its inputs and its head."""

    model: type[PreTrainedModel]
    backbone: type[NativeBackbone]


_OWN = {
    "DiffusionGemmaForBlockDiffusion": Wiring(DiffusionGemmaForBlockDiffusion, DiffusionGemmaBackbone),
    "RobertaForMaskedLM": Wiring(RobertaForMaskedLM, RobertaBackbone),
    "SsdLmForDiffusion": Wiring(SsdLmForDiffusion, SsdLmBackbone),
    "Tess2ForDiffusion": Wiring(Tess2ForDiffusion, Tess2Backbone),
}


def wiring(config: Mapping[str, Any]) -> Wiring:
    """The class that a native configuration names under `architectures`; SsdError if there is none such."""
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    if name in _OWN:
        return _OWN[name]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise SsdError(f"transformers has no class {name!r}, which config.json names.", "Upgrade transformers.")
    return Wiring(found, NativeBackbone)
