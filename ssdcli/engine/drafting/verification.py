"""The block of a causal language model: tokens are drafted, predicted at once, and kept as far as they are drawn."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
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
from ssdcli.engine.sampling.race import Race
from ssdcli.engine.sampling.repetition import Places
from ssdcli.engine.steps import Block, SamplerConfig, Step


def write_block(
    ensemble: Ensemble, process: Masked, block: Block, noise: CounterNoise, config: SamplerConfig, agreement: Agreement
) -> Generator[Step, None, tuple[Tensor, Tensor | None]]:
    """Write a block from the left, several tokens a step where they were drafted well.

    Returns the canvas, and what is known of several ensembles after it (see `Block`).

    Each step asks for a draft, has all of it and the token after it predicted at once, and draws token by token by a
    race whose noise belongs to the place and the token. A drafted token stands if it is the one that is drawn; the
    first that is not is replaced, and ends the step. So every token is the one that is drawn without drafts.

    noise: of the texts. Of the last block only the tokens up to `max_tokens` are written.
    """
    length = config.block_size
    writing = _Writing(ensemble, process, block, Race.of(config.picker, noise, block.number * length), config)
    canvas = torch.full((len(block.ended), length), process.mask_id, device=block.ended.device)
    done, index, known = block.ended, 0, block.known
    while True:
        ahead = writing.drafted(canvas, done, agreement)
        prediction = ensemble.ahead(ahead, block.prefixes, known)
        log_p, tokens = writing.drawn(prediction, ahead)
        taken = _Taken.of(tokens, ahead, config.ends)
        known = ensemble.follow(prediction, tokens, taken.count)
        agreement.learn([row[:count] for row, count in zip(tokens.tolist(), taken.count.tolist(), strict=True)])
        canvas, active = taken.canvas, ~done
        done = done | taken.over | (ahead.first + taken.count >= writing.limit)
        last = bool(done.all())
        yield Step(
            block=block.number,
            index=index,
            t=1.0,
            weights=prediction.weights,
            first=ahead.first,
            by_member=prediction.by_member,
            log_p=log_p,
            canvas=canvas,
            decided=taken.decided,
            active=active,
            last=last,
            drafted=ahead.drafted.clamp(min=0),
            accepted=taken.accepted,
            chances=prediction.chances,
        )
        if last:
            return canvas, known
        index += 1
        if config.over is not None:
            over = torch.tensor(config.over(), device=done.device)
            filler = max(config.ends[0], 0)  # an endless text has no token that ends it
            canvas = torch.where(over[:, None] & (canvas == process.mask_id), filler, canvas)
            done = done | over


@dataclass(frozen=True)
class _Writing:
    """A block that is being written; the fields are as in `write_block`.

    race: how its tokens are drawn.
    """

    ensemble: Ensemble
    process: Masked
    block: Block
    race: Race
    config: SamplerConfig

    @property
    def limit(self) -> int:
        """How many tokens of the block are written."""
        return min(self.config.block_size, self.config.max_tokens - self.block.number * self.config.block_size)

    def drafted(self, canvas: Tensor, done: Tensor, agreement: Agreement) -> Lookahead:
        """What is drafted for the canvases (B, L) of the rows that are not done, (B,) bool."""
        known = (canvas != self.process.mask_id).sum(1)
        room = (self.limit - 1 - known).masked_fill(done, 0)

        def prefix_of(member: int | None) -> Any:
            if member is not None:
                return self.block.prefixes[member]
            return self.block.shared.around(self.block.written, canvas, canvas != self.process.mask_id)

        draft = agreement.draft(canvas, self.race, room.tolist(), prefix_of)
        return Lookahead.of(canvas, draft, done, self.process)

    def drawn(self, prediction: Prediction, ahead: Lookahead) -> tuple[Tensor, Tensor]:
        """What tokens are drawn from, log p (B, C, V), and the tokens (B, C) int64, -1 where none is wanted."""
        rows, numbers = ahead.wanted.nonzero(as_tuple=True)
        places = rows, numbers
        log_p = self._changed(prediction.log_p[places], ahead, places)
        columns = ahead.places[places]
        chosen = self.race.winners(log_p, rows, columns)
        if self.config.characters is not None:
            chosen = self._spelled(chosen, log_p, ahead, places)
        tokens = torch.full_like(ahead.places, -1).index_put_(places, chosen)
        return prediction.log_p.index_put(places, log_p) if self._changes else prediction.log_p, tokens

    @property
    def _changes(self) -> bool:
        """Whether tokens are not drawn from what was predicted."""
        return bool(self.config.copies or self.config.guides) or not self.config.repetition.off

    def _changed(self, log_p: Tensor, ahead: Lookahead, places: Places) -> Tensor:
        """Log p (N, V) at some places of the lookahead, guided, and with less repetition of what is known there."""
        config, rows = self.config, places[0]
        if not self._changes:
            return log_p
        canvases, positions = ahead.canvases()[places], ahead.places[places]
        written = self.block.written[rows]
        before = [torch.cat([text, row[:place]]) for text, row, place in zip(written, canvases, positions, strict=True)]
        if config.guides:
            log_p = torch.stack(
                [guided_next(own, config.guides, text) for own, text in zip(log_p, before, strict=True)]
            )
        if config.copies:
            limits, texts = [config.copies[row] for row in rows.tolist()], [text.tolist() for text in before]
            log_p = torch.stack([forbid(*own) for own in zip(log_p, limits, texts, strict=True)])
        text = self.block.shared.rows(rows).around(written, canvases, canvases != self.process.mask_id)
        return config.repetition.at(log_p, text, (torch.arange(len(rows), device=rows.device), positions))

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
        if not bool(wrong.any()):
            return chosen
        rows, columns = places[0][wrong], ahead.places[places][wrong]
        other = self.race.winners(characters.allowed(log_p[wrong], before[wrong]), rows, columns)
        return chosen.masked_scatter(wrong, other)


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
        final = torch.isin(tokens, torch.tensor(ends, device=tokens.device)) & (columns < count[:, None])
        over = final.any(1)
        count = torch.where(over, final.int().argmax(1) + 1, count)
        column = torch.arange(ahead.canvas.shape[1], device=tokens.device) - ahead.first[:, None]
        decided = (column >= 0) & (column < count[:, None])
        before = torch.where(column < 0, ahead.canvas, ahead.mask_id)
        canvas = torch.where(decided, tokens.gather(1, column.clamp(0, ahead.width - 1)), before)
        canvas = torch.where(over[:, None] & (canvas == ahead.mask_id), ends[0], canvas)
        return cls(canvas, decided, count, torch.minimum(agreed, count), over)
