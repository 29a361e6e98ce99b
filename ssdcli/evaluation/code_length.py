"""Exact code lengths: what texts cost, token by token from the left, under members and their ensembles.

By the chain rule, log p(text) is the sum of log p(token | all tokens before it). A masked model has each of these terms
exactly: its prediction on the canvas whose tokens before that one are known and the rest hidden, which is what a
sampler that reveals tokens from the left draws from. The NELBO averages over the orders of revealing, and bounds them.

Blocks lie as when the text is written: the first begins after the opening, or with a conversation's answer. Where a
text is longer than a member's window, that member's window slides as it does in writing, so that each token is
predicted after half of the window at least, or all of the text before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import BlockCachedDenoiser, Denoiser, FullDenoiser
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import predicted
from ssdcli.engine.whole_text import WholeText
from ssdcli.evaluation.combinations import Combination, Positions, combined_losses
from ssdcli.evaluation.losses import SCORES, Losses, Pace
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel


@dataclass(frozen=True)
class CodeSettings:
    """How code lengths are measured.

    pace: how long it may take.
    context: ids of the private context, which those members that see it read before every text.
    """

    pace: Pace = field(default_factory=Pace)
    context: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Run:
    """Consecutive tokens of a text that are scored: all of a document, or an answer."""

    start: int
    stop: int


def has_code_length(model: LoadedModel) -> bool:
    """Whether a model predicts each token of a text exactly, and many of them in one pass."""
    process = model.denoiser.process
    return process.hides and not process.timed and not isinstance(model.denoiser, FullDenoiser | BlockCachedDenoiser)


@torch.no_grad()
def code_lengths(
    members: Sequence[Member[LoadedModel]],
    texts: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: CodeSettings,
) -> Losses:
    """Measure the code lengths of texts, in nats, under combinations of members, of as many texts as time allows.

    Texts are measured in order, each as a whole or not at all; the first is always measured. A text with a token for
    which no member predicts anything has an infinite code length.
    """
    began = time.monotonic()
    sums: list[np.ndarray] = []
    for text in texts:
        sums.append(_code_length(members, text, combinations, settings.context))
        if not settings.pace.goes_on(began, len(sums) / len(texts)):
            break
    measured = texts[: len(sums)]
    return Losses(
        weights=np.arange(len(combinations)),
        sums=np.stack(sums),
        tokens=np.array([sum(text.counted) for text in measured]),
        bytes=np.array([text.bytes for text in measured]),
    )


def _code_length(
    members: Sequence[Member[LoadedModel]],
    text: ScoredText,
    combinations: Sequence[Combination],
    context: tuple[int, ...],
) -> np.ndarray:
    """The nats of a text's tokens under each combination: (C,) float64."""
    denoisers, runs = [member.model.denoiser for member in members], _runs(text)
    states = [_states(member.model, text, runs, context if member.sees_context else ()) for member in members]
    positions = _positions(members[0].model, text, runs)
    total = torch.zeros(len(combinations), dtype=torch.float64)
    vocabulary = denoisers[0].process.vocabulary
    for rows in torch.arange(len(positions.tokens), device=positions.tokens.device).split(max(1, SCORES // vocabulary)):
        log_ps = [_log_p(denoiser, own, rows) for denoiser, own in zip(denoisers, states, strict=True)]
        abstain = [
            getattr(one, "abstains", False) and not predicted(said).all()
            for one, said in zip(denoisers, log_ps, strict=True)
        ]
        losses = combined_losses(log_ps, positions.rows(rows), combinations, abstain).cpu().double()
        total += torch.where(losses.isnan(), torch.inf, losses).sum(0)
    return total.numpy()


def _runs(text: ScoredText) -> list[_Run]:
    """The runs of tokens that count."""
    runs, start = [], 0
    for counts, run in groupby(text.counted):
        stop = start + len(list(run))
        if counts:
            runs.append(_Run(start, stop))
        start = stop
    return runs


def _positions(model: LoadedModel, text: ScoredText, runs: Sequence[_Run]) -> Positions:
    """The tokens that count, at the noise level of their canvas: the share of its block that is hidden."""
    device, size = model.denoiser.backbone.device, model.denoiser.backbone.block_size
    tokens = torch.tensor([int(token) for run in runs for token in text.tokens[run.start : run.stop]], device=device)
    places = torch.cat([torch.arange(run.stop - run.start, device=device) % size for run in runs])
    return Positions(tokens, 1 - places / size, tokens)


def _states(model: LoadedModel, text: ScoredText, runs: Sequence[_Run], context: tuple[int, ...]) -> Tensor:
    """The hidden states that predict the tokens that count: (N, H)."""
    parts = []
    for run in runs:
        for prompt, start, stop in _windows(model, text, run, context):
            parts.append(_conditionals(model.denoiser, prompt, list(map(int, text.tokens[start:stop]))))
    return torch.cat(parts)


def _conditionals(denoiser: Denoiser, prompt: Prompt, tokens: list[int]) -> Tensor:
    """The hidden states that predict each of n tokens after a prompt: (n, H)."""
    device, count = denoiser.backbone.device, len(tokens)
    if isinstance(denoiser, CausalDenoiser):
        known = prompt.before[-denoiser.room :]
        return denoiser.states(torch.tensor([[*known, *tokens[:-1]]], device=device))[0, -count:]
    return WholeText.read(denoiser, prompt, torch.tensor(tokens, device=device)).conditionals()[:count]


def _log_p(denoiser: Denoiser, states: Tensor, rows: Tensor) -> Tensor:
    """A member's log p at some of the positions, on the device of these rows (n,): (n, V)."""
    own = states[rows.to(states.device)]
    if isinstance(denoiser, CausalDenoiser):
        return denoiser.log_p(own).to(rows.device)
    return torch.log_softmax(denoiser.backbone.logits(own), dim=-1).to(rows.device)


def _windows(
    model: LoadedModel, text: ScoredText, run: _Run, context: tuple[int, ...]
) -> Iterator[tuple[Prompt, int, int]]:
    """Cut a run where a window slides: what is read before each part, and where the part begins and ends.

    Private context stays in view before what a window holds that has slid.
    """
    denoiser, start = model.denoiser, run.start
    prompt, always = model.after(text.tokens[1:start], context), model.after([], context).before
    kept = max(1, (denoiser.room - len(always)) // 2)
    while start < run.stop:
        stop = min(run.stop, start + denoiser.reach(prompt))
        yield prompt, start, stop
        tokens = text.tokens[start:stop]
        beside_context = Prompt([*always, *[*prompt.before[len(always) :], *tokens][-kept:]])
        prompt, start = beside_context if context else denoiser.slid(prompt, tokens), stop
