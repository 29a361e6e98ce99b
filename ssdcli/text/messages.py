"""The turns of a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ssdcli.errors import require

BETWEEN = "\n\n"  # separates the paragraphs of a document: context, system text, turns

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    learned: whether a model is trained to write it, if it is an answer; others are given to it.
    """

    role: Role
    content: str
    learned: bool = True

    @property
    def written(self) -> bool:
        """Whether it is an answer that is learned."""
        return self.role == "assistant" and self.learned

    def __post_init__(self) -> None:
        roles = ", ".join(get_args(Role))
        require(self.role in get_args(Role), f"the role of a message must be one of {roles}, not {self.role!r}.")
