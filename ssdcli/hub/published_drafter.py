"""From a published DFlash drafter, on the hub or here, to a registered draft head of its core."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ssdcli.errors import UsageError, require
from ssdcli.hub.download import RemoteFile, cache_folder, check_space
from ssdcli.hub.pull import Watch, shards
from ssdcli.hub.source import CheckpointSource, Place, find_source, weight_files
from ssdcli.hub.tokenizer_files import read_table
from ssdcli.machine.units import in_parameters
from ssdcli.registry.manifest import CONFIG, DRAFTER, HEAD, TOKENIZER, Manifest, write_manifest
from ssdcli.registry.store import Entry, Registry


@dataclass(frozen=True)
class DrafterPlan:
    """What a pull of a drafter will do.

    source: where it is. core: what it drafts for. config: its own config.json. weights: its files.
    """

    source: CheckpointSource
    core: Entry
    config: Mapping[str, Any]
    weights: tuple[RemoteFile, ...]

    @cached_property
    def origin(self) -> str:
        """Where it was, and which content it had; for local files this reads all of them."""
        return self.source.origin(self.weights)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(file.size for file in self.weights)


def plan_drafter(place: Place, core: Entry) -> DrafterPlan:
    """Look at a repository or folder (DownloadFailed, UsageError or SsdError for what is no drafter of this core)."""
    from ssdcli.models.dflash_checkpoint import drafter_config

    manifest = core.manifest
    local = manifest.kind == "core" and manifest.attention == "autoregressive" and not manifest.is_remote
    require(local, f"'{core.name}' is no causal core on this machine.", "Name one with --for.")
    source = find_source(place)
    small = source.small() if source.gguf is None else {}
    config = read_table(small, CONFIG) if CONFIG in small else {}
    if config.get("architectures") != [DRAFTER]:
        raise UsageError(f"{source.title} is no DFlash drafter.", "Omit --for to pull a core.")
    drafter_config(config, core.folder)
    return DrafterPlan(source, core, config, weight_files(source, shards(small), ()))


def pull_drafter(plan: DrafterPlan, name: str, registry: Registry, watch: Watch, overwrite: bool = False) -> Entry:
    """Fetch the weights, check them and register the drafter; whatever fails, nothing is registered."""
    from ssdcli.models.backbones.dflash import parameters_of
    from ssdcli.models.dflash_checkpoint import drafter_config, write_drafter

    core, config = plan.core.manifest, drafter_config(plan.config, plan.core.folder)
    with registry.stage(name, overwrite) as folder:
        wanted = [(cache_folder(), plan.source.to_fetch(plan.weights)), (registry.home, plan.weight_bytes)]
        check_space(wanted, "this")
        paths = plan.source.fetch(plan.weights, watch.fetched)
        watch.converting()
        write_drafter(list(paths.values()), config, plan.core.folder, folder)
        (folder / CONFIG).write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(plan.core.folder / TOKENIZER, folder / TOKENIZER)
        manifest = Manifest.beside(
            core,
            name=name,
            kind=HEAD,
            architecture=DRAFTER,
            parameters=parameters_of(config),
            base_weights=core.weights_digest,
            source=plan.origin,
        )
        (folder / "README.md").write_text(_card(manifest), encoding="utf-8")
        write_manifest(folder, manifest)
    return registry.find(name)


def _card(manifest: Manifest) -> str:
    return (
        f"# {manifest.name}\n\nA DFlash drafter for {manifest.core}, {in_parameters(manifest.parameters)} parameters,\n"
        f"from {manifest.source}. It guesses a block of tokens from the core's hidden states. 'ssd generate' uses it\n"
        "wherever that core writes; it changes no text, only the speed.\n"
    )
