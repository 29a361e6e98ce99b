"""Checkpoints as denoisers: backbones, families of public checkpoints, and weights on disk."""
