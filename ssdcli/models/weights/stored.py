"""What the files of a registered core say of its weights, without reading these."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ssdcli.machine.placement import Need
from ssdcli.models.core_config import completed, native_part
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.packable import is_packable, shapes
from ssdcli.registry.manifest import FILE, read_manifest

_STORED = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_TABLE = "model.embed_tokens.weight"
_KEYS = re.compile(r"\.k_proj\.weight$")


def weight_files(folder: Path) -> list[Path]:
    """The files of a core's weights."""
    return sorted(folder.glob("*.safetensors"))


def stored_dtype(folder: Path) -> str:
    """The dtype that most numbers in a folder's safetensors have."""
    counts: Counter[str] = Counter()
    for _, dtype, shape in _tensors(folder):
        counts[dtype] += math.prod(shape)
    return _STORED[counts.most_common(1)[0][0]]


def kept_dtype(folder: Path) -> str:
    """The dtype that loses nothing of a core: the stored one, but bfloat16 where a GGUF of fewer bits became float32.

    What bfloat16 changes in such weights is too little to be measured (docs/lab/core-speed.md).
    """
    stored = stored_dtype(folder)
    source = read_manifest(folder).source if (folder / FILE).exists() else None
    from_gguf = source is not None and source.partition("@")[0].endswith(".gguf")
    return "bfloat16" if stored == "float32" and from_gguf else stored


def core_need(folder: Path, config: Mapping[str, Any], spec: CoreSpec) -> Need:
    """What a registered core needs; config: the content of its config.json. SsdError if its class cannot be built."""
    if spec.attention == "autoregressive" and is_packable(config):
        return packed_need({name: shape for name, _, shape in _tensors(folder)}, kept_dtype(folder), spec)
    return announced_need(native_part(config), kept_dtype(folder), spec)


def announced_need(native: Mapping[str, Any], stored: str, spec: CoreSpec) -> Need:
    """The same for weights that are not here yet, by a native configuration."""
    if spec.attention == "autoregressive" and is_packable(native):
        return packed_need(_announced(native), stored, spec)
    from ssdcli.models.weights.blueprint import blueprint  # it imports transformers, which takes seconds
    from ssdcli.models.weights.pretrained import need_of

    return need_of(blueprint(native), stored, spec.block_size, spec.cached_tokens)


def _announced(native: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a packable class by a native configuration, which may lack what is usual."""
    try:
        return shapes(native)
    except KeyError:
        return shapes(completed(native))


def packed_need(shapes: Mapping[str, Sequence[int]], stored: str, spec: CoreSpec) -> Need:
    """What a causal core whose layers are packed needs, as `need_of` says, by the names and shapes of its tensors.

    stored: the dtype of its files.
    """
    layers: Counter[str] = Counter()
    total = linear = keys = 0
    for name, shape in shapes.items():
        size, layer = math.prod(shape), _LAYER.search(name)
        total += size
        if layer is not None:
            layers[layer[1]] += size
            linear += size if len(shape) == 2 else 0
            keys += shape[0] if _KEYS.search(name) else 0
    return Need(
        parameters=total,
        linear=linear,
        pinned=total - layers.total(),
        layer=max(layers.values()),
        stored=stored,
        predictions=shapes[_TABLE][0] * spec.block_size,
        cache=spec.cached_tokens * 2 * keys,
        packs=True,
    )


def _tensors(folder: Path) -> Iterator[tuple[str, str, list[int]]]:
    """The name, the stored dtype and the shape of each tensor."""
    for path in weight_files(folder):
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                part = file.get_slice(name)
                yield name, part.get_dtype(), part.get_shape()
