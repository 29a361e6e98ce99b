"""How the engine samples under the options of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdcli.generation.types import Options

if TYPE_CHECKING:
    from ssdcli.engine.denoiser import Denoiser
    from ssdcli.engine.ensemble.guidance import Guide
    from ssdcli.engine.sampler import SamplerConfig
    from ssdcli.engine.sampling.characters import Characters
    from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
    from ssdcli.text.codec import Codec


def longest(options: Options) -> int:
    """The most tokens of a gap, or of the text."""
    return options.gap if options.infill else options.max_tokens


def characters_of(codec: Codec, vocabulary: int) -> Characters | None:
    """Which tokens of a vocabulary may follow one another; None where all are whole characters."""
    from ssdcli.engine.sampling.characters import Characters
    from ssdcli.text.token_bytes import token_bytes

    tokens = token_bytes(codec.tokenizer)
    return None if tokens is None else Characters.of(tokens, vocabulary)


def sampler_config(
    denoiser: Denoiser | MemoryDenoiser, ends: tuple[int, ...], options: Options, guides: tuple[Guide, ...] = ()
) -> SamplerConfig:
    """How the engine samples under these options.

    denoiser: the first member's; all members share its block size and device. ends: the ids that end a text.
    """
    from ssdcli.engine.sampler import SamplerConfig
    from ssdcli.engine.sampling.nucleus import Picker
    from ssdcli.engine.sampling.repetition import Repetition

    return SamplerConfig(
        block_size=denoiser.block_size,
        max_tokens=longest(options),
        ends=ends,
        picker=Picker(options.temperature, options.top_p, options.min_p),
        device=str(denoiser.device),
        guides=guides,
        repetition=Repetition(options.repetition_penalty, options.no_repeat or 0),
    )
