"""The native class that a core's config.json names, and the backbone that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import DiffusionGemmaForBlockDiffusion, ModernBertForMaskedLM, PreTrainedModel, RobertaForMaskedLM

from ssdcli.errors import SsdError
from ssdcli.models.backbones.diffusion_gemma import DiffusionGemmaBackbone
from ssdcli.models.backbones.modernbert import ModernBertBackbone
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from ssdcli.models.backbones.ssdlm import RobertaBackbone, SsdLmBackbone, SsdLmForDiffusion
from ssdcli.models.backbones.tess2 import Tess2Backbone, Tess2ForDiffusion
from ssdcli.models.core_spec import CoreSpec


@dataclass(frozen=True)
class NativeClass:
    """A class of transformers, and the backbone that knows its inputs and its head."""

    model: type[PreTrainedModel]
    backbone: type[NativeBackbone]

    def backbone_for(self, spec: CoreSpec) -> type[NativeBackbone]:
        """The backbone for a core of this class: a class may be run as the causal model that it is, or denoise."""
        return NativeCausalBackbone if spec.attention == "autoregressive" else self.backbone


_OWN = {
    "DiffusionGemmaForBlockDiffusion": NativeClass(DiffusionGemmaForBlockDiffusion, DiffusionGemmaBackbone),
    "ModernBertForMaskedLM": NativeClass(ModernBertForMaskedLM, ModernBertBackbone),
    "RobertaForMaskedLM": NativeClass(RobertaForMaskedLM, RobertaBackbone),
    "SsdLmForDiffusion": NativeClass(SsdLmForDiffusion, SsdLmBackbone),
    "Tess2ForDiffusion": NativeClass(Tess2ForDiffusion, Tess2Backbone),
}


def native_class_of(config: Mapping[str, Any]) -> NativeClass:
    """The class that a native configuration names under `architectures`; SsdError if transformers lacks it."""
    named = config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    if name in _OWN:
        return _OWN[name]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise SsdError(f"transformers has no class {name!r}, which config.json names.", "Upgrade transformers.")
    return NativeClass(found, NativeBackbone)
