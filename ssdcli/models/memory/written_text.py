"""The text that is being written: which tokens followed which in it so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ssdcli.models.memory.text_index import DEPTH, Followers

SHORTEST = 3  # tokens of a context: after shorter ones, so little text is a worse guide than the index (measured)

_Contexts = dict[tuple[int, ...], Mapping[int, int]]


class WrittenText:
    """A text, and how often each token follows each context of SHORTEST or more tokens in it."""

    def __init__(self, tokens: Iterable[int] = (), depth: int = DEPTH) -> None:
        """Count a text of token ids; contexts are up to `depth` tokens long."""
        self.tokens: list[int] = []
        self._depth = depth
        self._after: _Contexts = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        for token in tokens:
            for context in self._contexts(self.tokens):
                known = self._after.get(context, {})
                self._after[context] = {**known, token: known.get(token, 0) + 1}  # copies share the old one
            self.tokens.append(token)

    def followed_by(self, tokens: Sequence[int]) -> WrittenText:
        """The text with tokens appended; this one stays as it is."""
        if not tokens:
            return self
        longer = WrittenText(depth=self._depth)
        longer.tokens, longer._after = list(self.tokens), dict(self._after)
        longer.extend(tokens)
        return longer

    def followers(self, before: Sequence[int]) -> Iterator[Followers]:
        """What followed the last tokens of `before`: SHORTEST of them, one more, up to the longest that occurs."""
        for context in self._contexts(before):
            counts = self._after.get(context)
            if counts is None:
                return
            ids = sorted(counts)
            yield Followers(len(context), np.array(ids, np.int64), np.array([counts[id] for id in ids], np.int64))

    def _contexts(self, before: Sequence[int]) -> Iterator[tuple[int, ...]]:
        lengths = range(SHORTEST, min(self._depth, len(before)) + 1)
        return (tuple(before[-length:]) for length in lengths)
