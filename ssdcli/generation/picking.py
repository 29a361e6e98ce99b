"""The fewest passages of a private context that make a prompt likelier to a causal core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ssdcli.errors import require
from ssdcli.generation.drafts import causal_places, foretelling
from ssdcli.generation.private_context import Picked, kept_of
from ssdcli.generation.types import Request
from ssdcli.text.messages import BETWEEN
from ssdcli.text.passages import TextPassage, joined, ranked_passages

if TYPE_CHECKING:
    from ssdcli.engine.causal import CausalDenoiser
    from ssdcli.engine.ensemble.members import Member
    from ssdcli.generation.loaded_model import Loaded

_READ = 8  # passages, at most, that are read to be valued
_ASKED = 64  # tokens at the prompt's end whose likelihood counts
_MOST = 6  # passages that are kept
_PRICE = 1.0  # nats by which a passage has to pay

Value = Callable[[Sequence[TextPassage]], float]


def pick(passages: Sequence[TextPassage], value: Value) -> list[TextPassage]:
    """The passages that are kept, by what a set of them is worth; as Nottingham et al. (2023), BLINDER, but see below.

    Each is valued alone; the best joins first, and the next ones as long as each is worth its price; at last, those
    are taken out without which the set is worth no less. So no set is worth less than none. BLINDER learns its values
    from trajectories; here they are the likelihood of what is known of the text, the prompt.
    """
    none = value([])
    alone = {one: value([one]) for one in passages}
    kept, best = list[TextPassage](), none
    for one in sorted(passages, key=alone.__getitem__, reverse=True):
        if len(kept) == _MOST or alone[one] < none + _PRICE:
            break
        found = value([*kept, one]) if kept else alone[one]
        if found >= best + _PRICE:
            kept, best = [*kept, one], found
    for one in reversed(kept[:-1]):
        fewer = [other for other in kept if other != one]
        if (found := value(fewer)) >= best:
            kept, best = fewer, found
    return kept


@dataclass(frozen=True)
class Likelihood:
    """The value of passages: the log-likelihood of the end of a prompt to a core that has read them.

    core: reads the passages, on this machine.
    opening: the id before a text.
    encode: a text to its ids.
    asked: the prompt's ids.
    """

    core: CausalDenoiser
    opening: int
    encode: Callable[[str], Sequence[int]]
    asked: Sequence[int]

    def __call__(self, passages: Sequence[TextPassage]) -> float:
        """In nats."""
        import torch

        shown = self.encode(joined(passages) + BETWEEN) if passages else ()
        due = self.asked[-_ASKED:]
        room = self.core.room - len(shown) - 1
        with torch.inference_mode():
            text = torch.tensor([self.opening, *shown, *self.asked[-room:]], device=self.core.device)
            states = self.core.states(text[None, :-1])[0, -len(due) :]
            return float(self.core.log_p(states).gather(-1, text[-len(due) :, None]).double().sum())


def narrowed(members: Sequence[Member[Loaded]], request: Request) -> tuple[Request, Picked | None]:
    """A request whose private context is the passages that were picked for its last turn, and which these are."""
    if not request.context:
        return request, None
    reader = members[causal_places(members)[0]].model
    core: Any = reader.denoiser
    encode, prompt = reader.codec.encode, request.turns[-1].content
    asked, kept = encode(prompt), list[TextPassage]()
    if asked:
        value = Likelihood(core, reader.format.opening, encode, asked)
        kept = sorted(pick(ranked_passages(request.context, prompt)[:_READ], value))
    context = joined(kept)
    share = len(encode(context)) / max(1, len(encode(request.context)))
    passages = tuple(kept_of(one.text, one.first, one.last, request.files) for one in kept)
    return replace(request, context=context, files=()), Picked(passages, share)


def check_pick(members: Sequence[Member[Loaded]]) -> None:
    """Raise UsageError where no causal core can read passages on this machine."""
    able = bool(causal_places(members)) and not foretelling(members)
    problem = "passages are picked by a causal language model on this machine, and there is none here."
    require(able, problem, "Omit --pick, or name such a core.")
