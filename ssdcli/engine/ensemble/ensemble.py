"""Several denoisers of one canvas, each with its own prefix, that predict together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.drafting.lookahead import Lookahead, one_by_one
from ssdcli.engine.ensemble.abstention import combine, needs_all
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import Rule, mix
from ssdcli.engine.ensemble.switching import Switching
from ssdcli.engine.process import Canvas
from ssdcli.engine.prompt import Prompt, shown_to
from ssdcli.engine.sampling.nucleus import readable
from ssdcli.engine.shared_head import scored_together


class CanvasDenoiser(Protocol):
    """What an ensemble asks of a member; `Denoiser` is one.

    A member that may abstain at a position, where its log p is then NaN, sets `abstains = True`. One that predicts
    several positions of a `Lookahead` in one pass has `ahead(ahead, prefix)`, which returns log p (B, C, V), anything
    where no prediction is wanted; others are asked position by position.
    Members whose `reader` is the same, such as a core and a small model that reads its states, share the prefix of
    equal prompts. One that keeps something of its own beside it has `shown(prompt)`, what the reader
    reads, `joined(prompts, read)`, which returns a `JoinedPrefix` with that, and `commit_own(tokens, own)`.
    One that can tell what it says of the last tokens of a prompt has `recent(prompt, count, prefix, row)`, which gives
    log p (V,) of each of them, in order.
    """

    def start(self, prompts: Sequence[Prompt]) -> Any:
        """Read the prompts of a batch, none of them empty."""

    def denoise(self, canvas: Canvas, t: float, previous: Tensor | None, prefix: Any) -> Tensor:
        """Log p of the clean tokens: (B, L, V) float32, normalised, or NaN at a position where the member abstains."""

    def commit(self, tokens: Tensor, prefix: Any) -> Any:
        """The prefix with a clean block (B, L) appended; the given one stays as it was."""


@dataclass(frozen=True)
class JoinedPrefix:
    """What a member keeps of some prompts beside what its reader has read of them.

    own: the member's.
    read: the reader's, which other members may share.
    """

    own: Any
    read: Any


@dataclass(frozen=True)
class Prediction:
    """What an ensemble predicts of a canvas.

    log_p: of the clean tokens, (B, L, V) float32; NaN at a position where no member predicts.
    by_member: each member's own; None for one that was not run.
    weights: each member's; a base's is negated.
    opinions: what each of several ensembles predicts, K of (B, L, V); none unless the rule is `Switching`.
    chances: the logarithms of their chances at each position, (B, L, K), likewise.
    """

    log_p: Tensor
    by_member: tuple[Tensor | None, ...] = ()
    weights: tuple[float, ...] = ()
    opinions: tuple[Tensor, ...] = ()
    chances: Tensor | None = None


@dataclass(frozen=True)
class Ensemble:
    """Members that denoise together.

    members: in the order of prompts and prefixes; each base follows its small model.
    rule: how predictions combine; by default as in SSD-2 (Han et al., NAACL 2024).
    """

    members: tuple[Member[CanvasDenoiser], ...]
    rule: Rule = mix

    def weights(self, t: float) -> tuple[float, ...]:
        """Each member's weight at t, as scheduled; a base's is negated."""
        return tuple(member.weight_at(t) for member in self.members)

    def start(self, prompts: Sequence[Sequence[Prompt]], levels: Sequence[float]) -> tuple[Any, ...]:
        """Read each member's own prompts: prompts[i] are those of member i.

        levels: where the ensemble will be asked to denoise; a member that none of them needs reads nothing.
        """
        started: list[Any] = []
        read: list[tuple[object, Sequence[Prompt], Any]] = []
        for member, rows in zip(self.members, prompts, strict=True):
            model, shown = member.model, [shown_to(member.model, row) for row in rows]
            reader = getattr(model, "reader", model)
            known = next((prefix for other, same, prefix in read if other is reader and same == shown), None)
            if known is None:
                runs = any(member.schedule(t) != 0 for t in levels)
                started.append(model.start(rows) if runs else None)
            else:
                started.append(model.joined(rows, known) if hasattr(model, "joined") else known)
            read.append((reader, shown, _read(started[-1])))
        return tuple(started)

    def heard(self, prompts: Sequence[Sequence[Prompt]], prefixes: tuple[Any, ...]) -> Tensor | None:
        """The logarithms of the chances of several ensembles after their prompts, (B, K); None for any other rule."""
        return self.rule.after(self.members, prompts, prefixes) if isinstance(self.rule, Switching) else None

    def denoise(
        self,
        canvas: Canvas,
        t: float,
        previous: Tensor | None,
        prefixes: tuple[Any, ...],
        known: Tensor | None = None,
    ) -> Prediction:
        """Log p of the clean tokens by the members that run at t; ValueError if there is none.

        previous: log p (B, L, V) of the ensemble at the step before, or None. Every member is self-conditioned on it,
        even if it was skipped at that step. known: as `heard` gave it, for the text before the canvas.
        """
        weights = self.weights(t)
        by_member = tuple(
            member.model.denoise(canvas, t, previous, prefix) if weight != 0 else None
            for weight, member, prefix in zip(weights, self.members, prefixes, strict=True)
        )
        if known is None or not isinstance(self.rule, Switching):
            return Prediction(self.combine(by_member, weights), by_member, weights)
        opinions = self._opinions(self.rule, by_member)
        chances = known[:, None].expand(*opinions[0].shape[:2], -1)
        return Prediction(self.rule.pooled(opinions, chances), by_member, weights, opinions, chances)

    def ahead(self, ahead: Lookahead, prefixes: tuple[Any, ...], known: Tensor | None = None) -> Prediction:
        """Log p of the tokens at the positions of a lookahead, (B, C, V), by the members at their weights at t = 1.

        known: the logarithms of the chances at the first of them, (B, K), see `heard`.
        """
        weights = self.weights(1.0)
        running = [member.model if weight != 0 else None for weight, member in zip(weights, self.members, strict=True)]
        together = scored_together(running, ahead, prefixes)
        by_member = tuple(
            together[place] if place in together else None if model is None else _ahead(model, ahead, prefix)
            for place, (model, prefix) in enumerate(zip(running, prefixes, strict=True))
        )
        if known is None or not isinstance(self.rule, Switching):
            return Prediction(self._combined_ahead(by_member, weights, ahead), by_member, weights)
        opinions = self._opinions(self.rule, by_member)
        drafted = ahead.canvas.gather(1, ahead.places)[:, :-1]
        chances = self.rule.followed(known, self.rule.of_tokens([said[:, :-1] for said in opinions], drafted))
        return Prediction(self.rule.pooled(opinions, chances), by_member, weights, opinions, chances)

    def _combined_ahead(self, by_member: Sequence[Tensor | None], weights: Sequence[float], ahead: Lookahead) -> Tensor:
        """Combined predictions (B, C, V); of drafts of several lengths, on a CPU those that are wanted alone."""
        wanted = ahead.wanted
        if ahead.width == 1 or not readable(wanted) or bool(wanted.all()):  # without drafts the host need not ask
            return self.combine(by_member, weights)
        chosen = self.combine([None if log_p is None else log_p[wanted] for log_p in by_member], weights)
        return chosen.new_full((*wanted.shape, chosen.shape[-1]), math.nan).masked_scatter_(wanted[..., None], chosen)

    def follow(self, prediction: Prediction, tokens: Tensor, count: Tensor) -> Tensor | None:
        """The logarithms of the chances once so many of the tokens (B, C) that were predicted are written: (B, K).

        count: (B,) int64. None unless the rule is `Switching`.
        """
        if prediction.chances is None or not isinstance(self.rule, Switching):
            return None
        said = self.rule.of_tokens(prediction.opinions, tokens.clamp(min=0))
        chances = self.rule.followed(prediction.chances[:, 0], said)
        return chances[torch.arange(len(count), device=count.device), count]

    def after_block(self, block: Lookahead, prefixes: tuple[Any, ...], known: Tensor) -> Tensor | None:
        """The logarithms of the chances after a clean block, of which all tokens are looked at: (B, K)."""
        return self.follow(self.ahead(block, prefixes, known), block.canvas, block.first + block.width)

    def _opinions(self, rule: Switching, by_member: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """What each of several ensembles predicts."""
        log_ps = [log_p for log_p in by_member if log_p is not None]
        return rule.opinions(log_ps, self._abstains)

    def combine(
        self, by_member: Sequence[Tensor | None], weights: Sequence[float], chances: Tensor | None = None
    ) -> Tensor:
        """Combine the predictions of the members that ran: (..., V) float32.

        chances: those of several ensembles, as in a `Prediction`; by default even.
        """
        if isinstance(self.rule, Switching):
            opinions = self._opinions(self.rule, by_member)
            chances = self.rule.even(1, opinions[0].device)[0] if chances is None else chances
            return self.rule.pooled(opinions, chances.expand(*opinions[0].shape[:-1], -1))
        running = [i for i, log_p in enumerate(by_member) if log_p is not None]
        if not running:
            raise ValueError("no member runs at this noise level: at least one weight must differ from zero")
        log_ps = [log_p for log_p in by_member if log_p is not None]
        return combine(self.rule, log_ps, [weights[i] for i in running], [self._abstains[i] for i in running])

    def fully_predicts(self, t: float) -> bool:
        """Whether there is a prediction at every position at t, whoever abstains."""
        running = [abstains for abstains, weight in zip(self._abstains, self.weights(t), strict=True) if weight != 0]
        return not any(running) if needs_all(self.rule) else not all(running)

    @property
    def same_on_any_threads(self) -> bool:
        """Whether predictions are the same, bit for bit, whatever the number of threads that compute them."""
        return all(getattr(member.model, "same_on_any_threads", False) for member in self.members)

    @property
    def _abstains(self) -> tuple[bool, ...]:
        """Which members may abstain."""
        return tuple(getattr(member.model, "abstains", False) for member in self.members)

    def commit(self, tokens: Tensor, prefixes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Append a clean block (B, L) to the prefix of every member that reads."""
        grown: dict[int, Any] = {id(None): None}
        committed: list[Any] = []
        for member, prefix in zip(self.members, prefixes, strict=True):
            read = _read(prefix)
            if id(read) in grown:  # members with the same reader may share a prefix
                known = grown[id(read)]
                joins = isinstance(prefix, JoinedPrefix)
                own: Any = member.model
                committed.append(JoinedPrefix(own.commit_own(tokens, prefix.own), known) if joins else known)
            else:
                committed.append(member.model.commit(tokens, prefix))
                grown[id(read)] = _read(committed[-1])
        return tuple(committed)


def _read(prefix: Any) -> Any:
    """What a member's reader has read of its prompts."""
    return prefix.read if isinstance(prefix, JoinedPrefix) else prefix


def _ahead(model: CanvasDenoiser, ahead: Lookahead, prefix: Any) -> Tensor:
    """Log p of a member at the positions of a lookahead: (B, C, V)."""
    at_once: Callable[[Lookahead, Any], Tensor] | None = getattr(model, "ahead", None)
    return one_by_one(model, ahead, prefix) if at_once is None else at_once(ahead, prefix)
