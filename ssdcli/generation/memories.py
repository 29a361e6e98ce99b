"""What the memories of an ensemble tell about a text: where its tokens stand, and what would copy too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdcli.engine.ensemble.members import Member
from ssdcli.errors import require

if TYPE_CHECKING:
    from ssdcli.generation.loaded_model import Loaded
    from ssdcli.models.memory.copy_limit import MemoryCopyLimit
    from ssdcli.models.memory.memory_files import Memory

_SHORTEST = 2  # tokens before a token that a place must share for its file to be named


def memories_of(members: Sequence[Member[Loaded]]) -> list[Memory]:
    """The memories among the members, without those of a private context alone."""
    from ssdcli.generation.loaded_model import LoadedMemory

    found = [member.model.denoiser.memory for member in members if isinstance(member.model, LoadedMemory)]
    return [memory for memory in found if memory.origins]


def copy_limit(members: Sequence[Member[Loaded]], most: int) -> MemoryCopyLimit | None:
    """What holds copies of the members' memories down to so many tokens; None for 0 (UsageError without a memory)."""
    if most == 0:
        return None
    from ssdcli.models.memory.copy_limit import MemoryCopyLimit

    memories = memories_of(members)
    require(bool(memories), "there is no memory whose text could be copied.", "Omit --max-copy.")
    return MemoryCopyLimit(tuple(memory.index for memory in memories), most)


@dataclass(frozen=True)
class SourceFinder:
    """Finds where in the memories a written token stands after the tokens before it.

    memories: in the order in which they are searched.
    decode: turns ids into text.
    before: the ids of the prompt.
    """

    memories: Sequence[Memory]
    decode: Callable[[Sequence[int]], str]
    before: Sequence[int]

    def source(self, written: Sequence[int], token: int) -> str | None:
        """FILE:LINE of the place that shares most tokens before the token; None where it shares too few."""
        text = [*self.before, *written]
        found = [memory.find(text, token) for memory in self.memories]
        length, place, memory = max(
            ((*match, memory) for match, memory in zip(found, self.memories, strict=True)),
            key=lambda match: match[0],
            default=(0, 0, None),
        )
        return None if memory is None or length < _SHORTEST else memory.where(place, self.decode)
