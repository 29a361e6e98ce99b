"""Log-probabilities of tokens: exact ones of a given text, and those that written tokens were chosen with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
    name: what it is called: these, or its id.
    log_p: in nats; None where nothing predicted it.
    top: the likeliest tokens there by name, itself among them.
    """

    text: str
    name: str
    log_p: float | None
    top: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spelling:
    """How tokens are called: by their characters, which some have in common, or by their ids."""

    writer: Writer
    as_ids: bool = False

    def text(self, ids: Sequence[int]) -> str:
        """The characters of tokens."""
        text: str = self.writer.codec.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def score(self, token: int, log_p: float, top: Iterable[tuple[int, float]], text: str | None = None) -> TokenScore:
        """A token among the likeliest ones; of several of one name, the likeliest stays.

        text: its characters beside its neighbours, where these are known.
        """
        text = self.text([token]) if text is None else text
        name, own = self._name(token, text), max(log_p, LOWEST)
        named = [(self._name(other, self.text([other])), max(value, LOWEST)) for other, value in top if other != token]
        return TokenScore(text, name, own, {**dict(reversed(named)), name: own})

    def opening(self, token: int) -> TokenScore:
        """A token that nothing predicts."""
        return TokenScore(self.text([token]), self._name(token, self.text([token])), None)

    def _name(self, token: int, text: str) -> str:
        return f"token_id:{token}" if self.as_ids else text


def of_shares(explained: Sequence[TokenShares], spelling: Spelling) -> tuple[TokenScore, ...]:
    """Written tokens, with the probability that the ensemble gave them when they were chosen."""
    return tuple(spelling.score(one.token, _log_p(one), one.top, one.text) for one in explained)


def _log_p(chosen: TokenShares) -> float:
    return dict(chosen.top).get(chosen.token, math.log(chosen.p) if chosen.p > 0 else LOWEST)


def echoed(
    spelling: Spelling, prompt: str | Sequence[int], context: str, alternatives: int | None
) -> tuple[str, tuple[TokenScore, ...], int]:
    """A prompt's text, its tokens with so many others at each place unless `alternatives` is None, and how many it has.

    prompt: text or ids. An id that opens documents and comes first is the opening, which nothing predicts; otherwise
    the first token is predicted, too. UsageError for members that predict no text token by token.
    """
    ids = spelling.writer.codec.encode(prompt) if isinstance(prompt, str) else list(prompt)
    text = prompt if isinstance(prompt, str) else spelling.text(ids)
    return text, () if alternatives is None else tuple(_scores(spelling, ids, context, alternatives)), len(ids)


def _scores(spelling: Spelling, ids: list[int], context: str, alternatives: int) -> list[TokenScore]:
    from ssdcli.evaluation.code_length import CodeSettings, conditionals, has_code_length
    from ssdcli.evaluation.combinations import Combination
    from ssdcli.evaluation.scored_text import ScoredText

    writer = spelling.writer
    inexact = next((one.name for one in writer.members if not has_code_length(one.model)), None)
    problem = f"{inexact!r} does not predict a text token by token, so that there are no exact log-probabilities."
    require(inexact is None, problem, "'ssd eval' measures a bound.")
    opening = writer.members[0].model.format.opening
    given = 1 if ids[:1] == [opening] else 0
    found = [spelling.opening(token) for token in ids[:given]]
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
        values, tokens = (found.tolist() for found in part.topk(min(alternatives, part.shape[1]), dim=-1))
        top = map(zip, tokens, values)
        found += [spelling.score(*one) for one in zip(here, own, top, strict=True)]
    return found
