"""Texts that are scored: their tokens, and which of them count. Long documents are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from ssdcli.data.marking import CLOSING, GIVEN, WRITTEN
from ssdcli.data.token_store import TokenStore

_LONGEST = 1024  # tokens of a document that are scored


@dataclass(frozen=True)
class ScoredText:
    """A document whose tokens are to be predicted.

    tokens: an end-of-text id, and the document's.
    bytes: its length in UTF-8.
    noise: texts of the same number are noised alike; by default each has noise of its own.
    scored: of a conversation, which tokens are answers'; of a plain text all but the first are scored.
    opened: whether the first token stands for the opening that each model reads; otherwise it is the text's own.
    """

    tokens: Sequence[int]
    bytes: int
    noise: int | None = None
    scored: Sequence[bool] | None = None
    opened: bool = True

    def own(self, stop: int | None = None) -> Sequence[int]:
        """Its tokens without the opening, up to a place among all."""
        return self.tokens[int(self.opened) : stop]

    @property
    def counted(self) -> Sequence[bool]:
        """Which tokens are predicted."""
        return [False, *[True] * (len(self.tokens) - 1)] if self.scored is None else self.scored


def scored_text(text: str, tokenizer: Tokenizer, end: int) -> ScoredText:
    """Take a whole text; `end` is the id of end of text."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return ScoredText([end, *ids], len(text.encode()))


def heldout_texts(store: TokenStore, tokenizer: Tokenizer, limit: int, longest: int = _LONGEST) -> list[ScoredText]:
    """Held-out documents in the store's order until they hold `limit` tokens; long ones are cut to `longest`.

    A document of which nothing would be predicted is left out.
    """
    chosen: list[ScoredText] = []
    left = limit
    for start, stop, size in store.heldout_documents:
        if left <= 0:
            break
        tokens, marks = store.heldout[start - 1 : stop].tolist(), store.heldout_marks[start:stop].tolist()
        scored = scored_part(tokens, marks, size, tokenizer, longest)
        if any(scored.counted):
            chosen.append(scored)
            left -= len(scored.tokens)
    return chosen


def scored_part(
    tokens: list[int], marks: list[int], size: int, tokenizer: Tokenizer, longest: int = _LONGEST
) -> ScoredText:
    """Cut a document to what is measured of it: its beginning or, of a conversation, the text around its first answer.

    tokens: an end of text and the n tokens of the document.
    marks: GIVEN, WRITTEN or CLOSING for each of the n tokens.
    size: UTF-8 bytes of the whole document.
    longest: how many tokens are kept.
    """
    answer = marks.index(WRITTEN) if WRITTEN in marks else 0
    begin = max(0, answer - longest // 2)
    end = min(len(marks), begin + longest)
    tokens, kept = tokens[begin : end + 1], marks[begin:end]
    if GIVEN in kept:
        return _conversation(tokens, kept, tokenizer)
    # A document that was cut, at either side, has the bytes of what is left of it.
    return ScoredText(tokens, size if len(kept) == len(marks) else len(tokenizer.decode(tokens[1:]).encode()))


def _conversation(tokens: list[int], marks: list[int], tokenizer: Tokenizer) -> ScoredText:
    """Keep the answers as what is scored, and drop the closing tokens: nothing is conditioned on them."""
    kept = [(token, mark == WRITTEN) for token, mark in zip(tokens, [GIVEN, *marks], strict=True) if mark != CLOSING]
    answers = [token for token, counts in kept if counts]
    size = len(tokenizer.decode(answers).encode())
    return ScoredText([token for token, _ in kept], size, scored=[counts for _, counts in kept])
