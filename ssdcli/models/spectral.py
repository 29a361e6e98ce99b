"""Token geometry handed down: a small model's embedding table from its core's, by truncated SVD."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM


def inherit_embeddings(model: BlockDiffusionLM, embeddings: Tensor) -> None:
    """Start `model`'s table as the best approximation of the core's embeddings (n, H) at its rank, in place.

    The core's matrix E = U S W^T (n x H) becomes U_r S_r (n x r): inner products between tokens are kept as well as
    r dimensions can (Eckart and Young, 1936). Directions are free, so that W is dropped where the widths differ. The
    scale is that of the fresh table: a trained core's rows are longer, and such a head starts certain and wrong.
    """
    with torch.no_grad():
        table = truncated(embeddings, model.config.rank)
        model.table.copy_(table * (model.table.norm() / table.norm()))


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """Coordinates of the rows of `matrix` (V, H) in their r principal directions: (V, r), r <= H."""
    return matrix if rank == matrix.shape[1] else matrix @ directions(matrix, rank)


def directions(matrix: Tensor, rank: int) -> Tensor:
    """The r principal directions of the rows of `matrix` (V, H): (H, r), r <= H."""
    # Eigenvectors of the H x H Gram matrix: no V x V factor, and H is small.
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    order = values.argsort(descending=True)[:rank]
    kept: Tensor = vectors[:, order]
    return kept
