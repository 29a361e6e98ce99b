"""The training objective: all blocks of a sequence are denoised in one pass, each at its own noise level.

With t_i the level of the block of position i and w the process's weight, the loss is

    sum_i w(t_i) CE(x_i | its noised block, the clean blocks before it) / number of positions that count.

For masked noise, w is 1/t at masked positions and 0 elsewhere; the expectation over t is then a bound on the negative
log-likelihood (Sahoo et al., "MDLM", 2024; by blocks: Arriola et al., "Block diffusion", 2025). The levels of a
sequence cover (0, 1) evenly (see `block_levels`), which lowers the variance.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssdcli.engine.blocks import block_levels
from ssdcli.engine.denoiser import denoise_sequence
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Canvas, Process
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.training.cross_entropy import distilled_cross_entropy, head_cross_entropy
from ssdcli.training.teacher import Noised, Teacher


class Objective(nn.Module):
    """A backbone whose forward pass returns its training loss."""

    def __init__(
        self,
        backbone: BlockDiffusionLM,
        process: Process,
        seed: int,
        teacher: Teacher | None = None,
    ) -> None:
        """All noise is a function of `seed` and the sample's index, so that a resumed training repeats it."""
        super().__init__()
        self.backbone = backbone
        self.process = process
        self.seed = seed
        self.teacher = teacher

    def forward(self, columns: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """The mean loss in nats per scored token.

        With a teacher the value is still that of the text, and the gradient that of `distilled_cross_entropy`.

        columns: the fields of `Packed`.
        index: (B,) int64, the numbers of the samples.
        """
        packed, indices = Packed(**columns), index.tolist()
        noise = GeneratorNoise([fold(self.seed, i) for i in indices], index.device)
        t = block_levels(packed.blocks, noise)
        canvas = self.process.corrupt(packed.tokens, t, noise)
        conditioned = self._conditioned_rows(indices, index.device)
        hidden = self._hidden(packed, canvas, t, conditioned)
        weights = (self.process.loss_weights(canvas, t) * packed.scored).reshape(-1)
        due = weights.nonzero().squeeze(1)  # only these positions go through the head
        targets, vocabulary = packed.tokens.reshape(-1)[due], self.backbone.vocabulary
        scored, table = self.backbone.to_rank(hidden).reshape(weights.shape[0], -1)[due], self.backbone.head
        if self.teacher is None:
            total = head_cross_entropy(scored, table, vocabulary.rows(targets), weights[due], vocabulary.muted)
        else:
            soft = self.teacher.targets(Noised(packed, canvas, t), due)
            mixed, plain = distilled_cross_entropy(scored, table, soft, weights[due], vocabulary.muted)
            total = plain + (mixed - mixed.detach())  # the text's value with the mixture's gradient
        return (total - (weights[due] * vocabulary.log_share(targets)).sum()) / packed.scored.sum().clamp(min=1)

    def _conditioned_rows(self, indices: list[int], device: torch.device) -> Tensor:
        """The self-conditioned rows: every second sample (Chen et al., 2022)."""
        rows = [row for row, i in enumerate(indices) if i % 2] if self.process.self_conditioned else []
        return torch.tensor(rows, dtype=torch.int64, device=device)

    def _hidden(self, packed: Packed, canvas: Canvas, t: Tensor, rows: Tensor) -> Tensor:
        """The hidden states of the noised half: (B, T, H).

        The given rows are self-conditioned: a first pass without gradient predicts them, and its prediction is an
        input of the second.
        """
        embedded = self.process.embed(canvas, self.backbone)
        level = t if self.process.timed else None
        previous = None
        if rows.numel():
            with torch.no_grad():
                first_level = None if level is None else level[rows]
                first = denoise_sequence(self.backbone, embedded[rows], packed.rows(rows), first_level)
                prediction = self._embedded_prediction(first)
            previous = torch.zeros_like(embedded).index_copy(0, rows, prediction.to(embedded.dtype))
        return denoise_sequence(self.backbone, embedded, packed, level, previous)

    def _embedded_prediction(self, hidden: Tensor) -> Tensor:
        """The embedding of a first prediction, sequence by sequence to keep the logits small: (b, T, H)."""
        rows = [self.backbone.embed_rows(self.backbone.row_scores(row[None]).softmax(-1)) for row in hidden]
        return torch.cat(rows)
