"""How the engine samples under the options of a request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ssdcli.engine import catalogue
from ssdcli.errors import UsageError
from ssdcli.generation.types import Options

if TYPE_CHECKING:
    from ssdcli.engine.denoiser import Denoiser
    from ssdcli.engine.ensemble.guidance import Guide
    from ssdcli.engine.process import Process
    from ssdcli.engine.sampling.characters import Characters
    from ssdcli.engine.sampling.reverse import ReverseProcess
    from ssdcli.engine.steps import SamplerConfig
    from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
    from ssdcli.text.codec import Codec

_NO_TOKEN = -1


def longest(options: Options) -> int:
    """The most tokens of a gap, or of the text."""
    return options.gap if options.infill else options.max_tokens


def ends_under(options: Options, ends: tuple[int, ...]) -> tuple[int, ...]:
    """The ids that end a text: its members', or one that no token has."""
    return (_NO_TOKEN,) if options.endless else ends


def characters_of(codec: Codec, vocabulary: int) -> Characters | None:
    """Which tokens of a vocabulary may follow one another; None where all are whole characters."""
    from ssdcli.engine.sampling.characters import Characters
    from ssdcli.text.tokenizer import token_bytes

    tokens = token_bytes(codec.tokenizer, vocabulary)
    return None if tokens is None else Characters.of(tokens, vocabulary)


def sampler_config(
    denoiser: Denoiser | MemoryDenoiser, ends: tuple[int, ...], options: Options, guides: tuple[Guide, ...] = ()
) -> SamplerConfig:
    """How the engine samples under these options.

    denoiser: the first member's; all members share its block size and device. ends: the ids that end a text.
    """
    from ssdcli.engine.sampling.nucleus import Picker
    from ssdcli.engine.sampling.repetition import Repetition
    from ssdcli.engine.steps import SamplerConfig

    return SamplerConfig(
        block_size=denoiser.block_size,
        max_tokens=longest(options),
        ends=ends,
        picker=Picker(options.temperature, options.top_p, options.min_p),
        device=str(denoiser.device),
        guides=guides,
        repetition=Repetition(options.repetition_penalty, options.no_repeat or 0),
    )


def chosen_reverse(
    process: Process, options: Options, usual: str | None, ends: tuple[int, ...], late: tuple[int, ...]
) -> ReverseProcess:
    """How canvases are denoised under these options (UsageError if they name a sampler that the process does not have).

    usual: the sampler where none is named; None for the process's own. ends, late: as for `Choice`.
    """
    from ssdcli.engine.sampling.reverse import Choice, reverse_process
    from ssdcli.engine.sampling.stopping import EarlyStop

    name, equals, number = (options.sampler or usual or "").partition("=")
    try:
        choice = Choice(name or None, _number(number) if equals else None, options.remask, late, ends)
        own = reverse_process(process, choice)
    except ValueError as error:
        raise _impossible(process.name, options, str(error)) from None
    bound = options.early_stop
    stop = own.stop if bound is None else EarlyStop(bound) if bound else None
    return replace(own, steps=own.steps if options.steps is None else options.steps, stop=stop)


def _number(text: str) -> float:
    """The number of a sampler, as in `threshold=0.9`; ValueError for text that is none."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _impossible(process: str, options: Options, reason: str) -> UsageError:
    """The error for a sampler that the process does not have, or that does not take what it is given."""
    known = catalogue.names(catalogue.samplers(process))
    name = known[0] if options.sampler is None else options.sampler.partition("=")[0]
    if name not in known:
        return UsageError(f"the {process} process has no sampler {name!r}.", f"Choose from {', '.join(known)}.")
    what = f"the sampler {options.sampler or name!r}" + f" with remask {options.remask:g}" * (options.remask != 0)
    return UsageError(f"{what} is not possible here: {reason}.", f"Omit it, or choose from {', '.join(known)}.")
