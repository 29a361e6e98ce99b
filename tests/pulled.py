"""Tiny cores of random weights in the format that `ssd pull` leaves in the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.core_spec import KEY, CoreSpec, spec_fields
from ssdcli.registry.manifest import Manifest, tokenizer_fingerprint, write_manifest
from ssdcli.registry.store import Registry
from tests.models.native_checkpoints import LLAMA
from tests.tiny import BLOCK, CONSTANTS, CONTEXT, VOCABULARY, tiny_tokenizer


def write_core(
    folder: Path,
    native: Mapping[str, Any],
    process: str = "masked",
    dtype: torch.dtype = torch.bfloat16,
    **changes: Any,
) -> Path:
    """Write the weights, config.json and manifest of a core with full attention, whose tokens are those of tests.tiny.

    changes: to how it is run.
    """
    fields: dict[str, Any] = {
        "process": process,
        "constants": CONSTANTS[process],
        "attention": "full",
        "block_size": BLOCK,
        "context": CONTEXT,
        "begin": 0,
        "ends": (0,),
        "suppressed": (1, 2, *range(tiny_tokenizer().get_vocab_size(), VOCABULARY)),
    }
    spec = CoreSpec(**{**fields, **changes})
    own = {**native, "vocab_size": VOCABULARY, "is_causal": spec.attention == "autoregressive"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = native_class_of(own).model(AutoConfig.for_model(**own))
    model.get_output_embeddings().weight.data.mul_(20)  # predictions far from flat
    disable_progress_bar()  # it would stand on a command's standard error
    model.to(dtype).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(own | {KEY: spec.table()}), encoding="utf-8")
    manifest = Manifest(
        name="core",
        kind="core",
        architecture="toy",
        **spec_fields(spec),
        vocabulary=VOCABULARY,
        tokenizer=tokenizer_fingerprint(tiny_tokenizer().to_str().encode()),
        parameters=10**5,
        source="them/toy@0",
        created="2026-01-02T03:04:05+00:00",
    )
    write_manifest(folder, manifest)
    return folder


def add_core(
    name: str,
    process: str = "masked",
    native: Mapping[str, Any] = LLAMA,
    dtype: torch.dtype = torch.bfloat16,
    **changes: Any,
) -> None:
    """Register such a core in SSD_HOME, in the place of another one of this name."""
    with Registry().stage(name, overwrite=True) as folder:
        write_core(folder, native, process, dtype, **changes)
        (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str(), encoding="utf-8")


def add_causal(name: str, **changes: Any) -> None:
    """Register a causal language model of this kind, in float32, which predicts the leftmost hidden token alone."""
    add_core(name, dtype=torch.float32, **{"attention": "autoregressive", "shift": True, **changes})
