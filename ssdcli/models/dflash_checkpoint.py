"""DFlash drafters in the registry: written as they are published, with some rows of their core's table beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ssdcli.errors import SsdError, UsageError
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.dflash import DFlash, DFlashBlocks, DFlashConfig, weights_of
from ssdcli.models.core_config import read_config
from ssdcli.models.general_heads import PROBE, fits, probed
from ssdcli.models.weights.safetensors_stream import AGAIN, StoredTensor, read_safetensors, write_safetensors
from ssdcli.models.weights.stored import weight_files
from ssdcli.registry.manifest import DRAFTER, HEAD, WEIGHTS
from ssdcli.registry.store import Registry

_TABLE = "model.embed_tokens.weight"
_AT_WORK = "_published_drafter"  # an attribute of a core


def drafter_config(config: Mapping[str, Any], core: Path) -> DFlashConfig:
    """What a drafter's config.json says, checked for the core in a folder (SsdError, UsageError if it is another's)."""
    try:
        found = DFlashConfig.of(config)
    except (KeyError, TypeError, ValueError) as error:
        said = f"its config.json lacks {error}" if isinstance(error, KeyError) else str(error)
        raise SsdError(f"this DFlash drafter cannot be run: {said}.", "Name another revision of it.") from error
    own = read_config(core)
    own = {**own, **own.get("text_config", {})}
    sizes = {
        "layers": (found.core_depth, own.get("num_hidden_layers")),
        "numbers a state": (found.size, own.get("hidden_size")),
        "rows of embeddings": (found.vocabulary or own.get("vocab_size"), own.get("vocab_size")),
    }
    for what, (wanted, there) in sizes.items():
        if wanted != there:
            problem = f"the drafter is for a core with {wanted} {what}, and '{core.name}' has {there}."
            raise UsageError(problem, "Name with --for the core that it was published for.")
    if max(found.layers) >= found.core_depth or found.mask >= own["vocab_size"]:
        raise SsdError("the drafter's config.json names a layer or a mask that its core does not have.", AGAIN)
    return found


def write_drafter(sources: Sequence[Path], config: DFlashConfig, core: Path, folder: Path) -> None:
    """Write a drafter's weights, as they are stored, into a folder (SsdError for weights that are not as announced)."""
    tensors: dict[str, StoredTensor] = {}
    for source in sources:
        tensors |= read_safetensors(source)
    announced = weights_of(config)
    for name in sorted(announced.keys() | tensors.keys()):
        there = tensors[name].shape if name in tensors else None
        if there != announced.get(name):
            said = f"{name} should be of shape {announced.get(name)}, and is of {there}"
            raise SsdError(f"the configuration contradicts the weights: {said}.", AGAIN)
    probe = folder / f"{PROBE}.safetensors"
    save_file({PROBE: _probe(core)}, probe)
    write_safetensors(folder / WEIGHTS, {**tensors, **read_safetensors(probe)})
    probe.unlink()


def _probe(core: Path) -> torch.Tensor:
    """The rows of a core's table by which its drafters know it (SsdError if it has none under the usual name)."""
    for path in weight_files(core):
        with safe_open(path, "pt") as file:
            if _TABLE in file.keys():  # noqa: SIM118 - the file is no mapping
                table = file.get_slice(_TABLE)
                return torch.stack([table[row] for row in probed(table.get_shape()[0]).tolist()]).to(torch.bfloat16)
    raise SsdError(f"'{core.name}' has no {_TABLE}, which DFlash drafters read.", "Name another core with --for.")


def published_drafter(core: CausalCore) -> DFlashBlocks | None:
    """The newest pulled drafter that fits a core, at work on it from now on; None if there is none."""
    if _AT_WORK not in vars(core):  # kept with the core, which it holds
        found = next(filter(None, (_read(core, folder) for folder in _folders())), None)
        vars(core)[_AT_WORK] = None if found is None else DFlashBlocks(found, core)
    at_work: DFlashBlocks | None = vars(core)[_AT_WORK]
    return at_work


def _folders() -> list[Path]:
    own = (entry for entry in Registry().entries() if entry.manifest.kind == HEAD)
    drafters = [entry for entry in own if entry.manifest.architecture == DRAFTER]
    return [entry.folder for entry in sorted(drafters, key=lambda entry: entry.manifest.created, reverse=True)]


def _read(core: CausalCore, folder: Path) -> DFlash | None:
    """The drafter of a folder, in the numbers of the core; None for one that does not fit it, or is damaged."""
    try:
        config = DFlashConfig.of(read_config(folder))
        with safe_open(folder / WEIGHTS, "pt") as file:
            if not fits(core, config.layers, file.get_tensor(PROBE)):
                return None
            weights = {name: file.get_tensor(name) for name in weights_of(config)}
        with torch.device("meta"):  # so that no first weights are drawn
            network = DFlash(config)
        network.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, SsdError):
        return None  # a damaged file drafts nothing, and every text is as it would be without it
    dtype = core.embed(torch.zeros(1, 1, dtype=torch.int64, device=core.device)).dtype
    return network.to(core.device, dtype).eval().requires_grad_(False)
