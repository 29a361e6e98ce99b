"""Log-probabilities of tokens: exact ones of a given text, and those that written tokens were chosen with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssdcli.errors import require
from ssdcli.text.messages import BETWEEN

if TYPE_CHECKING:
    from ssdcli.generation.types import TokenShares
    from ssdcli.generation.writer import Writer

LOWEST = -9999.0  # JSON has no infinity


@dataclass(frozen=True)
class TokenScore:
    """A token.

    text: its characters.
    log_p: in nats; None where nothing predicted it.
    top: the likeliest tokens there, itself among them.
    """

    text: str
    log_p: float | None
    top: dict[str, float] = field(default_factory=dict)


def of_shares(explained: Sequence[TokenShares]) -> tuple[TokenScore, ...]:
    """Written tokens, with the probability that the ensemble gave them when they were chosen."""
    chosen = ((one.text, math.log(one.p) if one.p > 0 else LOWEST) for one in explained)
    return tuple(TokenScore(text, log_p, {text: log_p}) for text, log_p in chosen)


def echoed(
    writer: Writer, prompt: str | Sequence[int], context: str, alternatives: int | None
) -> tuple[str, tuple[TokenScore, ...], int]:
    """A prompt's text, its tokens with so many others at each place unless `alternatives` is None, and how many it has.

    prompt: text or ids. An id that opens documents and comes first is the opening, which nothing predicts; otherwise
    the first token is predicted, too. UsageError for members that predict no text token by token.
    """
    ids = writer.codec.encode(prompt) if isinstance(prompt, str) else list(prompt)
    text = prompt if isinstance(prompt, str) else _spelled(writer, ids)
    return text, () if alternatives is None else tuple(_scores(writer, ids, context, alternatives)), len(ids)


def _spelled(writer: Writer, ids: list[int]) -> str:
    text: str = writer.codec.tokenizer.decode(ids, skip_special_tokens=False)
    return text


def _scores(writer: Writer, ids: list[int], context: str, alternatives: int) -> list[TokenScore]:
    from ssdcli.evaluation.code_length import CodeSettings, conditionals, has_code_length
    from ssdcli.evaluation.combinations import Combination
    from ssdcli.evaluation.scored_text import ScoredText

    inexact = next((one.name for one in writer.members if not has_code_length(one.model)), None)
    problem = f"{inexact!r} does not predict a text token by token, so that there are no exact log-probabilities."
    require(inexact is None, problem, "'ssd eval' measures a bound.")
    opening = writer.members[0].model.format.opening
    given = 1 if ids[:1] == [opening] else 0
    found = [TokenScore(_spelled(writer, ids[:given]), None)] * given
    if len(ids) == given:
        return found
    private = tuple(writer.codec.encode(context)) if context else ()
    room = min((one.model.denoiser.room for one in writer.members if one.role == "small"), default=0) // 2
    before = tuple(writer.codec.encode(context + BETWEEN)[:room]) if context else ()
    combination = Combination(writer.ensemble.rule, tuple(one.weight_at for one in writer.members))
    scored = ScoredText([opening, *ids[given:]], 0)
    for part in conditionals(writer.members, scored, combination, CodeSettings(context=before, private=private)):
        here = ids[len(found) : len(found) + len(part)]
        own = part[range(len(part)), here].tolist()
        values, tokens = (found.tolist() for found in part.topk(alternatives, dim=-1))
        found += [_score(writer, *one) for one in zip(here, own, tokens, values, strict=True)]
    return found


def _score(writer: Writer, token: int, log_p: float, top: list[int], values: list[float]) -> TokenScore:
    """A token among the likeliest ones; of several that are spelled alike, the likeliest stays."""
    text, own = _spelled(writer, [token]), max(log_p, LOWEST)
    alike = [(_spelled(writer, [other]), max(value, LOWEST)) for other, value in zip(top, values, strict=True)]
    return TokenScore(text, own, {text: own, **dict(reversed(alike))})
