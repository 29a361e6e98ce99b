"""A larger core that says the same: its feed-forward layers are wider by units that add nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.lib.models import Model
from ssdcli.registry.manifest import CONFIG, FILE, WEIGHTS, write_manifest
from ssdcli.registry.store import Registry

_SPREAD = 0.05  # of random weights


def widened(core: Model, times: int, registry: Registry) -> Model:
    """Register a core like SmolLM2 in bfloat16, whose feed-forward layers are `times` as wide, under a name of its own.

    Of each new unit the gate or the other factor is zero. Its other weights are random, so that no grid of 4 bits holds
    them, as those of most cores.
    """
    name, random = f"{core.name}-x{times}", torch.Generator().manual_seed(0)
    with registry.stage(name, overwrite=True) as folder:
        shutil.copytree(core.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(FILE, WEIGHTS))
        weights = {key: _wider(key, each, times, random) for key, each in load_file(core.folder / WEIGHTS).items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config["intermediate_size"] *= times
        (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        size = sum(each.numel() for each in weights.values())
        write_manifest(folder, replace(core.manifest, name=name, parameters=size, files={}))
    return Model.named(name, registry)


def _wider(name: str, weight: Tensor, times: int, random: torch.Generator) -> Tensor:
    """A weight of the wider core."""
    weight = weight.bfloat16()
    if ".mlp." not in name:
        return weight.contiguous()
    down = "down_proj" in name
    rows, columns = weight.T.shape if down else weight.shape
    new = _SPREAD * torch.randn((times - 1) * rows, columns, generator=random).bfloat16()
    if not down:
        new["up_proj" in name :: 2] = 0
    return torch.cat([new.T, weight], 1) if down else torch.cat([new, weight])


def adopted(small: Model, core: Model, registry: Registry) -> Model:
    """A small model of another core that says the same as its own."""
    name = f"{small.name}-{core.name}"
    with registry.stage(name, overwrite=True) as folder:
        shutil.copytree(small.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(FILE))
        own = replace(small.manifest, name=name, core=core.name, base_weights=core.manifest.weights_digest, files={})
        write_manifest(folder, own)
    return Model.named(name, registry)
