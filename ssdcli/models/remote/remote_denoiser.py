"""A causal language model on another machine as a member: it is asked for its predictions, several tokens at a time.

One call asks for the likeliest next tokens after the text, with the likeliest tokens in the place of each. As long as
the text becomes what was foretold, no further call is needed; from the first token on that is another one, it is asked
again. So what goes out is the prompt and the text as it is written, and never a token that the text does not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Prefix
from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.flops import Sizes
from ssdcli.engine.process import Process
from ssdcli.engine.prompt import ReadingOrder
from ssdcli.engine.sampling.race import Race
from ssdcli.errors import RemoteFailed, UsageError
from ssdcli.models.remote.client import Client
from ssdcli.models.remote.completions import Guess

_FIRST, MOST = 8, 32  # tokens of a call
_KEPT = 0.5  # what a call leaves of what is known of those before it
_AHEAD = 1.5  # tokens that are asked for, for each that is expected to stand
_FLATTENED = 1000  # see `spread`; measured, see docs/lab/remote.md
_LEAST = 1e-6  # of the probability that is left: what is told is rounded
_MOST_LEFT = 0.03  # likewise: nobody knows which tokens these are, so that the usual nucleus must not reach them


@dataclass(frozen=True)
class RemoteBackbone:
    """What an ensemble asks of a backbone, as far as there is any of it here.

    block_size: the tokens of a canvas. context: the longest window, in tokens.
    """

    block_size: int
    context: int
    reading_block: ClassVar[int] = 1
    shift: ClassVar[bool] = True
    forgets: ClassVar[bool] = False
    device: ClassVar[torch.device] = torch.device("cpu")
    sizes: ClassVar[Sizes] = Sizes(0, 0, 0)  # what it computes, it computes elsewhere


@dataclass
class Foretold:
    """What a core has foretold of one row.

    text: the ids after which it was asked. guesses: of the places behind them.
    stood: how many of the tokens of a call stood, on average; the latest count most.
    """

    text: list[int] = field(default_factory=list)
    guesses: Sequence[Guess] = ()
    stood: float = _FIRST / _AHEAD

    def after(self, text: list[int]) -> Sequence[Guess]:
        """The guesses of the places behind a text, if it has become what was foretold."""
        count = self._standing(text)
        return self.guesses[count:] if len(self.text) + count == len(text) else ()

    def _standing(self, text: list[int]) -> int:
        """How many of the foretold tokens a text has taken over; 0 for another text."""
        start = len(self.text)
        if text[:start] != self.text:
            return 0
        same = (guess.token == token for guess, token in zip(self.guesses, text[start:], strict=False))
        return next(
            (count for count, stands in enumerate(same) if not stands), min(len(self.guesses), len(text) - start)
        )

    def wanted(self, text: list[int], room: int) -> int:
        """How many tokens to ask for next, at most `room`, once it is known what became of the last ones."""
        if self.guesses:
            count = self._standing(text)
            every = count == len(self.guesses)  # who knows how many more would have stood
            self.stood = _KEPT * self.stood + (1 - _KEPT) * (2 * count if every else count)
        return max(1, min(MOST, room, math.ceil(1 + _AHEAD * self.stood)))


class RemoteDenoiser(CausalDenoiser):
    """A causal language model behind a client.

    It drafts what it has foretold, and predicts the positions behind that draft alone: those behind another one would
    give away tokens that may not become text.
    """

    def __init__(self, client: Client, backbone: RemoteBackbone, process: Process, never: Sequence[int]) -> None:
        """Ask nothing yet; never: ids that are never text."""
        model: Any = backbone
        super().__init__(model, process)
        self.client = client
        self._spread = spread(self.process.vocabulary, never)

    def _width(self, columns: int) -> int:
        return min(columns, self.room)

    def _together(self, orders: Mapping[int, ReadingOrder]) -> Iterator[Mapping[int, ReadingOrder]]:
        return ({row: order} for row, order in orders.items())

    def _read(self, prefix: Prefix) -> Prefix:
        return replace(prefix, cache=Foretold())

    def _commit(self, tokens: Tensor, prefix: Prefix) -> Prefix:
        grown = prefix.followed_by(tokens, 1)
        return grown.last(self._half) if prefix.slides and grown.tokens.shape[1] > self.room else grown

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: tuple[Prefix, ...]) -> Draft:
        """What has been foretold behind the known tokens of canvases (B, L) and can be verified; asks nothing."""
        del race  # the tokens are drawn already
        tokens, sure = canvas.new_full((len(canvas), count), -1), torch.zeros(len(canvas), count)
        for part in prefix:
            row = int(part.rows)
            known = int(self._known(canvas[part.rows]))
            for place, guess in enumerate(part.cache.after(_text(part, canvas[row, :known]))[:-1][:count]):
                if guess.token < 0:
                    break
                tokens[row, place] = guess.token
                sure[row, place] = math.exp(dict(zip(guess.ids, guess.log_p, strict=True)).get(guess.token, -math.inf))
        return Draft(tokens, sure)

    def ahead(self, ahead: Lookahead, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Log p at the positions of a lookahead (B, C, V), whose draft is what was foretold (RemoteFailed)."""
        log_p = torch.full((*ahead.places.shape, self.process.vocabulary), math.nan)
        wanted = {int(part.rows): part for part in prefixes if int(ahead.drafted[part.rows]) >= 0}
        texts = {row: _text(part, ahead.canvas[row, : int(ahead.first[row])]) for row, part in wanted.items()}
        self._ask({row: part.cache for row, part in wanted.items()}, texts)
        for row, part in wanted.items():
            guesses, first, drafted = part.cache.after(texts[row]), int(ahead.first[row]), int(ahead.drafted[row])
            draft = ahead.canvas[row, first : first + drafted].tolist()
            assert draft == [guess.token for guess in guesses[:drafted]], "only what was foretold can be drafted"
            for place in range(min(drafted + 1, len(guesses))):
                log_p[row, place] = dense(guesses[place], self._spread)
        return log_p

    def _ask(self, rows: Mapping[int, Foretold], texts: Mapping[int, list[int]]) -> None:
        """Have those places foretold that have not been, behind the texts of some rows (RemoteFailed)."""
        unknown = [row for row, known in rows.items() if not known.after(texts[row])]
        calls = [(texts[row], rows[row].wanted(texts[row], self.context - len(texts[row]))) for row in unknown]
        for row, answer in zip(unknown, self.client.complete_all(calls), strict=True):
            if 2 * answer.told < self.client.address.top:
                problem = f"{self.client.address.host} told {answer.told} of the likeliest tokens, not"
                remedy = "Pull the core again, with --overwrite."
                raise RemoteFailed(f"{problem} {self.client.address.top} as when it was pulled.", remedy)
            rows[row].text, rows[row].guesses = texts[row], answer.guesses

    def _predict(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Prefix) -> NoReturn:
        raise _nothing_here()

    def states(self, tokens: Tensor) -> NoReturn:
        """Its states are not told (UsageError)."""
        raise _nothing_here()

    def states_after(self, tokens: Tensor, prefix: Prefix) -> NoReturn:
        """As `states`."""
        raise _nothing_here()


def _nothing_here() -> UsageError:
    return UsageError(
        "a core on another machine tells neither states nor drafts of others.", "Name a core on this one."
    )


def dense(guess: Guess, shares: Tensor, most: float = _MOST_LEFT) -> Tensor:
    """Log p (V,) of a place: as told, and for all other tokens what these leave, but at most so much.

    shares: what each of these gets of that, as `spread` gives it.
    """
    log_p, told = shares.clone(), torch.tensor(guess.ids, dtype=torch.int64)
    values = torch.tensor(guess.log_p).masked_fill(shares[told].isneginf(), -math.inf)
    log_p[told] = -math.inf
    others = float(torch.logsumexp(log_p, 0))
    if others > -math.inf:  # else all are told
        known = float(values.double().exp().sum())
        left = min(max(1 - known, _LEAST), most) if known else 1.0
        log_p += math.log(left) - others
        values += math.log((1 - left) / known) if known and left == most else 0.0
    log_p[told] = values
    return log_p


def spread(vocabulary: int, never: Sequence[int]) -> Tensor:
    """Log of what each token gets of the probability that is not told: (V,) float32.

    Ids of most tokenizers are in the order of frequency, so that by Zipf's law it is 1 / (id + c); uniform shares cost
    more.
    """
    shares = (torch.arange(vocabulary) + _FLATTENED).float().log().neg()
    shares[list(never)] = -math.inf
    return shares


def _text(prefix: Prefix, known: Tensor) -> list[int]:
    """The ids of a prefix of one row and the known tokens (n,) behind it."""
    ids: list[int] = [*prefix.tokens[0].tolist(), *known.tolist()]
    return ids
