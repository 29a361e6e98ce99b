"""What clients get: OpenAI's objects, whole or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssdcli.serving.asking import Ask, Refused
from ssdcli.serving.scoring import TokenScore
from ssdcli.serving.worker import Part

if TYPE_CHECKING:
    from ssdcli.generation.types import Result

_REASONS = {"end": "stop", "stop": "stop", "length": "length"}
_KINDS = {400: "invalid_request_error", 429: "rate_limit_error"}


def error_json(refused: Refused) -> dict[str, Any]:
    """OpenAI's form of an error."""
    kind = "server_error" if refused.status >= 500 else _KINDS.get(refused.status, "invalid_request_error")
    return {"error": {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}}


@dataclass
class _Choice:
    """What has been written of a text."""

    text: str = ""
    tokens: list[TokenScore] = field(default_factory=list)
    result: Result | None = None
    read: int = 0
    offset: int = 0  # characters of its tokens that were sent


class Answer:
    """The answer to a call, part by part."""

    def __init__(self, ask: Ask) -> None:
        """Begin with empty texts."""
        self._ask = ask
        self._choices = [_Choice() for _ in range(ask.texts)]
        self._head = {
            "id": f"{'chatcmpl' if ask.chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": ask.model,
        }

    @property
    def done(self) -> bool:
        """Whether all texts are finished."""
        return all(choice.result is not None for choice in self._choices)

    def add(self, part: Part) -> None:
        """Take what is new of a text."""
        choice = self._choices[part.index]
        choice.text += part.text
        choice.tokens += part.tokens
        choice.result = part.result
        choice.read = max(choice.read, part.read)

    def whole(self) -> dict[str, Any]:
        """The finished answer."""
        choices = []
        for index, one in enumerate(self._choices):
            said = {"message": {"role": "assistant", "content": one.text}} if self._ask.chat else {"text": one.text}
            choices.append(self._choice(index, said, one.tokens, one.result))
        return self._object(choices, "") | {"usage": self._usage()}

    def chunks(self, part: Part) -> Iterator[dict[str, Any]]:
        """What is sent of a part, which is added; of the last one also the end of the whole."""
        begins = self._ask.chat and not self._choices[part.index].read
        self.add(part)
        if begins:
            yield self._object([self._choice(part.index, {"delta": {"role": "assistant", "content": ""}}, ())])
        if part.text or part.tokens:
            said: dict[str, Any] = {"delta": {"content": part.text}} if self._ask.chat else {"text": part.text}
            yield self._object([self._choice(part.index, said, part.tokens)])
        if part.result is not None:
            said = {"delta": {}} if self._ask.chat else {"text": ""}
            yield self._object([self._choice(part.index, said, (), part.result)])
        if self.done and self._ask.usage:
            yield self._object([]) | {"usage": self._usage()}

    def _object(self, choices: list[dict[str, Any]], chunk: str = ".chunk") -> dict[str, Any]:
        kind = f"chat.completion{chunk}" if self._ask.chat else "text_completion"
        return self._head | {"object": kind, "choices": choices}

    def _choice(
        self, index: int, said: dict[str, Any], tokens: Sequence[TokenScore], result: Result | None = None
    ) -> dict[str, Any]:
        """A text or a chunk of it; the seed with which it can be repeated comes with its end."""
        logprobs = None
        if self._ask.logprobs is not None and (tokens or "delta" not in said):
            logprobs = _chat_logprobs(tokens, self._ask.logprobs) if self._ask.chat else self._logprobs(index, tokens)
        reason = None if result is None else _REASONS[result.finish_reason]
        seed = {} if result is None else {"seed": result.seed}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": reason, **seed}

    def _logprobs(self, index: int, tokens: Sequence[TokenScore]) -> dict[str, Any]:
        """The log-probabilities of a completion's tokens, with the places of their characters in the text."""
        choice, offsets = self._choices[index], []
        for token in tokens:
            offsets.append(choice.offset)
            choice.offset += len(token.text)
        return {
            "tokens": [token.name for token in tokens],
            "token_logprobs": [token.log_p for token in tokens],
            "top_logprobs": [token.top or None for token in tokens] if self._ask.logprobs else None,
            "text_offset": offsets,
        }

    def _usage(self) -> dict[str, int]:
        """How many tokens were read, each prompt once, and written."""
        read = sum(choice.read for choice in self._choices[:: self._ask.options.n])
        written = sum(choice.result.tokens for choice in self._choices if choice.result is not None)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _chat_logprobs(tokens: Sequence[TokenScore], alternatives: int) -> dict[str, Any]:
    """The log-probabilities of an answer's tokens."""

    def form(text: str, log_p: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": log_p, "bytes": list(text.encode("utf-8", "replace"))}

    content = [
        form(token.text, token.log_p)
        | {"top_logprobs": [form(*other) for other in token.top.items()] if alternatives else []}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
