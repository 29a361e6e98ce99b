"""General draft heads: each learned from general text to guess what one core predicts a few tokens on.

They come with the package, or `ssd train-small --draft-head` has made and registered them.

A head fits every core that was made from the same weights, however they are stored or were trained further: it is
recognised by a few rows of the core's table. A head that fits badly drafts badly, and changes no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.draft_head import DraftHead, DraftingCore
from ssdcli.registry.manifest import HEAD, WEIGHTS
from ssdcli.registry.store import Registry

FOLDER = Path(__file__).parents[1] / "bundled" / "draft_heads"
_PROBES = 64  # rows of the core's table that are compared
_ALIKE = 0.98  # their mean cosine
_LAYERS, PROBE = "layers", "probe"
_AT_WORK = "_general_guesses"  # an attribute of a core


def general_head(core: CausalCore, files: Sequence[Path] | None = None) -> tuple[DraftHead, tuple[int, ...]] | None:
    """The first head that fits a core and the layers that it reads beside the last, if there is one.

    files: where they are sought; by default the user's own, the newest first, and then those of the package.
    """
    for path in _files() if files is None else files:
        try:
            found = _read_head(core, path)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
            continue  # a damaged file drafts nothing, and every text is as it would be without it
        if found is None:
            continue
        head, layers = found
        return head.float().to(core.device).eval().requires_grad_(False), layers
    return None


def _read_head(core: CausalCore, path: Path) -> tuple[DraftHead, tuple[int, ...]] | None:
    """The head of a file and the layers that it reads; None for one that does not fit the core."""
    with safe_open(path, "pt") as file:
        layers = tuple(map(int, file.metadata()[_LAYERS].split()))
        if not fits(core, layers, file.get_tensor(PROBE)):
            return None
        weights = {name: file.get_tensor(name) for name in file.keys() if name != PROBE}  # noqa: SIM118
    with torch.device("meta"):  # so that no first weights are drawn
        head = DraftHead(core.width, 1 + len(layers), weights["ids"])
    head.load_state_dict(weights, assign=True)
    return head, layers


def general_guesses(core: CausalCore) -> DraftingCore | None:
    """That head at work on the core, whose states hold from now on what it reads."""
    if _AT_WORK not in vars(core):  # kept with the core, which it holds
        found = general_head(core)
        reads = found is not None and core.taps in ((), found[1])
        if found is not None and reads:
            core.tap(found[1])
        vars(core)[_AT_WORK] = DraftingCore(found[0], core) if found is not None and reads else None
    at_work: DraftingCore | None = vars(core)[_AT_WORK]
    return at_work


def save_general_head(head: DraftHead, layers: tuple[int, ...], core: CausalCore, path: Path) -> None:
    """Write a head as `general_head` finds it."""
    weights = {
        name: value.detach().to("cpu", torch.bfloat16 if value.is_floating_point() else None).contiguous()
        for name, value in head.state_dict().items()
    }
    probe = _rows(core).to("cpu", torch.bfloat16).contiguous()
    save_file({**weights, PROBE: probe}, path, {_LAYERS: " ".join(map(str, layers))})


def _files() -> list[Path]:
    made = DraftHead.__name__
    own = (e for e in Registry().entries() if e.manifest.kind == HEAD and e.manifest.architecture == made)
    newest = sorted(own, key=lambda entry: entry.manifest.created, reverse=True)
    return [*(entry.folder / WEIGHTS for entry in newest), *sorted(FOLDER.glob("*.safetensors"))]


def fits(core: CausalCore, layers: tuple[int, ...], probe: Tensor) -> bool:
    """Whether a core has these layers, and in its table the rows of `probed`, as they were."""
    if core.width != probe.shape[1] or max(layers) >= core.layer_count:
        return False
    return float(functional.cosine_similarity(_rows(core).float().cpu(), probe.float()).mean()) > _ALIKE


def _rows(core: CausalCore) -> Tensor:
    """The embeddings of ids from all over the vocabulary: (_PROBES, H)."""
    return core.embed(probed(core.rows)[None].to(core.device))[0]


def probed(rows: int) -> Tensor:
    """The ids that are compared, of a table with so many rows: (_PROBES,) int64."""
    return torch.linspace(0, rows - 1, _PROBES).long()
