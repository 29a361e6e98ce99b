"""Whether texts are drafted, and by which of the members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssdcli.engine.ensemble.members import Member
from ssdcli.errors import UsageError, require

if TYPE_CHECKING:
    from ssdcli.engine.drafting.drafter import Drafter
    from ssdcli.engine.drafting.drafting import Drafting
    from ssdcli.engine.sampling.reverse import ReverseProcess
    from ssdcli.generation.loaded_model import Loaded

_OMIT = "Omit --draft, or give --draft 0."
_COST_IN_16_BITS = 0.05  # of one more token in a pass, see COST, beside a core that is read in 16 bits (measured)
_LEVELS = 16  # at which schedules are compared


def drafting_of(members: Sequence[Member[Loaded]], reverse: ReverseProcess, most: int | None) -> Drafting | None:
    """How these members draft for the causal language model among them; None where nothing is drafted.

    most: the longest draft; None for one as long as is worth it. UsageError for a draft that was asked for where there
    can be none.
    """
    obstacle = _obstacle(members, reverse)
    remote = foretelling(members)
    if obstacle is not None:
        if remote:
            problem = f"a core on another machine is asked for text from the left alone, which cannot be: {obstacle}."
            raise UsageError(problem, "Omit what forbids it, or name a core on this machine.")
        if most:
            raise UsageError(f"nothing can be drafted: {obstacle}.", _OMIT)
        return None
    from ssdcli.engine.drafting.drafting import Drafting
    from ssdcli.engine.drafting.prompt_lookup import PromptLookup

    size = members[0].model.denoiser.block_size
    too_long = f"a draft of {most} tokens is longer than a block, which has {size}."
    require(most is None or most <= size, too_long, f"Give --draft {size} or less, or omit it.")
    if most == 0:
        return Drafting()
    if remote:  # the drafts of others would be sent to it
        foretold, at = zip(*remote, strict=True)
        return Drafting(foretold, at, size if most is None else most)
    able: list[tuple[Drafter, int]] = [
        (one.model.denoiser, place) for place, one in enumerate(members) if hasattr(one.model.denoiser, "draft")
    ]
    able += _guessing(members)
    drafters, places = [drafter for drafter, _ in able], [place for _, place in able]
    return Drafting(
        (*drafters, PromptLookup()),
        (*places, None),
        size if most is None else most,
        _cost(members),
        adapts=lambda: all(_is_alike(one.model.denoiser) for one in members if one.schedule(1.0) != 0),
    )


def _cost(members: Sequence[Member[Loaded]]) -> float:
    """What one more token in a pass costs beside a causal core, as a share of a pass over one."""
    from ssdcli.engine.drafting.drafting import COST
    from ssdcli.models.backbones.causal import CausalCore

    denoiser: Any = members[causal_places(members)[0]].model.denoiser
    core = denoiser.reader
    return _COST_IN_16_BITS if isinstance(core, CausalCore) and core.in_16_bits else COST


def _is_alike(denoiser: Any) -> bool:
    """Whether rows share its passes, and it predicts a token the same, bit for bit, whatever is predicted with it."""
    from ssdcli.engine.causal import StepwiseCausalDenoiser, shared_tokens
    from ssdcli.models.memory.memory_denoiser import MemoryDenoiser

    if isinstance(denoiser, MemoryDenoiser):
        return True
    causal = isinstance(denoiser, StepwiseCausalDenoiser) and shared_tokens(denoiser.backbone) > 0
    return causal and bool(getattr(denoiser.reader, "drafts_alike", False))


def foretelling(members: Sequence[Member[Loaded]]) -> list[tuple[Drafter, int]]:
    """The cores on other machines, which draft what they have foretold, each with its place among the members."""
    from ssdcli.models.remote.remote_denoiser import RemoteDenoiser

    denoisers = [one.model.denoiser for one in members]
    return [(one, place) for place, one in enumerate(denoisers) if isinstance(one, RemoteDenoiser)]


def _guessing(members: Sequence[Member[Loaded]]) -> list[tuple[Drafter, int]]:
    """What drafts from a core's states, a published drafter or a general head, with the place of a member there."""
    from ssdcli.engine.causal import StepwiseCausalDenoiser
    from ssdcli.engine.drafting.block_drafter import BlockDrafter
    from ssdcli.engine.drafting.state_drafter import StateDrafter
    from ssdcli.models.backbones.causal import CausalCore
    from ssdcli.models.dflash_checkpoint import published_drafter
    from ssdcli.models.general_heads import general_guesses

    found: list[tuple[Drafter, int]] = []
    for place, one in enumerate(members):
        denoiser = one.model.denoiser
        if found or not isinstance(denoiser, StepwiseCausalDenoiser) or one.schedule(1.0) == 0:
            continue
        core = denoiser.reader
        if not isinstance(core, CausalCore):
            continue
        mask_id = denoiser.process.mask_id
        if (blocks := published_drafter(core)) is not None:
            found.append((BlockDrafter(blocks, mask_id), place))
        elif (guesses := general_guesses(core)) is not None:
            found.append((StateDrafter(guesses, mask_id), place))
    return found


def causal_places(members: Sequence[Member[Loaded]]) -> list[int]:
    """The places of the causal language models among the members."""
    from ssdcli.engine.causal import CausalDenoiser

    return [place for place, one in enumerate(members) if isinstance(one.model.denoiser, CausalDenoiser)]


def _obstacle(members: Sequence[Member[Loaded]], reverse: ReverseProcess) -> str | None:
    """Why no token can be drafted, as a clause; None if there is no reason."""
    causal: list[Any] = [members[place].model.denoiser for place in causal_places(members)]
    levels, size = [level / _LEVELS for level in range(_LEVELS + 1)], members[0].model.denoiser.block_size
    steps = reverse.steps_of(size)
    uncut = "the core's cache loses text that a rejected draft would need again, so that it cannot be cut"
    obstacles = {
        "there is no causal language model to verify a draft": not causal,
        "only text that is written from the left is drafted": not reverse.from_left,
        f"{steps} steps for a block of {size} tokens do not write them one by one": steps < size,
        "the schedule changes the members' weights within a block": any(
            len({one.schedule(level) for level in levels}) > 1 for one in members
        ),
        uncut: any(core.backbone.forgets for core in causal),
    }
    return next((obstacle for obstacle, holds in obstacles.items() if holds), None)
