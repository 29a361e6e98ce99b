"""What the memories of an ensemble tell about a text: where its tokens stand, and what would copy too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import require
from ssdcli.generation.private_context import Picked

if TYPE_CHECKING:
    from ssdcli.generation.loaded_model import Loaded
    from ssdcli.models.memory.copy_limit import MemoryCopyLimit
    from ssdcli.models.memory.memory_files import Memory

_SHORTEST = 2  # tokens before a token that a place must share for its file to be named


def memories_of(
    members: Sequence[Member[Loaded]], prompts: Sequence[Prompt], picked: Picked | None = None
) -> list[Memory]:
    """The memories among the members, and that of the private context; prompts: a row's, one a member.

    picked: what was kept of the context, if not all was.
    """
    from ssdcli.generation.loaded_model import LoadedMemory
    from ssdcli.models.memory.memory_denoiser import memory_of_context

    found = [member.model.denoiser.memory for member in members if isinstance(member.model, LoadedMemory)]
    known = [memory for memory in found if memory.origins]
    private = next((prompt.private for prompt in prompts if prompt.private), ())
    if not private:
        return known
    if picked is None:
        return [*known, memory_of_context(private)]
    from ssdcli.models.memory.memory_files import Origin, remember

    encode = members[0].model.codec.encode
    texts, origins = zip(*((encode(one.text), Origin(one.file, one.first)) for one in picked.passages), strict=True)
    return [*known, remember(texts, origins)]


def copy_limits(
    members: Sequence[Member[Loaded]], rows: Sequence[Sequence[Prompt]], most: int
) -> tuple[MemoryCopyLimit, ...]:
    """What holds copies of memories down to so many tokens, one limit a row; none for 0 (UsageError without a memory).

    rows: the prompts of each row, one a member.
    """
    if most == 0:
        return ()
    from ssdcli.models.memory.copy_limit import MemoryCopyLimit

    remember = any(member.role == "memory" for member in members)
    require(remember, "there is no memory whose text could be copied.", "Omit --max-copy.")
    known = [memories_of(members, prompts) for prompts in rows]
    return tuple(MemoryCopyLimit(tuple(memory.index for memory in own), most) for own in known)


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
