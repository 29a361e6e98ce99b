"""Exact code lengths: what texts cost, token by token from the left, under members and their ensembles.

By the chain rule, log p(text) is the sum of log p(token | all tokens before it). A masked model has each of these terms
exactly: its prediction on the canvas whose tokens before that one are known and the rest hidden, which is what a
sampler that reveals tokens from the left draws from. The NELBO averages over the orders of revealing, and bounds them.

Blocks lie as when the text is written: the first begins after the opening, or with a conversation's answer. Where a
text is longer than a member's window, that member's window slides as it does in writing, so that each token is
predicted after half of the window at least, or all of the text before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.switching import Switching
from ssdcli.engine.prompt import HEARD
from ssdcli.engine.sampling.nucleus import predicted
from ssdcli.engine.whole_text import WholeText, can_be_read_whole
from ssdcli.evaluation.combinations import Combination, Positions, combined_log_p, combined_losses
from ssdcli.evaluation.losses import SCORES, Losses, Pace
from ssdcli.evaluation.runs import Run, Window, runs_of, windows
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import Loaded, LoadedMemory, LoadedModel
from ssdcli.models.memory.recall_denoiser import RecallDenoiser
from ssdcli.models.remote.remote_denoiser import RemoteDenoiser

_Read = dict[tuple[int, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class CodeSettings:
    """How code lengths are measured.

    pace: how long it may take.
    context: ids of the private context, which small models read before every text, cut to the room that they have.
    private: all of its ids, which memories look up.
    """

    pace: Pace = field(default_factory=Pace)
    context: tuple[int, ...] = ()
    private: tuple[int, ...] = ()


def has_code_length(model: Loaded) -> bool:
    """Whether a model predicts each token of a text exactly, and many of them in one pass."""
    if isinstance(model, LoadedMemory):
        return True
    denoiser, process = model.denoiser, model.denoiser.process
    here = isinstance(denoiser, CausalDenoiser) and not isinstance(denoiser, RemoteDenoiser)
    in_passes = here or can_be_read_whole(denoiser)
    return process.hides and not process.timed and in_passes


@torch.no_grad()
def code_lengths(
    members: Sequence[Member[Loaded]],
    texts: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: CodeSettings,
) -> Losses:
    """Measure the code lengths of texts, in nats, under combinations of members, of as many texts as time allows.

    Texts are measured in order, each as a whole or not at all; the first is always measured. A text with a token for
    which no member predicts anything has an infinite code length.
    """
    began = settings.pace.clock()
    sums: list[np.ndarray] = []
    for text in texts:
        sums.append(_code_length(members, text, len(sums), combinations, settings))
        if not settings.pace.goes_on(began, len(sums) / len(texts)):
            break
    measured = texts[: len(sums)]
    return Losses(
        weights=np.arange(len(combinations)),
        sums=np.stack(sums),
        tokens=np.array([sum(text.counted) for text in measured]),
        bytes=np.array([text.bytes for text in measured]),
    )


@torch.no_grad()
def conditionals(
    members: Sequence[Member[Loaded]], text: ScoredText, combination: Combination, settings: CodeSettings
) -> Iterator[Tensor]:
    """Log p of every token at each that counts, of which code lengths are sums: parts of (n, V) float32, in order."""
    for log_ps, positions, abstain, counts in _predictions(members, text, 0, settings, [combination]):
        yield combined_log_p(log_ps, positions, combination, abstain)[counts]


def _code_length(
    members: Sequence[Member[Loaded]],
    text: ScoredText,
    number: int,
    combinations: Sequence[Combination],
    settings: CodeSettings,
) -> np.ndarray:
    """The nats of a text's tokens under each combination: (C,) float64; number: its place among the texts."""
    total = torch.zeros(len(combinations), dtype=torch.float64)
    for log_ps, positions, abstain, counts in _predictions(members, text, number, settings, combinations):
        losses = combined_losses(log_ps, positions, combinations, abstain)[counts].cpu().double()
        total += torch.where(losses.isnan(), torch.inf, losses).sum(0)
    return total.numpy()


def _predictions(
    members: Sequence[Member[Loaded]],
    text: ScoredText,
    number: int,
    settings: CodeSettings,
    combinations: Sequence[Combination],
) -> Iterator[tuple[list[Tensor], Positions, list[bool], Tensor]]:
    """Each member's log p (n, V) at some tokens, in order, whether it abstains at one, and which tokens count.

    The others are heard, as in writing, by those combinations that weigh ensembles by the text so far.
    """
    hears = any(isinstance(combination.rule, Switching) for combination in combinations)
    able = all(hasattr(member.model.denoiser, "recent") for member in members)
    runs, device = runs_of(text, HEARD if hears and able else 0), _device(members)
    contexts = {"small": settings.context, "memory": settings.private}
    read: _Read = {}
    predictors = [_predictor(member.model, runs, contexts.get(member.role, ()), read) for member in members]
    positions = _positions(members[0].model.denoiser.block_size, runs, number, device)
    vocabulary = members[0].model.denoiser.process.vocabulary
    counts = torch.tensor([run.counts for run in runs for _ in range(len(run))], device=device)
    for rows in torch.arange(len(positions.tokens), device=device).split(max(1, SCORES // vocabulary)):
        log_ps = [predict(rows) for predict in predictors]
        abstain = [
            member.model.denoiser.abstains and not predicted(said).all()
            for member, said in zip(members, log_ps, strict=True)
        ]
        yield log_ps, positions.rows(rows), abstain, counts[rows]


def _device(members: Sequence[Member[Loaded]]) -> torch.device:
    """Where members are combined: on the first model's device."""
    return next((member.model.denoiser.device for member in members if member.role != "memory"), torch.device("cpu"))


def _positions(size: int, runs: Sequence[Run], number: int, device: torch.device) -> Positions:
    """The tokens that count, at the noise level of their canvas: the share of its block that is hidden."""
    tokens = torch.tensor([token for run in runs for token in run.tokens], device=device)
    places = torch.cat([torch.arange(len(run), device=device) % size for run in runs])
    return Positions(tokens, 1 - places / size, tokens, number)


def _predictor(model: Loaded, runs: Sequence[Run], context: tuple[int, ...], read: _Read) -> Callable[[Tensor], Tensor]:
    """A function that gives log p at some of the tokens that count, (n,) to (n, V) on their device, asked in order."""
    if isinstance(model, LoadedMemory):
        lead = int(runs[0].text.opened)
        places = (place for run in runs for place in range(run.start - lead, run.stop - lead))
        each = _remembered(model, runs, places, context, read)
        return lambda rows: torch.stack(list(islice(each, len(rows)))).to(rows.device)
    parts = (part for run in runs for part in windows(model, run, context))
    states = torch.cat([_conditionals(model.denoiser, part, read) for part in parts])
    return lambda rows: _log_p(model.denoiser, states, rows)


def _remembered(
    memory: LoadedMemory, runs: Sequence[Run], places: Iterable[int], context: tuple[int, ...], read: _Read
) -> Iterator[Tensor]:
    """A memory's log p at some places of a text, in order; one that recalls sees the states of its core there."""
    denoiser, tokens = memory.denoiser, runs[0].text.own()
    if not isinstance(denoiser, RecallDenoiser):
        return denoiser.conditionals(tokens, places, context)
    core = LoadedModel(denoiser.core, memory.codec, memory.format)
    states = torch.cat([_conditionals(core.denoiser, part, read) for run in runs for part in windows(core, run)])
    return denoiser.conditionals(tokens, places, context, states)


def _conditionals(denoiser: Denoiser, part: Window, read: _Read) -> Tensor:
    """The hidden states that predict each of n tokens: (n, H); read: those of whole texts, by who read which."""
    device, count = denoiser.backbone.device, len(part.tokens)
    if isinstance(denoiser, CausalDenoiser):
        known = part.prompt.before[-denoiser.room :]
        tokens = (*known, *part.tokens[:-1])
        key = id(denoiser.reader), tokens
        if key not in read:
            read[key] = denoiser.states(torch.tensor([tokens], device=device))[0]
        return read[key][-count:]
    return WholeText.read(denoiser, part.prompt, torch.tensor(part.tokens, device=device)).conditionals()[:count]


def _log_p(denoiser: Denoiser, states: Tensor, rows: Tensor) -> Tensor:
    """A member's log p at some of the positions, on the device of these rows (n,): (n, V)."""
    own = states[rows.to(states.device)]
    if isinstance(denoiser, CausalDenoiser):
        return denoiser.log_p(own).to(rows.device)
    return torch.log_softmax(denoiser.backbone.logits(own), dim=-1).to(rows.device)
