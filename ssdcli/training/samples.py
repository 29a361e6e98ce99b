"""A few texts by a finished model after the beginnings of held-out documents, under a time limit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import Rule, mix
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.generation.sampler_config import sampler_config
from ssdcli.generation.types import Options
from ssdcli.reports.description import Sample
from ssdcli.text.codec import whole_characters
from ssdcli.text.openings import ends_of_all

_DOCUMENTS = 3
_OPENING = 24  # tokens of a document that are read, half of it at most
_LENGTH = 48  # tokens that are written
_SHORTEST = 8  # tokens of a document

Authors = Sequence[Member[LoadedModel]]


def write_samples(
    authors: Mapping[str, Authors],
    texts: Sequence[ScoredText],
    tokenizer: Tokenizer,
    until: float,
    rule: Rule = mix,
) -> list[Sample]:
    """Let each model or ensemble continue the beginnings of the first documents that are long enough; seeds are fixed.

    authors: the members that write together, by the name of the model or ensemble.
    until: when to stop, by the monotonic clock. Texts then end after the current block, and an author who has not
        finished a block is left out; without any author there are no samples.
    rule: how members combine.
    """
    documents = [text.tokens[1:] for text in texts if len(text.tokens) > _SHORTEST][:_DOCUMENTS]
    openings = [tokens[: min(_OPENING, len(tokens) // 2)] for tokens in documents]
    written = {name: _go_on(members, openings, until, rule) for name, members in authors.items()}
    written = {name: rows for name, rows in written.items() if rows}
    return [
        _sample(tokens, openings[place], {name: rows[place] for name, rows in written.items()}, tokenizer)
        for place, tokens in enumerate(documents if written else [])
    ]


@torch.no_grad()
def _go_on(members: Authors, openings: Sequence[Sequence[int]], until: float, rule: Rule = mix) -> list[list[int]]:
    """The ids that members write after each opening, up to an end of text; none if there is no time for it."""
    if not openings or time.monotonic() > until:
        return []
    denoiser = members[0].model.denoiser
    ends = ends_of_all(member.model.format for member in members)
    ensemble = Ensemble(tuple(member.carrying(member.model.denoiser) for member in members), rule)
    prompts = [[member.model.after(opening) for opening in openings] for member in members]
    blocks: list[Tensor] = []
    config = sampler_config(denoiser, ends, Options(max_tokens=_LENGTH))  # as `ssd generate` samples by default
    for step in sample(ensemble, reverse_process(denoiser.process), prompts, range(len(openings)), config):
        if step.last:
            blocks.append(denoiser.process.tokens(step.canvas).cpu())
        if time.monotonic() > until:
            break
    return [_up_to_end(row, ends) for row in torch.cat(blocks, 1).tolist()] if blocks else []


def _up_to_end(ids: Sequence[int], ends: tuple[int, ...]) -> list[int]:
    return list(ids[: next((place for place, token in enumerate(ids) if token in ends), _LENGTH)])


def _sample(
    tokens: Sequence[int], before: Sequence[int], written: Mapping[str, Sequence[int]], tokenizer: Tokenizer
) -> Sample:
    """The texts of ids; what follows the opening is what a decoder adds to it, so that no character falls apart."""
    opening = whole_characters(tokenizer.decode(list(before)))

    def after(ids: Sequence[int]) -> str:
        return whole_characters(tokenizer.decode([*before, *ids])).removeprefix(opening)

    real = after(tokens[len(before) : len(before) + _LENGTH])
    return Sample(opening, real, {name: after(ids) for name, ids in written.items()})
