"""From a repository of the hub to a registered core: look, fetch, recognise, convert, register."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssdcli.errors import SsdError
from ssdcli.hub.download import (
    Listing,
    RemoteFile,
    RepoId,
    cache_folder,
    check_space,
    fetch,
    look,
    small_files,
    to_fetch,
    weight_files,
)
from ssdcli.hub.tokenizer_files import make_tokenizer, read_table, read_template, read_vocabulary
from ssdcli.machine.units import in_parameters
from ssdcli.models.core_spec import KEY, CoreSpec, spec_fields
from ssdcli.models.families import recognise
from ssdcli.models.families.family import GENERATION, Family, Vocabulary
from ssdcli.models.presets import PRESETS, Preset
from ssdcli.registry.manifest import (
    CONFIG,
    FILE,
    INDEX,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    Manifest,
    package_versions,
    tokenizer_fingerprint,
    write_manifest,
)
from ssdcli.registry.names import LONGEST
from ssdcli.registry.store import Entry, Registry

_SHARE = 0.01  # of the core's parameters: such a small model costs next to nothing beside the core
_REMEDY = "Name another repository, or another revision of this one."


@dataclass(frozen=True)
class Watch:
    """Callbacks of a pull.

    fetched: called with the number of bytes that arrived.
    converting: called once, when the conversion begins.
    """

    fetched: Callable[[int], None]
    converting: Callable[[], None]


@dataclass(frozen=True)
class PullPlan:
    """What a pull will do, known from the small files alone, which are fetched by then.

    listing: the repository's content.
    family: of the checkpoint.
    spec: how the core will be run.
    config: the checkpoint's own configuration.
    native: the native class's.
    tokenizer: the content of tokenizer.json.
    small: the small files on the disk, by name.
    weights: the files that are still to be fetched or linked.
    """

    listing: Listing
    family: Family
    spec: CoreSpec
    config: Mapping[str, Any]
    native: Mapping[str, Any]
    tokenizer: bytes
    small: Mapping[str, Path]
    weights: tuple[RemoteFile, ...]

    @property
    def vocabulary(self) -> int:
        """V: the rows of the native embeddings, and a virtual mask id if there is one."""
        return self.spec.vocabulary(_rows(self.native))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in the repository."""
        return sum(file.size for file in self.weights)

    @property
    def bytes_to_fetch(self) -> int:
        """Bytes of the weights that are not in the hub's cache."""
        return to_fetch(self.listing, self.weights)

    @property
    def links(self) -> bool:
        """Whether the weights are native already, so that they can be linked from the hub's cache."""
        return not self.family.keys and all(file.name.endswith(".safetensors") for file in self.weights)


def plan(repo: RepoId) -> PullPlan:
    """Look at a repository and fetch its small files.

    Raises DownloadFailed if the hub cannot be asked, UsageError for an unknown architecture, SsdError for a checkpoint
    that contradicts itself.
    """
    listing = look(repo)
    small = fetch(listing, small_files(listing), lambda _: None)
    if CONFIG not in small:
        raise SsdError(f"{repo} has no {CONFIG}, so it is not a checkpoint of a model.", _REMEDY)
    config = _config(small)
    tokenizer = _tokenizer(config, small)
    vocabulary = read_vocabulary(tokenizer, small)
    family = recognise(config, vocabulary)
    native = family.native(config)
    _check_size(vocabulary, native)
    return PullPlan(
        listing=listing,
        family=family,
        spec=family.spec({**config, GENERATION: read_table(small, f"{GENERATION}.json")}, vocabulary),
        config=config,
        native=native,
        tokenizer=tokenizer,
        small=small,
        weights=weight_files(listing, _shards(small), family.pickles),
    )


def pull(plan: PullPlan, name: str, registry: Registry, watch: Watch, overwrite: bool = False) -> Entry:
    """Fetch the weights, convert them and register the core; whatever fails, nothing is registered.

    What is in the hub's cache is not fetched again. Raises DownloadFailed, UsageError for a name that is taken, and
    SsdError for weights that contradict the configuration.
    """
    from ssdcli.models.weights.convert import convert

    with registry.stage(name, overwrite) as folder:
        copies = 0 if plan.links else plan.weight_bytes
        check_space([(cache_folder(), plan.bytes_to_fetch), (registry.home, copies)])
        paths = fetch(plan.listing, plan.weights, watch.fetched)
        watch.converting()
        parameters = convert(list(paths.values()), folder, plan.family, plan.config)
        _write_texts(plan, name, parameters, folder)
        write_manifest(folder, _manifest(plan, name, parameters, _checked(plan, paths, folder)))
    return registry.find(name)


def registered(plan: PullPlan, name: str, registry: Registry) -> Entry | None:
    """The model of this name, if it is already what the plan would make."""
    return next((e for e in registry.entries() if e.name == name and e.manifest.source == plan.listing.source), None)


def default_name(repo: RepoId) -> str:
    """The last part of the repository's name, spelled as a model name."""
    return repo.name.rpartition("/")[2].lower().lstrip("._-")[:LONGEST]


def suited(parameters: int) -> Preset:
    """The preset of small models that is nearest to a hundredth of a core's parameters."""
    return min(PRESETS, key=lambda preset: abs(math.log(preset.parameters / (_SHARE * parameters))))


def _config(small: Mapping[str, Path]) -> dict[str, Any]:
    """The checkpoint's config.json; that of a registered core is completed from the manifest beside it."""
    config = read_table(small, CONFIG)
    if FILE in small and isinstance(config.get(KEY), dict):
        manifest = Manifest.from_json(small[FILE].read_text(encoding="utf-8"), f"the checkpoint's {FILE}")
        config[KEY] |= spec_fields(manifest)
    return config


def _tokenizer(config: Mapping[str, Any], small: Mapping[str, Path]) -> bytes:
    """The content of the checkpoint's tokenizer.json, or of one made from its older files."""
    if TOKENIZER in small:
        return small[TOKENIZER].read_bytes()
    native = recognise(config, Vocabulary(size=0)).native(config)
    return make_tokenizer(small, str(native["model_type"]))


def _shards(small: Mapping[str, Path]) -> list[str]:
    """The files that the index names, if there is one."""
    if INDEX not in small:
        return []
    places = read_table(small, INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise SsdError(f"the checkpoint's {INDEX} does not say which file holds which tensor.", _REMEDY)
    return list(places.values())


def _rows(native: Mapping[str, Any]) -> int:
    rows = native.get("vocab_size", native.get("text_config", {}).get("vocab_size"))
    if not isinstance(rows, int):
        raise SsdError(f"the checkpoint's {CONFIG} does not say how large its vocabulary is.", _REMEDY)
    return rows


def _check_size(vocabulary: Vocabulary, native: Mapping[str, Any]) -> None:
    rows = _rows(native)
    if vocabulary.size > rows:
        raise SsdError(
            f"the tokenizer has {vocabulary.size} ids, but the model has embeddings for {rows}: they do not belong "
            "together.",
            _REMEDY,
        )


def _checked(plan: PullPlan, paths: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """The sha256 of those files in a folder that are links to fetched ones, which have been checked already."""
    digests = {_place(paths[file.name]): file.digest for file in plan.weights if len(file.digest or "") == 64}
    found = {path.name: digests.get(_place(path)) for path in folder.iterdir()}
    return {name: digest for name, digest in found.items() if digest is not None}


def _place(path: Path) -> tuple[int, int]:
    """Equal for two names of one file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _write_texts(plan: PullPlan, name: str, parameters: int, folder: Path) -> None:
    """Write everything in a core's folder except the weights and the manifest."""
    config = {**plan.native, KEY: plan.spec.table()}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / TOKENIZER).write_bytes(plan.tokenizer)
    if TOKENIZER_SETTINGS in plan.small:
        shutil.copyfile(plan.small[TOKENIZER_SETTINGS], folder / TOKENIZER_SETTINGS)
    template = read_template(plan.small)
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    (folder / "README.md").write_text(_card(plan, name, parameters), encoding="utf-8")


def _card(plan: PullPlan, name: str, parameters: int) -> str:
    from ssdcli.reports.rendering import pulled_card

    spec, listing = plan.spec, plan.listing
    facts = {
        "source": listing.repo.name,
        "revision": listing.commit,
        "licence": f"{listing.licence or 'not stated'}, see the source",
        "noise process": spec.process,
        "attention": f"{spec.attention}, blocks of {spec.block_size} tokens",
        "context": f"{spec.context} tokens",
        "prompts": "through the chat template" if spec.format == "chat" else "as they are",
        "weights": "linked from the hub's cache" if plan.links else "converted",
    }
    return pulled_card(name, f"{plan.family.title}, {in_parameters(parameters)} parameters", facts)


def _manifest(plan: PullPlan, name: str, parameters: int, digests: dict[str, str]) -> Manifest:
    from ssdcli.engine.process import make_process

    spec = plan.spec
    made = make_process(spec.process, plan.vocabulary, spec.constants)
    return Manifest(
        **spec_fields(spec) | {"constants": dict(made.constants())},
        name=name,
        kind="core",
        architecture=plan.family.name,
        vocabulary=plan.vocabulary,
        tokenizer=tokenizer_fingerprint(plan.tokenizer),
        parameters=parameters,
        source=plan.listing.source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=digests,
        versions=package_versions(),
    )
