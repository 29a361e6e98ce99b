"""What clients ask: the bodies of OpenAI's requests, checked, as prompts and options of a `Writer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ssdcli.errors import NoSuchModel, OutOfMemory, SsdError, UsageError, require
from ssdcli.generation.blend import Blend
from ssdcli.generation.selection import EnsembleSpec
from ssdcli.generation.types import OptionChanges, Options, Request
from ssdcli.registry.store import Registry
from ssdcli.serving.ensembles import named
from ssdcli.text.messages import Message

if TYPE_CHECKING:
    from ssdcli.generation.writer import Writer

_LONGEST_ANSWER = 1024  # tokens of an answer whose length is not asked for; a completion's default is that of `Options`
_MOST_ALTERNATIVES = 20
_MOST_OF_COMPLETIONS = 1000  # for programs that go on with them
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "remask", "early_stop")
_PASSED = (*_NUMBERS, "n", "seed", "steps", "draft", "no_repeat", "max_copy", "sampler")
_LABELS = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
_CHANGE_NOTHING = (*_LABELS, "service_tier", "parallel_tool_calls")
_UNSUPPORTED: dict[str, Sequence[object]] = {  # with the values that ask for nothing
    "best_of": [1],
    "frequency_penalty": [0],
    "functions": [[]],
    "logit_bias": [{}],
    "modalities": [["text"]],
    "presence_penalty": [0],
    "response_format": [{"type": "text"}],
    "suffix": [""],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
}
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "an object",
}
_ROLES = {"developer": "system"}  # OpenAI's other name for it


class Refused(Exception):
    """A call that is not answered: its HTTP status, a sentence or two, and OpenAI's code and field, if it has one."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    @classmethod
    def because(cls, error: Exception) -> Refused:
        """The refusal that an error becomes; what is unexpected is told by its kind alone, lest it quote a text."""
        if isinstance(error, Refused):
            return error
        if isinstance(error, NoSuchModel):
            return cls(404, str(error), "model_not_found", "model")
        if isinstance(error, SsdError):
            return cls(
                503 if isinstance(error, OutOfMemory) else 400 if isinstance(error, UsageError) else 500, str(error)
            )
        return cls(500, f"unexpected {type(error).__name__}.", "internal_error")


Prompt = str | tuple[int, ...] | tuple[Message, ...]


@dataclass(frozen=True)
class Ask:
    """One call.

    chat: whether it is about a conversation, else about text to continue.
    model: the ensemble's name, see `spec`. members: further ones, each NAME or NAME=WEIGHT.
    rule, memory, context: as for `load`, and the private text.
    prompts: texts, their ids, or one conversation; each is answered `options.n` times.
    stream: whether text is sent as it is written. usage: whether its end says how many tokens there were.
    echo: whether the prompt comes before the text.
    logprobs: how many alternatives to each token are wanted beside its log-probability; None for neither.
    as_ids: whether tokens are named by their ids.
    """

    chat: bool
    model: str
    members: tuple[str, ...]
    rule: str | None
    memory: bool
    context: str
    prompts: tuple[Any, ...]
    options: Options
    stream: bool = False
    usage: bool = False
    echo: bool = False
    logprobs: int | None = None
    as_ids: bool = False

    @property
    def texts(self) -> int:
        """How many are to be written."""
        return len(self.prompts) * self.options.n

    def spec(self, registry: Registry) -> EnsembleSpec:
        """The ensemble: NAME, CORE+NAME=W or NAME+OTHER, where the first may be a core (NoSuchModel, UsageError)."""
        return named(self.model, registry, self.members, Blend(self.rule, memory=self.memory), bool(self.context))

    def requests(self, writer: Writer) -> list[Request]:
        """The prompts as the writer takes them (UsageError for an id that the vocabulary lacks).

        Ids are read as they are, or behind a private context as their text.
        """
        if self.chat:
            return [Request(messages=messages, context=self.context) for messages in self.prompts]
        size = writer.members[0].model.denoiser.process.vocabulary
        ids = (id for prompt in self.prompts if not isinstance(prompt, str) for id in prompt)
        require(all(id < size for id in ids), f"a token id is not below {size}, the size of the vocabulary.")
        return [self._continued(prompt, writer) for prompt in self.prompts]

    def _continued(self, prompt: str | tuple[int, ...], writer: Writer) -> Request:
        if isinstance(prompt, str) or self.context:
            text = prompt if isinstance(prompt, str) else writer.codec.decode(prompt)
            return Request(text, self.context, plain=True)
        return Request(ids=prompt, plain=True)


class _Body:
    """A JSON object whose fields are taken out one by one; null is as good as none."""

    def __init__(self, body: object) -> None:
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object.")
        self._left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, kinds: Iterable[type], default: Any = None) -> Any:
        """A field's value, which must be of one of these kinds."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        kinds = tuple(kinds)
        if type(value) in kinds or (type(value) is int and float in kinds):
            return value
        raise Refused(400, f"{name!r} must be {' or '.join(_KINDS[kind] for kind in kinds)}.", param=name)

    def close(self) -> None:
        """Refuse what is left, unless it changes nothing."""
        for name, value in self._left.items():
            if name in _UNSUPPORTED and value not in _UNSUPPORTED[name]:
                raise Refused(400, f"{name!r} is not supported.", "unsupported_parameter", name)
            if name not in (*_UNSUPPORTED, *_CHANGE_NOTHING):
                raise Refused(400, f"unrecognized request argument supplied: {name!r}.", "unknown_parameter", name)


def read_ask(given: object, *, chat: bool) -> Ask:
    """The call that a body asks for (Refused, UsageError)."""
    body = _Body(given)
    model = body.take("model", [str])
    if not model:
        raise Refused(400, "you must provide a model.", param="model")
    members = body.take("with", [list, dict, str], [])
    prompts = (_conversation(body),) if chat else _prompts(body.take("prompt", [str, list], ""))
    stream_options = body.take("stream_options", [dict], {})
    logprobs = _logprobs(body, chat)
    ask = Ask(
        chat=chat,
        model=model,
        members=_members(members),
        rule=body.take("rule", [str]),
        memory=body.take("memory", [bool], True),
        context=body.take("context", [str], ""),
        prompts=prompts,
        stream=body.take("stream", [bool], False),
        usage=stream_options.get("include_usage") is True,
        echo=not chat and body.take("echo", [bool], False),
        logprobs=logprobs,
        as_ids=not chat and body.take("return_tokens_as_token_ids", [bool], False),
        options=_options(body, chat, logprobs),
    )
    body.close()
    return ask


def _members(given: object) -> tuple[str, ...]:
    if isinstance(given, Mapping):
        return tuple(name if weight is None else f"{name}={weight}" for name, weight in given.items())
    return (given,) if isinstance(given, str) else tuple(map(str, given if isinstance(given, list) else ()))


def _options(body: _Body, chat: bool, alternatives: int | None) -> Options:
    """The options that a body names; whatever it asks for, its values are checked by `Options`."""
    hints = get_type_hints(OptionChanges)
    taken = {name: body.take(name, [kind for kind in _kinds(hints[name]) if kind is not NoneType]) for name in _PASSED}
    longest = body.take("max_tokens", [int], _LONGEST_ANSWER if chat else Options.max_tokens)
    if chat:
        longest = body.take("max_completion_tokens", [int], longest)
        taken["plain"] = body.take("plain", [bool])
    stop = body.take("stop", [str, list], [])
    if isinstance(stop, list) and not all(isinstance(one, str) for one in stop):
        raise Refused(400, "'stop' must be text or a list of texts.", param="stop")
    told = {name: value for name, value in taken.items() if value is not None}
    return Options(
        **told,
        max_tokens=longest,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        explain=alternatives is not None,
        alternatives=alternatives or 0,
        endless=body.take("ignore_eos", [bool], False),
    )


def _kinds(hint: Any) -> Sequence[type]:
    return get_args(hint) or (hint,)


def _logprobs(body: _Body, chat: bool) -> int | None:
    """How many alternatives are wanted; None where log-probabilities are not."""
    if chat:
        asked = body.take("logprobs", [bool], False)
        count = body.take("top_logprobs", [int], 0)
        if count and not asked:
            raise Refused(400, "'top_logprobs' needs 'logprobs'.", param="top_logprobs")
    else:
        count = body.take("logprobs", [int, bool])
        asked, count = count is not None and count is not False, int(count or 0)
    most = _MOST_ALTERNATIVES if chat else _MOST_OF_COMPLETIONS
    if not 0 <= count <= most:
        raise Refused(400, f"at most {most} alternatives are given.", param="logprobs")
    return count if asked else None


def _prompts(given: object) -> tuple[Prompt, ...]:
    """One text or several, each as text or as ids."""
    rows: list[Any] = given if isinstance(given, list) and not _is_ids(given) else [given]
    if not rows or not all(isinstance(row, str) or _is_ids(row) for row in rows):
        raise Refused(400, "'prompt' must be text, a list of token ids, or a list of either.", param="prompt")
    return tuple(row if isinstance(row, str) else tuple(row) for row in rows)


def _is_ids(row: object) -> bool:
    return isinstance(row, list) and bool(row) and all(type(id) is int and id >= 0 for id in row)


def _conversation(body: _Body) -> tuple[Message, ...]:
    turns = body.take("messages", [list], [])
    if not turns:
        raise Refused(400, "'messages' must be a list of messages.", param="messages")
    messages = tuple(map(_message, turns))
    Request(messages=messages)  # a UsageError says what is wrong with their order
    return messages


def _message(turn: object) -> Message:
    """A turn whose content is text, or a list of parts that are."""
    given = turn if isinstance(turn, dict) else {}
    role, content = given.get("role"), given.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise Refused(400, "a message needs a 'role', and a 'content' of text.", param="messages")
    told: Any = _ROLES.get(role, role)
    return Message(told, content)
