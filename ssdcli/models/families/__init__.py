"""The known families of public checkpoints: diffusion language models, and causal ones."""

from __future__ import annotations

from ssdcli.errors import UsageError
from ssdcli.models.families.causal import CAUSAL
from ssdcli.models.families.described import DESCRIBED
from ssdcli.models.families.diffugpt import DIFFUGPT
from ssdcli.models.families.diffusion_gemma import DIFFUSION_GEMMA
from ssdcli.models.families.family import Config, Family, Vocabulary
from ssdcli.models.families.idlm import IDLM
from ssdcli.models.families.llada import LLADA
from ssdcli.models.families.llada2 import LLADA2
from ssdcli.models.families.llada_moe import LLADA_MOE
from ssdcli.models.families.masked_models import A2D, DIFFULLAMA, DREAM, FAST_DLLM, NEMOTRON_LABS, OPEN_DCODER, SDAR
from ssdcli.models.families.modernbert import MODERNBERT
from ssdcli.models.families.ssdlm import SSDLM
from ssdcli.models.families.tess2 import TESS2

# In this order: some diffusion models have the class of a causal one.
DIFFUSION = (
    DESCRIBED,
    LLADA,
    LLADA_MOE,
    LLADA2,
    DREAM,
    DIFFULLAMA,
    DIFFUGPT,
    A2D,
    OPEN_DCODER,
    MODERNBERT,
    NEMOTRON_LABS,
    IDLM,
    SDAR,
    FAST_DLLM,
    SSDLM,
    TESS2,
    DIFFUSION_GEMMA,
)
FAMILIES = (*DIFFUSION, *CAUSAL)


def recognise(config: Config, vocabulary: Vocabulary) -> Family:
    """The family of a checkpoint, by its config.json and tokenizer; UsageError names the known ones."""
    for family in FAMILIES:
        if family.recognises(config, vocabulary):
            return family
    kind = config.get("model_type", "that is not named")
    names = ", ".join(str(name) for name in config.get("architectures") or ()) or "none named"
    raise UsageError(
        f"this is a checkpoint of model type {kind!r} (architectures: {names}), which is not a language model "
        "that ssd knows.",
        f"It knows the diffusion language models {_titles(DIFFUSION)}; and the causal ones {_titles(CAUSAL)}.",
    )


def _titles(families: tuple[Family, ...]) -> str:
    return ", ".join(family.title for family in families)
