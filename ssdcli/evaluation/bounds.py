"""What a measure of text is called and how it is scored, as far as the noise process knows."""

from __future__ import annotations

from torch import Tensor

from ssdcli.engine.process import Process
from ssdcli.evaluation.combinations import Combined, Positions, Score, cross_entropy

NELBO = "NELBO"
DENOISING_LOSS = "denoising loss"


def bound_of(process: Process) -> tuple[str, Score]:
    """The name and the score of the tightest measure that a process has: the NELBO where there is one."""
    nelbo = process.nelbo

    def terms(combined: Combined, positions: Positions) -> Tensor:
        assert nelbo is not None
        return nelbo(combined.log_p(), positions.tokens, positions.shown, positions.levels)

    return NELBO if process.bounded else DENOISING_LOSS, cross_entropy if nelbo is None else terms
