"""A model's chat template: read, and rendered for a conversation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ssdcli.errors import SsdError, UsageError, require
from ssdcli.registry.manifest import TEMPLATE, TOKENIZER_SETTINGS
from ssdcli.text.messages import BETWEEN, Message

_REMEDY = "Most templates expect the user and the assistant to take turns."
_PROBE = "seven green herons"  # text that no template contains


def with_context(turns: Sequence[Message], context: str) -> tuple[Message, ...]:
    """A conversation with a context before the user's last message, where templates expect documents."""
    if not context:
        return tuple(turns)
    last = max(place for place, turn in enumerate(turns) if turn.role == "user")
    return _preceded(turns, last, context)


@dataclass(frozen=True)
class Chat:
    """A chat template.

    name: its model's.
    template: Jinja.
    tokens: the special tokens that it may refer to, such as `bos_token`.
    """

    name: str
    template: str
    tokens: Mapping[str, str]

    def render(self, turns: Sequence[Message]) -> str:
        """The text that the model continues; UsageError if the template refuses the conversation.

        If the template ignores system text, that text precedes the user's first turn instead.
        """
        first, *others = turns
        if first.role == "system" and not self._shows_system:
            turns = _preceded(others, [turn.role for turn in others].index("user"), first.content)
        rendered = self._rendered(turns)
        require(
            bool(rendered), f"the chat template of {self.name!r} renders these messages as an empty string.", _REMEDY
        )
        return rendered

    @cached_property
    def _shows_system(self) -> bool:
        try:
            return _PROBE in self._rendered((Message("system", _PROBE), Message("user", "?")))
        except UsageError:
            return False

    def _rendered(self, turns: Sequence[Message]) -> str:
        from ssdcli.text.template import render

        try:
            return render(self.template, turns, self.tokens)
        except Exception as error:  # a template is a program of its own, which may raise anything
            reason = str(error).partition("\n")[0]
            problem = f"the chat template of {self.name!r} refuses these messages ({reason})."
            raise UsageError(problem, _REMEDY) from error


def read_chat(folder: Path, name: str) -> Chat:
    """The chat template of the model in a folder, from its own file or the tokenizer's settings.

    SsdError if there is none.
    """
    settings, own = folder / TOKENIZER_SETTINGS, folder / TEMPLATE
    try:
        known = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
        template = own.read_text(encoding="utf-8") if own.exists() else known.get("chat_template")
        if not isinstance(template, str):
            raise ValueError(f"neither {TEMPLATE} nor {TOKENIZER_SETTINGS} has one")
    except (OSError, ValueError, AttributeError) as error:
        raise SsdError(f"the chat template of {name!r} cannot be read ({error}).", "Pull the model again.") from error
    named = {key: value for key, value in known.items() if key.endswith("_token")}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
    return Chat(name, template, {key: text for key, text in texts.items() if isinstance(text, str)})


def copy_chat(source: Path, target: Path) -> None:
    """Copy those files of a model's chat template that exist into another model's folder."""
    for name in (TEMPLATE, TOKENIZER_SETTINGS):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _preceded(turns: Sequence[Message], place: int, text: str) -> tuple[Message, ...]:
    """A conversation with a text before one of its turns."""
    turn = turns[place]
    return (*turns[:place], replace(turn, content=text + BETWEEN + turn.content), *turns[place + 1 :])
