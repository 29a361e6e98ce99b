"""From documents to the passages that are measured: where each begins and ends, and which of its tokens count."""

from __future__ import annotations

from tokenizers import Tokenizer

from ssdcli.data.marking import CLOSING, GIVEN, WRITTEN
from ssdcli.data.token_store import TokenStore
from ssdcli.evaluation.losses import Passage

_LONGEST = 1024  # tokens of a document that are measured


def heldout_passages(store: TokenStore, tokenizer: Tokenizer, limit: int) -> list[Passage]:
    """Return held-out documents in the store's order until they hold `limit` tokens; long ones are cut.

    A document of which nothing would be predicted is left out.
    """
    chosen: list[Passage] = []
    left = limit
    for start, stop, size in store.heldout_documents:
        if left <= 0:
            break
        tokens, marks = store.heldout[start - 1 : stop].tolist(), store.heldout_marks[start:stop].tolist()
        passage = marked_passage(tokens, marks, size, tokenizer)
        if any(passage.counted):
            chosen.append(passage)
            left -= len(passage.tokens)
    return chosen


def marked_passage(tokens: list[int], marks: list[int], size: int, tokenizer: Tokenizer) -> Passage:
    """Cut a document to what is measured of it: its beginning or, of a conversation, the text around its first answer.

    tokens: an end of text and the n tokens of the document.
    marks: GIVEN, WRITTEN or CLOSING for each of the n tokens.
    size: UTF-8 bytes of the whole document.
    """
    answer = marks.index(WRITTEN) if WRITTEN in marks else 0
    begin = max(0, answer - _LONGEST // 2)
    end = min(len(marks), begin + _LONGEST)
    tokens, kept = tokens[begin : end + 1], marks[begin:end]
    if GIVEN in kept:
        return _conversation(tokens, kept, tokenizer)
    # A document that was cut, at either side, has the bytes of what is left of it.
    return Passage(tokens, size if len(kept) == len(marks) else len(tokenizer.decode(tokens[1:]).encode()))


def _conversation(tokens: list[int], marks: list[int], tokenizer: Tokenizer) -> Passage:
    """A passage of which only the answers count, without the closing tokens: nothing is conditioned on them."""
    kept = [(token, mark == WRITTEN) for token, mark in zip(tokens, [GIVEN, *marks], strict=True) if mark != CLOSING]
    answers = [token for token, counts in kept if counts]
    size = len(tokenizer.decode(answers).encode())
    return Passage([token for token, _ in kept], size, scored=[counts for _, counts in kept])
