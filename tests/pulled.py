"""Tiny cores of random weights in the format that `ssd pull` leaves in the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from ssdcli.models.backbones.wiring import wiring
from ssdcli.models.spec import KEY, CoreSpec
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
    """Write the weights and config.json of a core with full attention, whose tokens are those of tests.tiny.

    changes: to what it says of itself beyond its native class.
    """
    fields: dict[str, Any] = {
        "family": "toy",
        "process": process,
        "constants": CONSTANTS[process],
        "attention": "full",
        "block_size": BLOCK,
        "context": CONTEXT,
        "ends": (0,),
        "suppressed": (1, 2, *range(tiny_tokenizer().get_vocab_size(), VOCABULARY)),
    }
    spec = CoreSpec(**{**fields, **changes})
    own = {**native, "vocab_size": VOCABULARY, "is_causal": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = wiring(own).model(AutoConfig.for_model(**own))
    model.get_output_embeddings().weight.data.mul_(20)  # predictions far from flat
    disable_progress_bar()  # it would stand on a command's standard error
    model.to(dtype).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(own | {KEY: spec.to_json()}), encoding="utf-8")
    return folder


def add_core(
    name: str,
    process: str = "masked",
    native: Mapping[str, Any] = LLAMA,
    dtype: torch.dtype = torch.bfloat16,
    **changes: Any,
) -> None:
    """Register such a core in SSD_HOME, in the place of another one of this name."""
    text = tiny_tokenizer().to_str()
    with Registry().stage(name, overwrite=True) as folder:
        write_core(folder, native, process, dtype, **changes)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        manifest = Manifest(
            name=name,
            kind="core",
            architecture="toy",
            process=process,
            constants=CONSTANTS[process],
            block_size=BLOCK,
            context=CONTEXT,
            attention="full",
            vocabulary=VOCABULARY,
            tokenizer=tokenizer_fingerprint(text.encode()),
            parameters=10**5,
            source="them/toy@0",
            begin=0,
            ends=[0],
            created="2026-01-02T03:04:05+00:00",
        )
        write_manifest(folder, manifest)
