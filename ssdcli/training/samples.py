"""A few texts by a finished model, from the beginnings of held-out documents, as far as the time goes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.members import Ensemble, Member
from ssdcli.engine.ensemble.schedules import Schedule
from ssdcli.engine.sampler import SamplerConfig, sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.evaluation.canvases import Reader
from ssdcli.evaluation.losses import Passage
from ssdcli.generation.types import DEFAULTS
from ssdcli.reports.description import Sample

_DOCUMENTS = 3
_OPENING = 24  # tokens of a document that are read, half of it at most
_LENGTH = 48  # tokens that are written
_SHORTEST = 8  # tokens of a document

_UNFINISHED = "\ufffd"  # what a decoder shows in place of a character that was cut


@dataclass(frozen=True)
class Author:
    """Who writes: members with their schedules, and the ids that end its texts."""

    members: Sequence[tuple[Reader, Schedule]]
    ends: tuple[int, ...]


def write_samples(
    authors: Mapping[str, Author], passages: Sequence[Passage], tokenizer: Tokenizer, until: float
) -> list[Sample]:
    """Let every author go on from the beginnings of the first documents that are long enough; the seeds are fixed.

    until: when to stop, by the monotonic clock. Texts are the shorter then, whole blocks all the same, and authors who
    have not written a block are left out, the last ones first; no author, no samples.
    """
    documents = [passage.tokens[1:] for passage in passages if len(passage.tokens) > _SHORTEST][:_DOCUMENTS]
    openings = [tokens[: min(_OPENING, len(tokens) // 2)] for tokens in documents]
    written = {name: _go_on(author, openings, until) for name, author in authors.items()}
    texts = {name: rows for name, rows in written.items() if rows}
    return [
        _sample(tokens, openings[place], {name: rows[place] for name, rows in texts.items()}, tokenizer)
        for place, tokens in enumerate(documents if texts else [])
    ]


@torch.no_grad()
def _go_on(author: Author, openings: Sequence[Sequence[int]], until: float) -> list[list[int]]:
    """The ids that an author writes after each opening, up to an end of text; nothing if there is no time for it."""
    if not openings or time.monotonic() > until:
        return []
    denoiser = author.members[0][0].denoiser
    ensemble = Ensemble(tuple(Member("", reader.denoiser, schedule) for reader, schedule in author.members))
    prompts = [[reader.prompt(opening) for opening in openings] for reader, _ in author.members]
    blocks: list[Tensor] = []
    for step in sample(
        ensemble, reverse_process(denoiser.process), prompts, range(len(openings)), _config(denoiser, author.ends)
    ):
        if step.last:
            blocks.append(denoiser.process.tokens(step.canvas).cpu())
        if time.monotonic() > until:
            break
    return [_up_to_end(row, author.ends) for row in torch.cat(blocks, 1).tolist()] if blocks else []


def _config(denoiser: Denoiser, ends: tuple[int, ...]) -> SamplerConfig:
    """As `ssd generate` samples unless it is told otherwise."""
    return SamplerConfig(
        block_size=denoiser.backbone.block_size,
        max_tokens=_LENGTH,
        ends=ends,
        picker=Picker(DEFAULTS.temperature, DEFAULTS.top_p),
        device=str(denoiser.backbone.device),
    )


def _up_to_end(ids: Sequence[int], ends: tuple[int, ...]) -> list[int]:
    return list(ids[: next((place for place, token in enumerate(ids) if token in ends), _LENGTH)])


def _sample(
    tokens: Sequence[int], before: Sequence[int], written: Mapping[str, Sequence[int]], tokenizer: Tokenizer
) -> Sample:
    """The texts of ids; what follows the opening is what a decoder adds to it, so that no character falls apart."""
    opening = tokenizer.decode(list(before)).rstrip(_UNFINISHED)

    def after(ids: Sequence[int]) -> str:
        return tokenizer.decode([*before, *ids]).rstrip(_UNFINISHED).removeprefix(opening)

    real = after(tokens[len(before) : len(before) + _LENGTH])
    return Sample(opening, real, {name: after(ids) for name, ids in written.items()})
