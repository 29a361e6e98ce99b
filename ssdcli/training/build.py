"""A new model: its size, its shape and its first weights; and the batch and the learning rate that suit a training."""

from __future__ import annotations

from dataclasses import replace

import torch

from ssdcli.engine.process import Process
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.backbones.causal import NativeCausalBackbone
from ssdcli.models.backbones.side_network import SideConfig, SideNetwork
from ssdcli.models.core_traits import CoreTraits, inherit_embeddings
from ssdcli.models.presets import PRESETS, Preset, find_preset
from ssdcli.options.checks import seed_word
from ssdcli.training.active_tokens import Division
from ssdcli.training.settings import DEFAULT_MINUTES, TrainSettings

_DECAY = 0.4
_RANK_OF_LARGE_TABLES = 128
_LARGE_TABLE = 1 << 16  # rows
_CONTEXTS = 8  # a window holds at least this many blocks


def settled(settings: TrainSettings, tokens: int) -> TrainSettings:
    """Checked settings with what they leave open decided once and for all: a resumed training may get more minutes.

    tokens: of the training text.
    """
    size = None if settings.init is not None else choose_preset(settings, tokens).name
    batch = choose_batch_tokens(settings, tokens)
    decay = _DECAY if settings.decay is None else settings.decay
    return replace(settings, size=size, batch_tokens=batch, learning_rate=choose_rate(settings), decay=decay)


_READER_BATCH = 512  # tokens; measured like the next two, see docs/lab
_READER_RATE = 1e-3
_READER_DECAY = 0.9
_WIDEST = 2048


def settled_reader(settings: TrainSettings) -> TrainSettings:
    """The same for a model that reads the core: AdamW learns it faster than Muon."""
    batch, rate = settings.batch_tokens or _READER_BATCH, settings.learning_rate or _READER_RATE
    decay = _READER_DECAY if settings.decay is None else settings.decay
    return replace(settings, reads_core=True, optimizer="adamw", batch_tokens=batch, learning_rate=rate, decay=decay)


def build_reader(settings: TrainSettings, core: NativeCausalBackbone, vocabulary: int) -> SideNetwork:
    """Make an untrained model that reads a core; its last matrix is zero, the others are drawn from the seed.

    Beside the last layer it reads two, at two and four fifths of the core's depth.
    """
    depth = core.model.config.get_text_config().num_hidden_layers
    size = core.model.config.get_text_config().hidden_size
    width = settings.hidden or min(_WIDEST, 4 * size)
    layers = (2 * depth // 5, 4 * depth // 5)
    config = SideConfig(vocabulary, size, layers, width, core.block_size, core.context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_word(settings.seed))
        return SideNetwork(config, core).to(core.device)


def choose_preset(settings: TrainSettings, tokens: int) -> Preset:
    """The preset that checked settings name, or the largest that the training tokens and the time can feed."""
    asked = None if settings.size is None else find_preset(settings.size)
    if asked is not None:
        return asked
    worth = min(tokens * _PARAMETERS_PER_TOKEN, _affordable(settings))
    fitting = [preset for preset in PRESETS if preset.parameters <= worth]
    return fitting[-1] if fitting else PRESETS[0]


_BATCH_TOKENS = 2048
_FEWEST_BATCH_TOKENS = 512
_STEPS = 500  # that a model from scratch should get; see docs/lab/training.md


def choose_batch_tokens(settings: TrainSettings, tokens: int) -> int:
    """The tokens of a step that checked settings name; else fewer where a small text allows few steps.

    tokens: of the training text; the passes over it are limited, and so are the steps.
    """
    if settings.batch_tokens is not None:
        return settings.batch_tokens
    if settings.init is not None or settings.steps is not None:
        return _BATCH_TOKENS
    return min(_BATCH_TOKENS, max(_FEWEST_BATCH_TOKENS, int(settings.passes * tokens / _STEPS)))


_RATE = 3e-3
_CONTINUED_RATE = 1e-3


def choose_rate(settings: TrainSettings) -> float:
    """The peak learning rate that checked settings name; else a lower one for weights that were trained before.

    One rate suits all widths, since Muon's updates have the same root mean square at every width.
    """
    if settings.learning_rate is not None:
        return settings.learning_rate
    continued = settings.init is not None and settings.lora is None
    return _CONTINUED_RATE if continued else _RATE


_PARAMETERS_PER_TOKEN = 12
_PARAMETERS_PER_MINUTE = 225_000  # of two CPU cores; see docs/lab/training.md


def _affordable(settings: TrainSettings) -> float:
    """How many body parameters can be trained in the granted time on a machine without a GPU."""
    by_steps = settings.minutes is None and settings.steps is not None
    if by_steps or torch.cuda.is_available():
        return float("inf")
    return (settings.minutes or DEFAULT_MINUTES) * _PARAMETERS_PER_MINUTE


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
    )
    return replace(config, rank=min(rank, _RANK_OF_LARGE_TABLES)) if config.rows > _LARGE_TABLE else config


def build(config: BackboneConfig, traits: CoreTraits | None, division: Division | None, seed: int) -> BlockDiffusionLM:
    """Make a model with first weights drawn from `seed`; it inherits the core's embeddings if there is a core."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_word(seed))
        model = BlockDiffusionLM(config)
    if traits is None:
        return model
    if division is None:
        inherit_embeddings(model, traits.embeddings)
    else:
        model.vocabulary.load_state_dict(division.state())
        inherit_embeddings(model, traits.embeddings[division.ids])
    return model
