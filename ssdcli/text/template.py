"""Chat templates, rendered in a sandbox: a template is a program that comes with a model.

It sees what transformers shows to templates, for which they are written, without the seconds that importing it takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ssdcli.text.messages import Message

_OPEN = "<the last message goes on> "  # whose last character tells whether the template strips messages


def render(template: str, turns: Sequence[Message], tokens: Mapping[str, str]) -> str:
    """The text that a model continues; TemplateError, or any other error, if the template refuses the conversation.

    An answer follows, unless the last turn is the assistant's, which is left open. tokens: the special tokens that the
    template may name.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    continues = turns[-1].role == "assistant"
    if continues:
        messages[-1]["content"] += _OPEN
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": not continues}
    rendered = _compiled(template).render(**given, **tokens)
    if not continues:
        return rendered
    before, found, after = rendered.rpartition(_OPEN.rstrip())
    if not found:
        raise TemplateError("it does not show the last message, which is to be continued")
    return before if after.startswith(" ") else before.rstrip()


class _AnswerTag(Extension):
    """`{% generation %}`, by which a template says what is learned; it renders what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Variables(Namespace):
    """`namespace` without names that Python itself gives a meaning."""

    def __init__(self, /, *tables: Any, **named: Any) -> None:
        super().__init__({_own(name): value for name, value in dict(*tables, **named).items()})

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(_own(name), value)


def _own(name: str) -> str:
    if name.startswith("_"):
        raise SecurityError(f"it has a variable {name!r}, and none may begin so")
    return name


@cache
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_AnswerTag, LoopControlExtension]
    )
    environment.filters["tojson"] = _json
    environment.globals |= {
        "dict": _table,
        "namespace": _Variables,
        "raise_exception": _refuse,
        "strftime_now": _now,
    }
    return environment.from_string(template)


def _json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    """JSON as it is, where Jinja's own filter escapes what HTML gives a meaning."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _table(*pairs: Iterable[tuple[Any, Any]], **named: Any) -> dict[Any, Any]:
    """A dictionary; the class itself would offer its methods."""
    return dict(*pairs, **named)


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)


def _now(layout: str) -> str:
    return datetime.now().strftime(layout)
