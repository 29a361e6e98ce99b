"""Models small enough to be made and run in every test, with random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer

from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import save_backbone
from ssdcli.registry.manifest import Manifest, tokenizer_fingerprint, write_manifest
from ssdcli.registry.store import Registry
from ssdcli.text.codec import Codec
from ssdcli.text.openings import TextFormat
from ssdcli.text.tokenizer import train_tokenizer

VOCABULARY = 300
BLOCK = 8
CONTEXT = 64
ROOM = CONTEXT - BLOCK  # tokens of a prompt
TEXT = "Dear landlord, the boiler is cold again and the stairs are dark. "
CONSTANTS = {"simplex": {"K": 5.0, "s": 1e-4}, "masked": {"mask_id": 1.0}, "uniform": {}}


@cache
def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE: <|endoftext|> 0, <|mask|> 1, <|pad|> 2, and 297 tokens of text."""
    tokenizer = train_tokenizer([TEXT * 20], VOCABULARY)
    assert tokenizer.get_vocab_size() <= VOCABULARY
    return tokenizer


def tiny_backbone(seed: int = 0, *, process: str = "masked", **changes: Any) -> BlockDiffusionLM:
    """A model of one layer, its weights drawn from the seed and its predictions far from flat."""
    timed = process != "masked"
    fields: dict[str, Any] = {
        "vocabulary": VOCABULARY,
        "hidden": 32,
        "layers": 1,
        "rank": 32,
        "block_size": BLOCK,
        "context": CONTEXT,
        "timed": timed,
        "self_conditioned": timed,
        "suppressed": (1, 2, *range(tiny_tokenizer().get_vocab_size(), VOCABULARY)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlockDiffusionLM(BackboneConfig(**{**fields, **changes}))
        with torch.no_grad():
            model.table.mul_(4)
    return model.eval().requires_grad_(False)


def loaded(denoiser: Any, tokenizer: Tokenizer | None = None, *, opening: int = 0, **changes: Any) -> LoadedModel:
    """A denoiser as a loaded model; its text ends with `opening` unless `changes` to its format say otherwise."""
    text = TextFormat(**{"opening": opening, "ends": (opening,), **changes})
    return LoadedModel(denoiser, Codec(tokenizer or tiny_tokenizer()), text)


def member(name: str, denoiser: Any, tokenizer: Tokenizer | None = None, **changes: Any) -> Member[LoadedModel]:
    """A member that always runs; `role`, and changes to its format."""
    role = changes.pop("role", "core")
    return Member(name, loaded(denoiser, tokenizer, **changes), Constant(1.0), role)


def add_tiny(
    name: str,
    seed: int = 0,
    *,
    process: str = "masked",
    backbone: BlockDiffusionLM | None = None,
    tokenizer: Tokenizer | None = None,
    **changes: Any,
) -> None:
    """Register a model in SSD_HOME, a core unless `changes` to its manifest say otherwise."""
    model = tiny_backbone(seed, process=process) if backbone is None else backbone
    text = (tokenizer or tiny_tokenizer()).to_str()
    fields: dict[str, Any] = {
        "name": name,
        "kind": "core",
        "architecture": "qwen3",
        "process": process,
        "constants": CONSTANTS.get(process, {}),
        "block_size": model.block_size,
        "context": model.context,
        "attention": "block-causal",
        "vocabulary": model.config.vocabulary,
        "tokenizer": tokenizer_fingerprint(text.encode()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "created": "2026-01-02T03:04:05+00:00",
    }
    with Registry().stage(name, overwrite=True) as folder:
        save_backbone(model, folder, torch.float32)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        write_manifest(folder, Manifest(**{**fields, **changes}))


def add_gated(process: str = "masked", **numbers: float) -> None:
    """Register `gated`, made for the core `big`, with a gate, some numbers of which may be named."""
    gate = {"bias": 0.2, "level": 1.0, "core": 0.5, "small": -0.5} | numbers
    add_tiny("gated", 4, process=process, kind="small", core="big", weight=0.4, gate=gate)


def add_family(process: str = "masked") -> None:
    """Register the core `big`, and `notes` (tuned weight 0.3) and `mail` (not tuned), made for it."""
    add_tiny("big", 1, process=process)
    add_tiny("notes", 2, process=process, kind="small", core="big", weight=0.3)
    add_tiny("mail", 3, process=process, kind="small", core="big")
