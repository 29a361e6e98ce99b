"""A plugin of the program `llm`: every model that can write is one of its models, `llm -m ssd/notes "Dear"`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

import llm
from pydantic import Field, create_model

from ssdcli.errors import SsdError
from ssdcli.generation.blend import Blend
from ssdcli.generation.types import Options, Request
from ssdcli.machine.environment import prepare_machine
from ssdcli.options.declare import declared
from ssdcli.registry.store import Registry
from ssdcli.serving.ensembles import Ensembles, named, writes
from ssdcli.text.messages import Message

if TYPE_CHECKING:
    from ssdcli.generation.types import Result

_LEFT_TO_LLM = ("n", "system", "stop", "explain", "infill", "gap", "candidates")
_WHO: dict[str, tuple[Any, str]] = {
    "members": (str | None, "More small models, joined by '+', each NAME or NAME=WEIGHT."),
    "context": (str | None, "Private text, seen only by small models and memories."),
    "rule": (str | None, declared(next(one for one in fields(Blend) if one.name == "rule")).help),
    "stop": (str | None, "End before this text."),
}


def _options() -> Any:
    """The options of `ssd generate` that concern one text, as llm's."""
    hints = get_type_hints(Options)
    own = {one.name: (hints[one.name] | None, declared(one).help) for one in fields(Options)}
    told = {name: one for name, one in own.items() if name not in _LEFT_TO_LLM} | _WHO
    given: dict[str, Any] = {name: (kind, Field(description=help, default=None)) for name, (kind, help) in told.items()}
    return create_model("Options", __base__=llm.Options, **given)


class SsdModel(llm.Model):
    """An ensemble as a model of llm, whose name is that of one of its models."""

    can_stream = True
    Options = _options()

    def __init__(self, name: str, ensembles: Ensembles) -> None:
        self.model_id = f"ssd/{name}"
        self._name = name
        self._ensembles = ensembles

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """Write the answer, block by block (ModelError)."""
        prepare_machine()
        asked = {name: value for name, value in prompt.options if value is not None}
        try:
            yield from self._answer(prompt, asked, response)
        except SsdError as error:
            raise llm.ModelError(str(error)) from None

    def _answer(self, prompt: llm.Prompt, asked: dict[str, Any], response: llm.Response) -> Iterator[str]:
        members, context, rule = (asked.pop(name, None) for name in ("members", "context", "rule"))
        stop = asked.pop("stop", None)
        spec = named(self._name, Registry(), members.split("+") if members else (), Blend(rule), bool(context))
        options = Options(**asked, stop=(stop,) if stop else ())
        writer = self._ensembles.open(spec)
        rows = list(writer.rows([_request(prompt, context or "")], options))
        for _, piece in writer.write(rows, options):
            yield piece.text
            if piece.result is not None:
                _tell(response, piece.result, rows[0].read)


def _request(prompt: llm.Prompt, context: str) -> Request:
    """A conversation; a single prompt is continued or answered as suits the models (ModelError for more than text)."""
    turns = [(turn.role, "".join(_text(part) for part in turn.parts)) for turn in prompt.messages]
    if [role for role, _ in turns] == ["user"]:
        return Request(turns[0][1], context)
    roles: Any = [role for role, _ in turns]
    return Request(
        context=context, messages=tuple(Message(role, text) for role, (_, text) in zip(roles, turns, strict=True))
    )


def _text(part: Any) -> str:
    if not isinstance(part, llm.parts.TextPart):
        raise llm.ModelError("a message has more than text, and only text is read.")
    return part.text


def _tell(response: llm.Response, result: Result, read: int) -> None:
    """What llm keeps of an answer beside its text."""
    response.set_usage(input=read, output=result.tokens)
    told = result.to_json()
    response.response_json = {name: told[name] for name in ("finish_reason", "seed", "core", "members")}


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register the models that can write, under `ssd/`; none is loaded."""
    ensembles = Ensembles()
    for entry in Registry().entries():
        if writes(entry):
            register(SsdModel(entry.name, ensembles))
