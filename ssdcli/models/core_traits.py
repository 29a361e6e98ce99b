"""What a core dictates to the small models that are made for it, read without loading the core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY
from ssdcli.models.native_checkpoint import input_embeddings
from ssdcli.registry.manifest import REMOTE, read_manifest

_DRAWN = 256  # dimensions of embeddings that are not known


@dataclass(frozen=True)
class CoreTraits:
    """What small models take over from their core.

    embeddings: of the clean tokens, (V, H) float32; the mean of all for an id that has no row in the core's table.
    suppressed: ids that are never text.
    """

    embeddings: Tensor
    suppressed: tuple[int, ...]


def read_core_traits(folder: Path) -> CoreTraits:
    """The traits of a registered core, made here or pulled; SsdError if it cannot be read.

    The embeddings of a core on another machine are not known: they are drawn, and say nothing.
    """
    config = read_config(folder)
    if REMOTE in config:
        drawn = torch.randn(read_manifest(folder).vocabulary, _DRAWN, generator=torch.Generator().manual_seed(0))
        return CoreTraits(drawn, tuple(config[KEY]["suppressed"]))
    if KEY in config:
        rows = resized(input_embeddings(folder, config), read_manifest(folder).vocabulary)
        return CoreTraits(rows, tuple(config[KEY]["suppressed"]))
    core = load_backbone(folder)
    everything = torch.arange(core.config.vocabulary)
    return CoreTraits(core.embed(everything[None])[0], core.config.suppressed)


def resized(table: Tensor, rows: int) -> Tensor:
    """The first rows of a table; missing ones are the mean of all rows (Hewitt, 2021)."""
    return torch.cat([table[:rows], table.mean(0).expand(max(0, rows - len(table)), -1)])


def inherit_embeddings(model: BlockDiffusionLM, embeddings: Tensor) -> None:
    """Initialise a model's table, in place, with the best approximation of the core's embeddings (n, H) at its rank.

    The core's matrix E = U S W^T (n x H) becomes U_r S_r (n x r): inner products between tokens are kept as well as
    r dimensions can (Eckart and Young, 1936). A rotation of the rows changes none of them, so W is dropped where the
    widths differ. The scale is that of the fresh table: a trained core's rows are longer, and a head of that scale
    would start out certain and wrong.
    """
    with torch.no_grad():
        table = truncated(embeddings, model.config.rank)
        model.table.copy_(table * (model.table.norm() / table.norm()))


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """Coordinates of the rows of `matrix` (V, H) in their r principal directions: (V, r), r <= H."""
    return matrix if rank == matrix.shape[1] else matrix @ directions(matrix, rank)


def directions(matrix: Tensor, rank: int) -> Tensor:
    """The r principal directions of the rows of `matrix` (V, H): (H, r), r <= H."""
    # The eigenvectors of E^T E (H x H) are W, the right singular vectors; unlike an SVD, this makes no V x H factor.
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    order = values.argsort(descending=True)[:rank]
    kept: Tensor = vectors[:, order]
    return kept
