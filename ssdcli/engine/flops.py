"""Estimated floating point operations: two for each multiply-add of a matrix product, none for anything else."""

from __future__ import annotations

from dataclasses import dataclass

from ssdcli.engine.process import Process


@dataclass(frozen=True)
class Sizes:
    """How many multiply-adds a token takes in the parts of a backbone.

    body: the matrices of all layers.
    attention: the width of all heads of all layers, which is what it takes to score a key, and again to add up its
        value.
    table: V x r, once for the head and once for a mixture of embeddings.
    lift: r x H, between the table and the body.
    time: the noise level's way in.
    self_conditioning: the previous prediction's way in, besides its mixture of embeddings; None for a model without.
    """

    body: int
    attention: int
    table: int
    lift: int = 0
    time: int = 0
    self_conditioning: int | None = None

    def reading(self, tokens: int, seen: int) -> int:
        """FLOPs of embedding tokens and running the body over them, when each sees all of them and `seen` others."""
        return 2 * tokens * (self.lift + self.body + 2 * self.attention * (seen + tokens))

    def denoising(self, tokens: int, process: Process) -> int:
        """FLOPs that a canvas takes beyond `reading`: a mixture of embeddings, conditioning and the head."""
        mixture = self.table if process.mixes else 0
        level = self.time if process.timed else 0
        conditioned = process.self_conditioned and self.self_conditioning is not None
        previous = self.table + self.lift + (self.self_conditioning or 0) if conditioned else 0
        return 2 * tokens * (mixture + level + previous + self.lift + self.table)
