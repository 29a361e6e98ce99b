"""The layers of a registered core in 4 bits, kept on disk: packing them takes as long as importing half of torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ssdcli.models.backbones.packed_linear import FourBits, Matrix, packed_in_4_bits
from ssdcli.registry.disk import make_private, replacing
from ssdcli.registry.manifest import read_manifest
from ssdcli.registry.store import Registry

_MOST = 1 << 30  # bytes that are kept of a core
_MADE_FOR = "made_for"
_PARTS = _LEVELS, _SCALES = "levels", "scales"


@contextmanager
def kept_in_4_bits(folder: Path) -> Iterator[Callable[[str, Matrix], FourBits]]:
    """How the layers of a core are packed: read if that was done before on such a machine, else done, and kept.

    The files of one that is not registered are packed as they are. A file that cannot be read or written only costs
    time.
    """
    registry = Registry()
    if folder.parent != registry.models:
        yield lambda _, matrix: packed_in_4_bits(matrix)
        return
    path, made_for = registry.packed(folder.name), _made_for(folder)
    known, new = _read(path, made_for), {}

    def pack(name: str, matrix: Matrix) -> FourBits:
        if name not in known:
            known[name] = new[name] = packed_in_4_bits(matrix)
        return known[name]

    yield pack
    if new and sum(part.nbytes for both in known.values() for part in both) <= _MOST:
        names = known.items()
        tensors = {f"{name}.{part}": one for name, both in names for part, one in zip(_PARTS, both, strict=True)}
        with suppress(OSError):
            make_private(path.parent)
            with replacing(path) as stream:
                stream.write(save(tensors, {_MADE_FOR: made_for}))


def _made_for(folder: Path) -> str:
    """What the packed form depends on: the core's files, and torch, whose kernels are chosen by the processor."""
    return json.dumps([read_manifest(folder).files, torch.__version__, torch.backends.cpu.get_cpu_capability()])


def _read(path: Path, made_for: str) -> dict[str, FourBits]:
    try:
        with safe_open(path, "pt") as file:
            if file.metadata()[_MADE_FOR] != made_for:
                return {}
            names = {name.rpartition(".")[0] for name in file.keys()}  # noqa: SIM118 - the file is no mapping
            return {
                name: (file.get_tensor(f"{name}.{_LEVELS}"), file.get_tensor(f"{name}.{_SCALES}")) for name in names
            }
    except (OSError, SafetensorError, KeyError, TypeError):
        return {}
