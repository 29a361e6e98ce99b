"""A new model: its shape and its first weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from ssdcli.engine.process import Process
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideConfig, SideNetwork
from ssdcli.models.backbones.small_causal import new_network
from ssdcli.models.core_traits import CoreTraits, inherit_embeddings
from ssdcli.models.presets import Preset
from ssdcli.options.checks import seed_word
from ssdcli.training.active_tokens import Division
from ssdcli.training.settings import TrainSettings

_RANK_OF_LARGE_TABLES = 128
_LARGE_TABLE = 1 << 16  # rows
_CONTEXTS = 8  # a window holds at least this many blocks


_READER_BATCH = 512  # tokens; measured like the next two, see docs/lab
_READER_RATE = 1e-3
_READER_DECAY = 0.9
_WIDEST = 2048


def settled_reader(settings: TrainSettings) -> TrainSettings:
    """The same for a model that reads the core: AdamW learns it faster than Muon."""
    batch, rate = settings.batch_tokens or _READER_BATCH, settings.learning_rate or _READER_RATE
    decay = _READER_DECAY if settings.decay is None else settings.decay
    own = replace(settings, reads_core=True, optimizer=settings.optimizer or "adamw")
    return replace(own, batch_tokens=batch, learning_rate=rate, decay=decay)


_ADAPTER_BATCH = 1024  # tokens; the rate was measured, see docs/lab
_ADAPTER_RATE = 1e-3
_ADAPTER_DECAY = 0.5


def settled_adapter(settings: TrainSettings) -> TrainSettings:
    """The same for an adapter of a causal core."""
    batch, rate = settings.batch_tokens or _ADAPTER_BATCH, settings.learning_rate or _ADAPTER_RATE
    decay = _ADAPTER_DECAY if settings.decay is None else settings.decay
    own = replace(settings, optimizer=settings.optimizer or "muon")
    return replace(own, batch_tokens=batch, learning_rate=rate, decay=decay)


def build_reader(settings: TrainSettings, core: CausalCore, vocabulary: int) -> SideNetwork:
    """Make an untrained model that reads a core; its last matrix is zero, the others are drawn from the seed."""
    width = settings.hidden or min(_WIDEST, 4 * core.width)
    config = SideConfig(vocabulary, core.width, core.middle_layers, width, core.block_size, core.context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_word(settings.seed))
        return SideNetwork(config, core).to(core.device)


def shape(
    settings: TrainSettings,
    preset: Preset,
    process: Process,
    traits: CoreTraits | None,
    never: tuple[int, ...],
    division: Division | None,
) -> BackboneConfig:
    """The configuration of a new model: its body by preset and settings, the rest as process and core require.

    traits: the core's.
    never: ids that are never text, for a core made from scratch.
    division: of a large vocabulary.
    """
    hidden = settings.hidden or preset.hidden
    vocabulary, width = (settings.vocabulary, hidden) if traits is None else traits.embeddings.shape
    rank, block = min(hidden, width), settings.block_size
    assert block is not None  # what was left open has been decided
    config = BackboneConfig(
        vocabulary=vocabulary,
        hidden=hidden,
        layers=settings.layers or preset.layers,
        rank=rank,
        block_size=block,
        context=max(settings.context or preset.context, _CONTEXTS * block),
        timed=process.timed,
        self_conditioned=process.self_conditioned,
        suppressed=never if traits is None else traits.suppressed,
        active=None if division is None else len(division.ids),
        causal=settings.causal,
    )
    return replace(config, rank=min(rank, _RANK_OF_LARGE_TABLES)) if config.rows > _LARGE_TABLE else config


def build(config: BackboneConfig, traits: CoreTraits | None, division: Division | None, seed: int) -> BlockDiffusionLM:
    """Make a model with first weights drawn from `seed`; it inherits the core's embeddings if there is a core."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_word(seed))
        model = new_network(config)
    if traits is None:
        return model
    if division is None:
        inherit_embeddings(model, traits.embeddings)
    else:
        model.vocabulary.load_state_dict(division.state())
        inherit_embeddings(model, traits.embeddings[division.ids])
    return model
