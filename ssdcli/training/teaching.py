"""The teacher of a training: found, checked against what it is to teach, and loaded."""

from __future__ import annotations

from functools import partial

from ssdcli.errors import UsageError
from ssdcli.generation.loaded_model import open_model
from ssdcli.machine.distributed import world_size
from ssdcli.models.core_spec import KEY
from ssdcli.models.native_checkpoint import read_config
from ssdcli.text.chat import BETWEEN
from ssdcli.training.incontext import denoise_in_context
from ssdcli.training.prepare import Prepared
from ssdcli.training.teacher import Reading, Teacher, without_context


def open_teacher(prepared: Prepared) -> Teacher | None:
    """Load the teacher that a training asks for; UsageError where it cannot be had in many processes."""
    entry, settings, model = prepared.teacher, prepared.settings, prepared.model
    if entry is None or settings.distill_weight == 0:
        return None
    if world_size() > 1 and KEY in read_config(entry.folder):
        raise UsageError(f"the pulled model '{entry.name}' teaches a single process.", "Leave torchrun out.")
    backbone = open_model(entry, block_size=model.block_size).denoiser.backbone
    return Teacher(backbone, prepared.process, model.vocabulary, settings.distill_weight, _reading(prepared))


def _reading(prepared: Prepared) -> Reading:
    """How texts are put to the teacher."""
    if not prepared.settings.distill_context:
        return without_context
    between = prepared.tokenizer.encode(BETWEEN, add_special_tokens=False).ids[-1]
    return partial(denoise_in_context, separator=(prepared.end, between))
