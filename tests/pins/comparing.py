"""What was found held against what is pinned: to the bit, or as closely as two types of CPU agree."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

_OLD_NAMES = {"self_conditioning.weight": "listen.weight"}  # of tensors: today's name, and the pinned one
ONLY_EXACT = "sha256"  # the key of what nothing but the same type of machine can repeat
# Tolerances of what little rounding moves far: numbers that are fitted in a flat valley, and those that grow from zero
# by the signs of small gradients; by the parts of their keys.
_LOOSE = {"gate": 0.3, "lora_B": 0.05}


def differences(pinned: Any, found: Any, tolerance: float = 0.0, place: str = "") -> list[str]:
    """Where `found` is not what is pinned; of tables the pinned keys count alone.

    tolerance: relative, of numbers that are not whole; 0 compares exactly.
    """
    if isinstance(pinned, dict) and isinstance(found, dict):
        lines = []
        for key, value in pinned.items():
            if key not in found:
                lines.append(f"{place}/{key}: it is not there")
            elif not (tolerance and key == ONLY_EXACT):
                loose = [bound for part, bound in _LOOSE.items() if tolerance and part in key.split(".")]
                lines += differences(value, found[key], max([tolerance, *loose]), f"{place}/{key}")
        return lines
    if isinstance(pinned, list) and isinstance(found, list):
        if len(pinned) != len(found):
            return [f"{place}: {len(found)} instead of {len(pinned)}"]
        pairs = enumerate(zip(pinned, found, strict=True))
        return [line for n, (one, other) in pairs for line in differences(one, other, tolerance, f"{place}/{n}")]
    if tolerance and isinstance(pinned, float) and isinstance(found, (int, float)):
        same = math.isclose(pinned, found, rel_tol=tolerance, abs_tol=tolerance * 1e-2)
    else:
        same = type(pinned) is type(found) and pinned == found
    return [] if same else [f"{place}: {_shown(found)} instead of {_shown(pinned)}"]


def plain(found: Any) -> Any:
    """The same as JSON gives it back."""
    return json.loads(json.dumps(found))


def weights(file: Path) -> dict[str, Any]:
    """Digest of a file of tensors under the names that they had when pinned, and statistics that bear rounding."""
    import torch
    from safetensors.torch import load_file, save

    tensors = {_OLD_NAMES.get(name, name): tensor for name, tensor in load_file(file).items()}
    statistics = {}
    for name, tensor in sorted(tensors.items()):
        flat = tensor.double().flatten()
        size = flat.abs().sum()
        ramp = torch.linspace(0, 1, len(flat), dtype=torch.float64)
        # Beside the size, so that sums of numbers of both signs are held to what rounding can do to them.
        statistics[name] = [len(flat), *(float(one) for one in (size, size + flat.sum(), size + flat @ ramp))]
    digest = hashlib.sha256(save(tensors, {"format": "pt"})).hexdigest()
    return {"sha256": digest, "tensors": statistics}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
