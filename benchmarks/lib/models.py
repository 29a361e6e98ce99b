"""Models as the benchmarks use them: those of a registry, and small ones with random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmarks.lib.corpora import read_texts
from ssdcli.engine.denoiser import Backbone, Denoiser
from ssdcli.engine.process import Process
from ssdcli.evaluation.scored_text import ScoredText, scored_text
from ssdcli.generation.loaded_model import LoadedMemory, Shared, open_memory, open_model, process_of
from ssdcli.machine.placement import Placement
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.registry.manifest import Manifest
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.tokenizer import END_OF_TEXT, load_tokenizer, special_id

CONSTANTS = {"K": 5.0, "s": 1e-4, "mask_id": 1.0}  # each process takes its own
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Model:
    """A model of a registry; its weights and its tokenizer are read when they are first needed."""

    entry: Entry
    registry: Registry

    @classmethod
    def named(cls, name: str, registry: Registry | None = None) -> Model:
        """A model of this registry, by default the user's."""
        registry = registry or Registry()
        return cls(registry.find(name), registry)

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return self.entry.name

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.entry.folder

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.entry.manifest

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return load_tokenizer(self.folder, self.name)

    @property
    def end(self) -> int:
        """The id of end of text."""
        return special_id(self.tokenizer, END_OF_TEXT)

    @cached_property
    def process(self) -> Process:
        """Its noise process."""
        return process_of(self.entry)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The loaded model; a LoRA on its base."""
        shared = Shared(process=self.process)
        exact = Placement("float32")  # in which a core is a model of transformers
        return open_model(self.entry, exact, origin=self.registry.origin_of(self.entry), shared=shared).denoiser

    @cached_property
    def memory(self) -> LoadedMemory:
        """The memory of a small model, which recalls if the model reads a core or is an adapter of one."""
        core = self.backbone.core if isinstance(self.backbone, SideNetwork) else self.backbone
        return open_memory(self.entry, Shared(process=self.process, core=core))

    @property
    def backbone(self) -> Backbone:
        """The loaded network."""
        return self.denoiser.backbone

    def scored_texts(self, heldout: str, limit: int | None = None) -> list[ScoredText]:
        """Held-out documents in the model's tokens, at most the first `limit`."""
        return [scored_text(text, self.tokenizer, self.end) for text in read_texts(heldout, limit)]


def random_denoiser(process: Process, hidden: int, layers: int, **shape: Any) -> Denoiser:
    """A block-causal model with random weights in float32; shape: other fields of `BackboneConfig`."""
    torch.manual_seed(0)
    config = BackboneConfig(process.vocabulary, hidden, layers, rank=hidden, block_size=16, context=512)
    config = replace(config, timed=process.timed, self_conditioned=process.self_conditioned)
    backbone = BlockDiffusionLM(replace(config, **shape))
    return Denoiser(backbone.to(DEVICE).eval().requires_grad_(False), process)
