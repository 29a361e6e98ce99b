"""From a checkpoint, on the hub or here, to a registered core: look, fetch, recognise, convert, register."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ssdcli.errors import SsdError, UsageError
from ssdcli.hub.download import RemoteFile, cache_folder, check_space
from ssdcli.hub.gguf_config import ReadTensor
from ssdcli.hub.gguf_files import gguf_doubts, sketch, small_files
from ssdcli.hub.source import CheckpointSource, Place, find_source, ggufs_of, spelled, weight_files
from ssdcli.hub.tokenizer_files import make_tokenizer, read_table, read_template, read_vocabulary
from ssdcli.machine.units import in_parameters
from ssdcli.models.core_config import completed
from ssdcli.models.core_spec import KEY, CoreSpec, spec_fields
from ssdcli.models.families import recognise
from ssdcli.models.families.family import GENERATION, SOURCE, Family, Vocabulary
from ssdcli.models.packable import is_packable
from ssdcli.models.presets import PRESETS, Preset
from ssdcli.models.weights.gguf_header import GgufHeader, GgufTensor, dequantisation, read_header, stored_bytes
from ssdcli.registry.manifest import (
    CONFIG,
    DRAFTER,
    FILE,
    INDEX,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    Manifest,
    tokenizer_fingerprint,
    write_manifest,
)
from ssdcli.registry.store import Entry, Registry

_SHARE = 0.01  # of the core's parameters: such a small model costs next to nothing beside the core
_MEDIUM = re.compile(r"<\|?(image|audio|video)\w*\|?>")  # a special token of models that read more than text
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

    source: where the checkpoint is.
    family: of the checkpoint.
    spec: how the core will be run.
    config: the checkpoint's own configuration.
    native: the native class's.
    tokenizer: the content of tokenizer.json.
    small: the contents of the small files, by name.
    weights: the files that are still to be fetched, linked or converted.
    header: of a GGUF file.
    """

    source: CheckpointSource
    family: Family
    spec: CoreSpec
    config: Mapping[str, Any]
    native: Mapping[str, Any]
    tokenizer: bytes
    small: Mapping[str, bytes]
    weights: tuple[RemoteFile, ...]
    header: GgufHeader | None = None

    @cached_property
    def origin(self) -> str:
        """Where the checkpoint was, and which content it had; for local files this reads all of them."""
        used = [file for file in self.source.files if file.name in self.small]
        return self.source.origin([*used, *self.weights])

    @property
    def vocabulary(self) -> int:
        """V: the rows of the native embeddings, and a virtual mask id if there is one."""
        return self.spec.vocabulary(_rows(self.native))

    @property
    def stated_name(self) -> str:
        """What a GGUF file calls the model, spelled as a model name; it may be empty."""
        return "" if self.header is None else spelled(self.header.text("general.name") or "")

    @property
    def doubts(self) -> list[str]:
        """What may go wrong though the checkpoint can be read, in sentences."""
        return [] if self.header is None else gguf_doubts(self.header)

    @property
    def licence(self) -> str | None:
        """As its authors state it."""
        return self.source.licence or (None if self.header is None else self.header.text("general.license"))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they are published."""
        return sum(file.size for file in self.weights)

    @property
    def bytes_to_fetch(self) -> int:
        """Bytes of the weights that have to come over the network."""
        return self.source.to_fetch(self.weights)

    @property
    def bytes_to_write(self) -> int:
        """Bytes of the weights in the registry, unless they are linked."""
        if self.header is not None:
            return stored_bytes(self.header)
        return 0 if self.links else self.weight_bytes

    @property
    def links(self) -> bool:
        """Whether the weights are native already and stay as they are, so that they can be linked."""
        return self._is_native and self.source.links

    @property
    def conversion(self) -> str:
        """What is done to the weights, in words."""
        if self.header is not None:
            return dequantisation(self.header)
        if not self._is_native:
            return "converted"
        return "linked from the hub's cache" if self.source.links else "copied"

    @property
    def _is_native(self) -> bool:
        return not self.family.keys and all(file.name.endswith(".safetensors") for file in self.weights)


def plan(place: Place) -> PullPlan:
    """Look at a repository, folder or GGUF file, and read its small files.

    Raises DownloadFailed if the hub cannot be asked, UsageError for an unknown architecture, SsdError for a checkpoint
    that contradicts itself.
    """
    source = find_source(place)
    return _planned(source, None if source.gguf is None else _header(source, source.gguf))


def without_weights(place: Place) -> PullPlan:
    """The same for a checkpoint whose weights are elsewhere: what it says of itself, and its tokenizer."""
    source = find_source(place)
    return _described(source, None if source.gguf is None else _header(source, source.gguf))


def preview(place: Place) -> PullPlan:
    """The plan as far as a dry run tells it; of a GGUF file only the header is looked at, and less of it is checked."""
    source = find_source(place)
    if source.gguf is None:
        return _planned(source, None)
    header = _header(source, source.gguf)
    sketched = sketch(header)
    if sketched is None:
        return _planned(source, header)
    config, vocabulary = sketched
    family = recognise(config, vocabulary)
    return PullPlan(
        source=source,
        family=family,
        spec=family.spec(config, vocabulary),
        config=config,
        native=family.native(config),
        tokenizer=b"",
        small={},
        weights=(source.gguf,),
        header=header,
    )


def _planned(source: CheckpointSource, header: GgufHeader | None) -> PullPlan:
    """The plan for a source; header: of its GGUF file."""
    plan = _described(source, header)
    weights = (source.gguf,) if source.gguf else weight_files(source, shards(plan.small), plan.family.pickles)
    return replace(plan, weights=weights)


def _described(source: CheckpointSource, header: GgufHeader | None) -> PullPlan:
    """The plan but for its weights."""
    small = source.small() if header is None else small_files(header, _tensor_reader(source))
    if CONFIG not in small:
        lack = f"{source.title} has no {CONFIG}, so it is not a checkpoint of a model."
        raise SsdError(lack, ggufs_of(source) or _REMEDY)
    config = _config(small)
    if config.get("architectures") == [DRAFTER]:
        remedy = "Pull that core, and then this again with --for NAME."
        raise UsageError(f"{source.title} is a DFlash drafter, which works for a core alone.", remedy)
    tokenizer = _tokenizer(config, small)
    vocabulary = read_vocabulary(tokenizer, small)
    family = recognise(config, vocabulary)
    native, generation = family.native(config), read_table(small, f"{GENERATION}.json")
    _check_size(vocabulary, native)
    return PullPlan(
        source=source,
        family=family,
        spec=family.spec({**config, GENERATION: generation, SOURCE: source.title.rpartition("/")[2]}, vocabulary),
        config=config,
        native=native,
        tokenizer=tokenizer,
        small=small,
        weights=(),
        header=header,
    )


def _header(source: CheckpointSource, file: RemoteFile) -> GgufHeader:
    with source.open(file) as stream:
        return read_header(stream, file.size, file.name)


def _tensor_reader(source: CheckpointSource) -> ReadTensor:
    """Reads the bytes of tensors of the source's GGUF file, without fetching the others."""

    def read(tensor: GgufTensor) -> bytes:
        assert source.gguf is not None
        with source.open(source.gguf, tensor.begin, tensor.size) as stream:
            return stream.read(tensor.size)

    return read


def pull(plan: PullPlan, name: str, registry: Registry, watch: Watch, overwrite: bool = False) -> Entry:
    """Fetch the weights, convert them and register the core; whatever fails, nothing is registered.

    What is in the hub's cache is not fetched again. Raises DownloadFailed, UsageError for a name that is taken, and
    SsdError for weights that contradict the configuration.
    """
    from ssdcli.models.weights.convert import convert

    with registry.stage(name, overwrite) as folder:
        wanted = [(cache_folder(), plan.bytes_to_fetch), (registry.home, plan.bytes_to_write)]
        check_space(wanted, "this" if plan.header is None else f"{plan.header.name}, {plan.conversion},")
        paths = plan.source.fetch(plan.weights, watch.fetched)
        watch.converting()
        parameters = convert(list(paths.values()), folder, plan.family, plan.config, link=plan.source.links)
        _write_texts(plan, name, parameters, folder)
        manifest = manifest_of(plan, name, plan.origin)
        write_manifest(folder, replace(manifest, parameters=parameters, files=_checked(plan, paths, folder)))
    return registry.find(name)


def registered(origin: str, name: str, registry: Registry) -> Entry | None:
    """The model of this name, if it is already what a plan of this origin would make."""
    here = [entry for entry in registry.entries() if entry.name == name]
    return next((entry for entry in here if entry.manifest.source == origin), None)


def suited(parameters: int) -> Preset:
    """The preset of small models that is nearest to a hundredth of a core's parameters."""
    return min(PRESETS, key=lambda preset: abs(math.log(preset.parameters / (_SHARE * parameters))))


def _config(small: Mapping[str, bytes]) -> dict[str, Any]:
    """The checkpoint's config.json; that of a registered core is completed from the manifest beside it."""
    config = read_table(small, CONFIG)
    if FILE in small and isinstance(config.get(KEY), dict):
        manifest = Manifest.from_json(small[FILE].decode("utf-8", "replace"), f"the checkpoint's {FILE}")
        config[KEY] |= spec_fields(manifest)
    return config


def _tokenizer(config: Mapping[str, Any], small: Mapping[str, bytes]) -> bytes:
    """The content of the checkpoint's tokenizer.json, or of one made from its older files."""
    if TOKENIZER in small:
        return small[TOKENIZER]
    native = recognise(config, Vocabulary(size=0)).native(config)
    return make_tokenizer(small, str(native["model_type"]))


def shards(small: Mapping[str, bytes]) -> list[str]:
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
    """Raise SsdError for a tokenizer of another model; it may be shared with a larger one that also reads images."""
    rows = _rows(native)
    never_read = [text for text, id in vocabulary.ids.items() if id >= rows and _MEDIUM.fullmatch(text)]
    if vocabulary.size - len(never_read) > rows:
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
    native = completed(plan.native) if is_packable(plan.native) else plan.native  # so that loading need not ask for it
    config = {**native, KEY: plan.spec.table()}
    write_tokenizer(plan, config, folder)
    (folder / "README.md").write_text(_card(plan, name, parameters), encoding="utf-8")


def write_tokenizer(plan: PullPlan, config: Mapping[str, Any], folder: Path) -> None:
    """Write a core's config.json, and the tokenizer and the template of a plan, in its folder."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / TOKENIZER).write_bytes(plan.tokenizer)
    if TOKENIZER_SETTINGS in plan.small:
        (folder / TOKENIZER_SETTINGS).write_bytes(plan.small[TOKENIZER_SETTINGS])
    template = read_template(plan.small)
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")


def _card(plan: PullPlan, name: str, parameters: int) -> str:
    from ssdcli.reports.rendering import pulled_card

    spec, (place, _, revision) = plan.spec, plan.origin.rpartition("@")
    facts = {
        "source": place,
        "revision": revision,
        "licence": f"{plan.licence or 'not stated'}, see the source",
        "noise process": spec.process,
        "attention": f"{spec.attention}, blocks of {spec.block_size} tokens",
        "context": f"{spec.context} tokens",
        "prompts": "through the chat template" if spec.format == "chat" else "as they are",
        "weights": plan.conversion,
    }
    return pulled_card(name, f"{plan.family.title}, {in_parameters(parameters)} parameters", facts)


def manifest_of(plan: PullPlan, name: str, source: str) -> Manifest:
    """What the registry keeps of a core that runs as a plan says, but for its size and its files."""
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
        parameters=0,
        source=source,
    )
