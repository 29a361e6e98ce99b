"""What a server answers to a completion, read strictly: the tokens that it wrote, and the likeliest in their places.

Three dialects are read. vLLM and `ssd serve` name tokens by their ids when asked to (`token_id:17`), llama.cpp's server
gives an id beside each token, and others, such as SGLang, give the characters alone, by which those are known that no
other token has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssdcli.errors import RemoteFailed

_ID = re.compile(r"token_id:(\d{1,9})")
_NEVER = -9999.0  # what JSON has in place of -inf
_CERTAIN = 1.01  # what probabilities may sum to, once they are rounded
NO_TOKEN = -1

Named = Callable[[str], int | None]


@dataclass(frozen=True)
class Guess:
    """A place of a text, as the core predicts it.

    token: what it wrote there; NO_TOKEN if that could not be read.
    ids: the likeliest tokens. log_p: in nats.
    """

    token: int
    ids: tuple[int, ...]
    log_p: tuple[float, ...]


@dataclass(frozen=True)
class Completion:
    """A completion.

    guesses: of the places after the prompt, one after another.
    text: what was written. written: how many tokens that are; None if that is not told.
    read: the tokens of the prompt, likewise.
    told: how many of the likeliest tokens there are for a place, at most: where characters name them, some share them.
    """

    guesses: tuple[Guess, ...]
    text: str
    written: int | None
    read: int | None
    told: int


def read_completion(value: Any, host: str, vocabulary: int, named: Named) -> Completion:
    """Read a completion; RemoteFailed for one without log-probabilities, or with a token that is not in the vocabulary.

    vocabulary: V. named: the token of these characters, if there is one alone.
    """
    try:
        (choice, *_), usage = value["choices"], value.get("usage") or {}
        places = list(_places(choice.get("logprobs") or {}, named))
        guesses = tuple(_guess(*place) for place in places)
        text, counts = str(choice["text"]), [usage.get(name) for name in ("completion_tokens", "prompt_tokens")]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        problem = f"{host} answered with a completion that cannot be read ({type(error).__name__})."
        raise RemoteFailed(problem, "Check that its address is that of an API like OpenAI's.") from error
    strange = next((id for guess in guesses for id in (guess.token, *guess.ids) if id >= vocabulary), None)
    if strange is not None:
        problem = f"{host} told of a token {strange}, but the vocabulary has {vocabulary} tokens."
        raise RemoteFailed(problem, "Pull the core again, with --tokenizer and the model that the server runs.")
    written, read = (count if isinstance(count, int) else None for count in counts)
    return Completion(guesses, text, written, read, max((len(told) for _, told in places), default=0))


def _places(table: Mapping[str, Any], named: Named) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """What a completion's `logprobs` tell of each place, in either form of that table: its token, and the likeliest."""
    if "content" in table:
        for place in table["content"] or ():
            yield _id(place, named), [(_id(one, named), one["logprob"]) for one in place["top_logprobs"]]
        return
    for token, top in zip(table.get("tokens") or (), table.get("top_logprobs") or (), strict=True):
        yield _token(token, named), [(_token(name, named), log_p) for name, log_p in (top or {}).items()]


def _id(entry: Mapping[str, Any], named: Named) -> int:
    return int(entry["id"]) if "id" in entry else _token(entry["token"], named)


def _token(name: str, named: Named) -> int:
    found = _ID.fullmatch(name)
    token = named(name) if found is None else int(found[1])
    return NO_TOKEN if token is None else token


def _guess(token: int, told: Sequence[tuple[int, float]]) -> Guess:
    """A place with those of its tokens that could be read; ValueError for what are no probabilities."""
    known = {id: float(log_p) if log_p > _NEVER else -math.inf for id, log_p in told if id >= 0}
    if told and not 0 < sum(map(math.exp, known.values())) <= _CERTAIN:
        raise ValueError("these are no probabilities")
    return Guess(token, tuple(known), tuple(known.values()))
