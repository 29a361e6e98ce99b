"""Bounds on the code length of text: the negative evidence lower bound (NELBO) of the discrete processes."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdcli.engine.process import Process
from ssdcli.evaluation.combinations import Combined, Positions, Score, cross_entropy

NELBO = "NELBO"
DENOISING_LOSS = "denoising loss"

_LOWEST = 1e-6  # the least distance of a level from 0 and 1, where terms of the bound are 0 / 0


def bound_of(process: Process) -> tuple[str, Score]:
    """The name and the score of the tightest measure that a process has: the NELBO where there is one.

    With the masked process's own weights, 1/t at masks, cross-entropy is the NELBO (Sahoo et al., 2024). Text is no
    sample of the simplex process, which has a denoising loss alone.
    """
    if process.name == "uniform":
        return NELBO, uniform_nelbo
    return (NELBO if process.name == "masked" else DENOISING_LOSS), cross_entropy


def uniform_nelbo(combined: Combined, positions: Positions) -> Tensor:
    """The continuous-time NELBO of the uniform process at its linear schedule, alpha = 1 - t: (N,) nats.

    At level t a token is the clean one x with probability alpha + (1 - alpha) / V, else any other: in proportion to
    q_j = 1 + k [j = x] with k = V alpha / t. In reversed time the shown token i jumps to j at the rate of the noise
    times r_j = q_j / q_i if x is known, and times m_j = sum_x p_x r_j by a prediction p. The bound is the divergence
    of one jump process from the other, sum_{j != i} (m_j - r_j + r_j log(r_j / m_j)) / (V alpha), which is zero where
    the prediction has the rates of the truth.

    Campbell et al., "A continuous time framework for discrete denoising models" (2022), with the prediction of the
    clean token of D3PM (Austin et al., 2021): the true posterior, which cross-entropy learns, minimises it.
    """
    p = combined.log_p().double().exp()
    t = positions.levels.double().clamp(_LOWEST, 1 - _LOWEST)
    others, kept = p.shape[-1] - 1, positions.shown == positions.tokens
    k = (others + 1) * (1 - t) / t
    p_shown, p_clean = (p.gather(-1, token[:, None]).squeeze(-1) for token in (positions.shown, positions.tokens))
    # For j != i, r_j is 1 / (1 + k) if x = i, and 1 + k [j = x] if not. So m_j = least + k p_j.
    least = (1 - p_shown) + p_shown / (1 + k)
    # Sums over all j != i: of log m_j (the shown token's own term is taken out again), and of m_j.
    log_m = (least[:, None] + k[:, None] * p).log().sum(-1) - (least + k * p_shown).log()
    predicted = others * least + k * (1 - p_shown)
    # What the bound subtracts from sum m_j: sum (r_j - r_j log r_j + r_j log m_j), for x = i and for x != i.
    where_kept = ((1 + k).log() * others + others + log_m) / (1 + k)
    where_lost = others + k - (1 + k) * k.log1p() + log_m + k * (least + k * p_clean).log()
    return ((predicted - torch.where(kept, where_kept, where_lost)) / ((others + 1) * (1 - t))).float()
