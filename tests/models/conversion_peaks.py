"""Peak memory of converting mixtures in four files of several sizes. Run as `python conversion_peaks.py FOLDER MIB...`.

Prints one JSON list of peaks in MiB, each of a child process of its own; pages mapped from files count. All experts of
a layer are stacked into two tensors, the larger of more than twice the size of a file, whose parts lie in all files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ssdcli.models.families.llada2 import LLADA2
from ssdcli.models.weights.convert import convert
from tests.models.native_checkpoints import GLM4_MOE, family, save_shards

_FILES = 4
_EXPERT = 3 * 256 * 512 * 2  # bytes: three matrices of bfloat16
_WIDTHS = {"hidden_size": 256, "moe_intermediate_size": 512, "num_hidden_layers": 1, "first_k_dense_replace": 0}


def native(mebibytes: int) -> dict[str, Any]:
    """The configuration of a mixture whose experts fill four files of this size."""
    return GLM4_MOE | _WIDTHS | {"n_routed_experts": round(_FILES * mebibytes * 2**20 / _EXPERT)}


def published(count: int) -> dict[str, torch.Tensor]:
    """So many experts, each matrix of its own; everything else is small."""
    layer, width, inner = "model.layers.0", _WIDTHS["hidden_size"], _WIDTHS["moe_intermediate_size"]
    shapes = {
        "model.word_embeddings.weight": (40, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (40, width),
        f"{layer}.input_layernorm.weight": (width,),
        f"{layer}.post_attention_layernorm.weight": (width,),
        f"{layer}.attention.query_key_value.weight": (64, width),
        f"{layer}.attention.dense.weight": (width, 32),
        f"{layer}.attention.query_layernorm.weight": (8,),
        f"{layer}.attention.key_layernorm.weight": (8,),
        f"{layer}.mlp.gate.weight": (count, width),
        f"{layer}.mlp.gate.expert_bias": (count,),
        f"{layer}.mlp.shared_experts.gate_proj.weight": (inner, width),
        f"{layer}.mlp.shared_experts.up_proj.weight": (inner, width),
        f"{layer}.mlp.shared_experts.down_proj.weight": (width, inner),
    }
    for number in range(count):
        expert = f"{layer}.mlp.experts.{number}"
        shapes |= {f"{expert}.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
        shapes[f"{expert}.down_proj.weight"] = (width, inner)
    return {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}


def in_child(work: Any) -> float:
    """The peak memory of a child process that does this work, in MiB."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peak(folder: Path, mebibytes: int) -> float:
    """The peak memory of a conversion, of which no weight was in this process before."""
    config = native(mebibytes)
    rows = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    in_child(lambda: save_shards(published(config["n_routed_experts"]), folder / "in", _FILES))
    sources = list((folder / "in").iterdir())
    (folder / "out").mkdir()
    return in_child(lambda: convert(sources, folder / "out", family(config, LLADA2.keys), rows))


def main(folder: Path, sizes: list[int]) -> None:
    """Measure one size after the other."""
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps([peak(folder / str(size), size) for size in sizes]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
