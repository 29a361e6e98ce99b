"""How well a trained model predicts its held-out text: alone, and with its core at every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssdcli.engine.denoiser import Denoiser
from ssdcli.errors import SsdError
from ssdcli.evaluation.canvases import CanvasSettings, Reader, measure_canvases
from ssdcli.evaluation.losses import Losses, LossSettings, Passage, measure
from ssdcli.evaluation.sweep import GRID, best_weight
from ssdcli.models.backbone import BlockDiffusionLM
from ssdcli.models.loading import load_model, make_denoiser
from ssdcli.models.placement import Placement
from ssdcli.pipeline.prepare import Parent, Prepared
from ssdcli.training.settings import DEFAULT_MINUTES, TrainSettings


@dataclass(frozen=True)
class Measured:
    """Losses on held-out text.

    losses: where a weight was chosen, the columns are the small model's weights from 0, the core alone, to 1; else the
    single column is the trained model alone. weight: the best of those in (0, 1].
    """

    losses: Losses
    weight: float | None


def measuring_seconds(settings: TrainSettings) -> float:
    """The part of the time of a training, in seconds, that is kept for measuring and registering at the end."""
    return min(30.0, max(3.0, 0.05 * 60 * (settings.minutes or DEFAULT_MINUTES)))


def measure_trained(prepared: Prepared, model: BlockDiffusionLM, passages: Sequence[Passage]) -> Measured:
    """Measure a trained model, and find its weight if its core can be run here in the time there is."""
    parent = prepared.parent
    with_core = None if parent is None else _with_core(parent, prepared, model, passages)
    if with_core is not None:
        return Measured(with_core, best_weight(with_core))
    alone = measure([model], prepared.process, passages, [1.0], LossSettings(model.config.context))
    return Measured(alone, None)


def _with_core(
    parent: Parent, prepared: Prepared, model: BlockDiffusionLM, passages: Sequence[Passage]
) -> Losses | None:
    """Losses over the grid of weights; None if the core cannot be run, or is too slow for the time there is."""
    try:
        core = load_model(parent.entry.folder, Placement(), model.block_size)
    except SsdError:
        return None
    if isinstance(core, BlockDiffusionLM):
        settings = LossSettings(min(model.config.context, core.config.context))
        return measure((core, model), prepared.process, passages, GRID, settings)
    manifest = parent.entry.manifest
    begin = prepared.end if manifest.begin is None else manifest.begin
    readers = [
        Reader(make_denoiser(core, manifest.attention, prepared.process), begin),
        Reader(Denoiser(model, prepared.process), prepared.end),
    ]
    return measure_canvases(readers, passages, GRID, CanvasSettings(measuring_seconds(prepared.settings)))
