"""The block of a causal language model: tokens are drafted, predicted at once, and kept as far as they are drawn."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafting import Agreement
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.ensemble.ensemble import Ensemble, Prediction
from ssdcli.engine.ensemble.guidance import guided_next
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.sampling.copying import forbid
from ssdcli.engine.sampling.nucleus import readable, sent
from ssdcli.engine.sampling.race import Race
from ssdcli.engine.sampling.repetition import Places, places_of
from ssdcli.engine.sampling.stopping import Quorum
from ssdcli.engine.steps import Block, SamplerConfig, Step


def write_block(
    ensemble: Ensemble,
    process: Masked,
    block: Block,
    noise: CounterNoise,
    config: SamplerConfig,
    agreement: Agreement | None,
) -> Generator[Step, None, tuple[Tensor, Tensor | None]]:
    """Write a block from the left, several tokens a step where they were drafted well.

    Returns the canvas, and what is known of several ensembles after it (see `Block`).

    Each step asks for a draft, has all of it and the token after it predicted at once, and draws token by token by a
    race whose noise belongs to the place and the token. A drafted token stands if it is the one that is drawn; the
    first that is not is replaced, and ends the step. So every token is the one that is drawn without drafts.

    On a GPU the host reads nothing within a block in which nothing is drafted, and never waits: it learns in the
    background that all rows are done, and asks `config.over` between blocks alone. It still waits at each step for
    guides and copy limits, which read the text, for members that are computed on the host, such as memories, and where
    the caller reads the steps. With drafts it waits once a step, to learn what became of one before the next.

    noise: of the texts. Of the last block only the tokens up to `max_tokens` are written.
    agreement: what drafts; None where nothing is drafted.
    """
    writing = _Writing(ensemble, process, block, noise, config)
    canvas = torch.full((len(block.ended), config.block_size), process.mask_id, device=block.ended.device)
    done, index, known, quorum = block.ended, 0, block.known, Quorum()
    drafts = None if agreement is None else _Drafts(agreement, writing, canvas.cpu(), done.cpu())
    while True:
        draft = canvas.new_empty(len(canvas), 0) if drafts is None else sent(drafts.next(), canvas.device)
        ahead = Lookahead.of(canvas, draft, done, process)
        prediction = ensemble.ahead(ahead, block.prefixes, known)
        log_p, tokens = writing.drawn(prediction, ahead)
        taken = _Taken.of(tokens, ahead, config.ends)
        known = ensemble.follow(prediction, tokens, taken.count)
        canvas, active = taken.canvas, ~done
        done = done | taken.over | (ahead.first + taken.count >= writing.limit)
        if drafts is None:
            last = index + 1 == writing.limit or quorum.reached(done)
        else:
            drafts.learn(taken, tokens, done)
            last = bool(drafts.done.all())
        told = prediction.weights, ahead.first, prediction.by_member, log_p, canvas, taken.decided, active, last
        drafted = ahead.drafted.clamp(min=0)
        yield Step(block.number, index, 1.0, *told, drafted, taken.accepted, prediction.chances)
        if last:
            return canvas, known
        index += 1
        if config.over is not None and readable(done):
            over = torch.tensor(config.over())
            filler = max(config.ends[0], 0)  # an endless text has no token that ends it
            canvas = torch.where(over[:, None] & (canvas == process.mask_id), filler, canvas)
            done = done | over
            if drafts is not None:
                drafts.done = done


@dataclass(frozen=True)
class _Writing:
    """A block that is being written; the fields are as in `write_block`."""

    ensemble: Ensemble
    process: Masked
    block: Block
    noise: CounterNoise
    config: SamplerConfig

    @property
    def start(self) -> int:
        """The place of the block's first token in the text."""
        return self.block.number * self.config.block_size

    @property
    def limit(self) -> int:
        """How many tokens of the block are written."""
        return min(self.config.block_size, self.config.max_tokens - self.start)

    @cached_property
    def race(self) -> Race:
        """How its tokens are drawn."""
        return Race.of(self.config.picker, self.noise, self.start)

    def drawn(self, prediction: Prediction, ahead: Lookahead) -> tuple[Tensor, Tensor]:
        """What tokens are drawn from, log p (B, C, V), and the tokens (B, C) int64, anything where none is wanted."""
        places = self._places(ahead.wanted)
        log_p = self._changed(prediction.log_p[places], ahead, places)
        columns = ahead.places[places]
        chosen = self.race.winners(log_p, places[0], columns)
        if self.config.characters is not None:
            chosen = self._spelled(chosen, log_p, ahead, places)
        tokens = torch.full_like(ahead.places, -1).index_put_(places, chosen)
        return prediction.log_p.index_put(places, log_p) if self._changes else prediction.log_p, tokens

    def _places(self, wanted: Tensor) -> Places:
        """Where tokens are drawn: at the positions (B, C) bool that are wanted, and no others where texts are read."""
        if not self._reads_texts:
            return places_of(wanted)
        rows, columns = wanted.nonzero(as_tuple=True)
        return rows, columns

    @property
    def _reads_texts(self) -> bool:
        """Whether the host reads what stands before each place."""
        return bool(self.config.copies or self.config.guides)

    @property
    def _changes(self) -> bool:
        """Whether tokens are not drawn from what was predicted."""
        return self._reads_texts or not self.config.repetition.off

    def _changed(self, log_p: Tensor, ahead: Lookahead, places: Places) -> Tensor:
        """Log p (N, V) at some places of the lookahead, guided, and with less repetition of what is known there."""
        config, rows = self.config, places[0]
        if not self._changes:
            return log_p
        canvases, positions = ahead.canvases()[places], ahead.places[places]
        written = self.block.written[rows]
        if self._reads_texts:
            pairs = zip(written, canvases, positions.tolist(), strict=True)
            before = [torch.cat([text, row[:place]]) for text, row, place in pairs]
            log_p = self._limited(log_p, before, rows)
        text = self.block.shared.rows(rows).around(written, canvases, canvases != self.process.mask_id)
        return config.repetition.at(log_p, text, (torch.arange(len(rows), device=rows.device), positions))

    def _limited(self, log_p: Tensor, before: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Log p (N, V) after these texts, of these rows (N,), guided, and without copies that are too long."""
        guides, copies = self.config.guides, self.config.copies
        if guides:
            log_p = torch.stack([guided_next(own, guides, text) for own, text in zip(log_p, before, strict=True)])
        if copies:
            limits, texts = [copies[row] for row in rows.tolist()], [text.tolist() for text in before]
            log_p = torch.stack([forbid(*own) for own in zip(log_p, limits, texts, strict=True)])
        return log_p

    def _spelled(self, chosen: Tensor, log_p: Tensor, ahead: Lookahead, places: Places) -> Tensor:
        """The chosen tokens (N,), with others where they would make bytes that are no UTF-8."""
        characters = self.config.characters
        assert characters is not None
        state, states = self.block.spelled, []
        for column in ahead.canvas.T:
            states.append(state)
            state = characters.after(column[:, None].where(column[:, None] != self.process.mask_id, 0), state)
        before = torch.stack(states, dim=1)[places[0], ahead.places[places]]
        wrong = characters.following[before, chosen] < 0
        (here,) = wrong.nonzero(as_tuple=True) if readable(wrong) else (torch.arange(len(wrong), device=wrong.device),)
        if not len(here):
            return chosen
        rows, columns = places[0][here], ahead.places[places][here]
        other = self.race.winners(characters.allowed(log_p[here], before[here]), rows, columns)
        return torch.where(wrong, chosen.index_put((here,), other), chosen)


class _Drafts:
    """Drafts for the rows of a block; what drafters are shown is on the CPU.

    done: the rows that nothing more is drafted for, (B,) bool.
    """

    def __init__(self, agreement: Agreement, writing: _Writing, canvas: Tensor, done: Tensor) -> None:
        """Begin with an empty canvas (B, L)."""
        block, config = writing.block, writing.config
        self.done = done
        self._canvas = canvas
        self._agreement = agreement
        self._limit, self._mask_id, self._prefixes = writing.limit, writing.process.mask_id, block.prefixes
        self._race = Race.of(config.picker, writing.noise.on("cpu"), writing.start)
        self._shared, self._written = block.shared.on("cpu"), block.written.cpu()

    def next(self) -> Tensor:
        """What is drafted behind the known tokens: (B, k) int64, -1 from where on there is none."""
        room = (self._limit - 1 - (self._canvas != self._mask_id).sum(1)).masked_fill(self.done, 0)
        return self._agreement.draft(self._canvas, self._race, room.tolist(), self._prefix_of)

    def _prefix_of(self, member: int | None) -> Any:
        """What a member has read before the block; for None all that is known of the text."""
        if member is not None:
            return self._prefixes[member]
        return self._shared.around(self._written, self._canvas, self._canvas != self._mask_id)

    def learn(self, taken: _Taken, tokens: Tensor, done: Tensor) -> None:
        """Judge the latest drafts by the tokens (B, C) that were drawn; done: as above, on the block's device."""
        told = torch.cat([taken.count[:, None], done[:, None].long(), taken.canvas, tokens], dim=1).cpu()
        count, done, self._canvas, tokens = told.tensor_split((1, 2, 2 + self._canvas.shape[1]), dim=1)
        self.done = done[:, 0].bool()
        drawn = zip(tokens.tolist(), count[:, 0].tolist(), strict=True)
        self._agreement.learn([row[:taken_over] for row, taken_over in drawn])


@dataclass(frozen=True)
class _Taken:
    """What canvases took over of the tokens that were drawn.

    canvas: (B, L) int64; after an end of text it is filled up with ends.
    decided: the positions that got their token, (B, L) bool.
    count: how many these are, (B,) int64.
    accepted: how many of them were drafted, (B,) int64.
    over: the rows whose text has ended, (B,) bool.
    """

    canvas: Tensor
    decided: Tensor
    count: Tensor
    accepted: Tensor
    over: Tensor

    @classmethod
    def of(cls, tokens: Tensor, ahead: Lookahead, ends: tuple[int, ...]) -> _Taken:
        """Take the drawn tokens (B, C) up to the first that was drafted otherwise, or to an end of text."""
        columns = torch.arange(ahead.width, device=tokens.device)
        same = (tokens == ahead.canvas.gather(1, ahead.places)) & (columns < ahead.drafted[:, None])
        agreed = same.long().cumprod(1).sum(1)
        count = torch.where(ahead.drafted < 0, 0, agreed + 1)
        final = torch.isin(tokens, sent(torch.tensor(ends), tokens.device)) & (columns < count[:, None])
        over = final.any(1)
        count = torch.where(over, final.int().argmax(1) + 1, count)
        column = torch.arange(ahead.canvas.shape[1], device=tokens.device) - ahead.first[:, None]
        decided = (column >= 0) & (column < count[:, None])
        before = torch.where(column < 0, ahead.canvas, ahead.mask_id)
        canvas = torch.where(decided, tokens.gather(1, column.clamp(0, ahead.width - 1)), before)
        canvas = torch.where(over[:, None] & (canvas == ahead.mask_id), ends[0], canvas)
        return cls(canvas, decided, count, torch.minimum(agreed, count), over)
