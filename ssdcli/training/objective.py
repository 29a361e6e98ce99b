"""The training objective: all blocks of a sequence denoised in one pass, each at its own noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssdcli.engine.blocks import block_ids, block_levels
from ssdcli.engine.denoiser import denoise_sequence
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, fold
from ssdcli.engine.process import Process
from ssdcli.models.backbone import BlockDiffusionLM
from ssdcli.training.crossentropy import head_cross_entropy
from ssdcli.training.infill import Infilling, Reading

_GAPS = 1  # the word that names a sample's draws for its gap, so that its noise is the same with and without one


class Objective(nn.Module):
    """A backbone that returns its own training loss."""

    def __init__(
        self, backbone: BlockDiffusionLM, process: Process, seed: int, infilling: Infilling | None = None
    ) -> None:
        """All randomness is a function of `seed` and a sample's index, so that a resumed run repeats it."""
        super().__init__()
        self.backbone = backbone
        self.process = process
        self.seed = seed
        self.infilling = infilling

    def forward(self, tokens: Tensor, index: Tensor) -> Tensor:
        """Mean loss per token in nats: tokens (B, T) int64, index (B,) int64 names the samples."""
        indices = index.tolist()
        noise = GeneratorNoise([fold(self.seed, i) for i in indices], tokens.device)
        reading = self._read(tokens, indices, noise)
        t = block_levels(reading.blocks, noise)
        canvas = self.process.corrupt(reading.tokens, t, noise)
        listeners = self._listeners(indices, tokens.device)
        hidden = self._hidden(reading, canvas, t, listeners)
        weights = (self.process.loss_weights(canvas, t) * reading.counted).reshape(-1)
        due = weights.nonzero().squeeze(1)  # only noised positions go through the head
        targets, vocabulary = reading.tokens.reshape(-1)[due], self.backbone.vocabulary
        total = head_cross_entropy(
            self.backbone.to_rank(hidden).reshape(weights.shape[0], -1)[due],
            self.backbone.table,
            vocabulary.rows(targets),
            weights[due],
            vocabulary.muted,
        )
        return (total - (weights[due] * vocabulary.log_share(targets)).sum()) / tokens.numel()

    def _read(self, tokens: Tensor, indices: list[int], noise: GeneratorNoise) -> Reading:
        """The samples in blocks, the first of which may be short, and with gaps if the model is to fill any."""
        size = self.backbone.block_size
        offsets = (noise.uniform(1)[:, 0] * size).long()
        blocks = block_ids(tokens.shape[1], size, offsets)
        if self.infilling is None:
            return Reading.plain(tokens, blocks)
        gap_noise = CounterNoise([fold(self.seed, i, _GAPS) for i in indices], tokens.device)
        return self.infilling.read(tokens, blocks, size, gap_noise)

    def _listeners(self, indices: list[int], device: torch.device) -> Tensor:
        """The rows that hear their own first prediction: every second sample (Chen et al., 2022)."""
        rows = [row for row, i in enumerate(indices) if i % 2] if self.process.hears_itself else []
        return torch.tensor(rows, dtype=torch.int64, device=device)

    def _hidden(self, reading: Reading, canvas: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Hidden states of the noised half: (B, T, H)."""
        embedded = self.process.embed(canvas, self.backbone)
        clean = self.backbone.embed(reading.tokens)
        blocks = reading.blocks
        level = t if self.process.timed else None
        heard = None
        if rows.numel():
            with torch.no_grad():
                first_level = None if level is None else level[rows]
                first = denoise_sequence(self.backbone, embedded[rows], clean[rows], blocks[rows], (first_level, None))
                echo = self._echo(first)
            heard = torch.zeros_like(embedded).index_copy(0, rows, echo.to(embedded.dtype))
        return denoise_sequence(self.backbone, embedded, clean, blocks, (level, heard))

    def _echo(self, hidden: Tensor) -> Tensor:
        """Embedding of the first prediction, sequence by sequence to keep the logits small: (b, T, H)."""
        rows = [self.backbone.embed_rows(self.backbone.row_scores(row[None]).softmax(-1)) for row in hidden]
        return torch.cat(rows)
