"""What a training begins from, if not from scratch: a registered model, or a checkpoint on this machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from ssdcli.engine.process import Process
from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.backbones.side_network import SideNetwork, save_side_network
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.models.block_diffusion_checkpoint import load_backbone, save_backbone, save_configuration
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY
from ssdcli.models.core_traits import CoreTraits
from ssdcli.models.initialization import Wanted, initialize
from ssdcli.models.lora import Tunable, adapter_parameters, add_adapter, save_adapter
from ssdcli.models.native_checkpoint import frozen_dtype
from ssdcli.registry.compatibility import CanvasShape
from ssdcli.registry.disk import write_atomic
from ssdcli.registry.manifest import ADAPTER, HEAD, TOKENIZER, Manifest, tokenizer_fingerprint
from ssdcli.registry.store import Entry, Registry
from ssdcli.training.settings import TrainSettings

SmallModel = BlockDiffusionLM | SideNetwork | TunedCore

_KEPT = "beginning"  # the copy in a workspace, with which a training resumes even if the original is gone
_ORIGIN = "origin.json"
_DIGEST = "base.sha256"  # of the weights that an adapter is trained on, or whose states are read


@dataclass(frozen=True)
class Beginning:
    """A model to train.

    model: with an adapter in it, that alone is trained.
    base: the registered model that it begins from, if it is one that can be its base.
    adapter: None where the model's own weights are trained.
    base_weights: the digest of the weights that an adapter is for, or of the core that is read.
    """

    model: SmallModel
    base: str | None = None
    adapter: PeftModel | None = None
    base_weights: str | None = None

    @property
    def parameters(self) -> int:
        """How many parameters are its own."""
        if self.adapter is not None:
            return adapter_parameters(self.adapter)
        return sum(p.numel() for p in self.model.parameters())

    def as_stored(self) -> SmallModel:
        """The model on the CPU for inference, its own parameters rounded as `save` writes them."""
        own = self.model.state_dict().values() if self.adapter is None else self._learned()
        for value in own:
            if value.is_floating_point():
                value.copy_(value.bfloat16())
        if isinstance(self.model, SideNetwork):
            return self.model.eval().requires_grad_(False)  # beside its core
        return self.model.to("cpu").eval().requires_grad_(False)

    def _learned(self) -> list[Tensor]:
        return [weight.detach() for weight in self.model.parameters() if weight.requires_grad]

    def save(self, folder: Path) -> None:
        """Write its own parameters: the adapter and how its base is read, or all weights."""
        if isinstance(self.model, SideNetwork):
            save_side_network(self.model, folder)
        elif self.adapter is not None:
            save_adapter(self.adapter, folder)
            if isinstance(self.model, BlockDiffusionLM):
                save_configuration(self.model.config, folder)
        else:
            assert isinstance(self.model, BlockDiffusionLM)
            save_backbone(self.model, folder)


@dataclass(frozen=True)
class Fit:
    """What a small model has to fit.

    core: the core's manifest.
    canvas: the core's, with the block size of this training.
    traits: the core's.
    process: the core's noise process.
    """

    core: Manifest
    canvas: CanvasShape
    traits: CoreTraits
    process: Process


def open_beginning(settings: TrainSettings, fit: Fit, registry: Registry, workspace: Path) -> Beginning:
    """Read the model that the settings name, or the copy that an earlier start of the same training kept.

    Raises UsageError for a model that does not fit the core, SsdError for files that cannot be read.
    """
    if settings.lora is not None:
        return _with_adapter(settings, fit, registry, workspace)
    kept = workspace / _KEPT
    if not kept.exists():
        _keep(*_read(settings, fit, registry), kept)
    base = json.loads((kept / _ORIGIN).read_text(encoding="utf-8"))["base"]
    return Beginning(load_backbone(kept).train().requires_grad_(True), base)


def _keep(model: BlockDiffusionLM, base: str | None, kept: Path) -> None:
    partial = kept.with_name(f"{kept.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_backbone(model, partial, torch.float32)
    (partial / _ORIGIN).write_text(json.dumps({"base": base}) + "\n", encoding="utf-8")
    partial.rename(kept)


def _read(settings: TrainSettings, fit: Fit, registry: Registry) -> tuple[BlockDiffusionLM, str | None]:
    assert settings.init is not None
    entry = _entry(settings.init, registry)
    if entry is None:
        folder = Path(settings.init).expanduser()
        _check_checkpoint(folder, fit)
        return initialize(folder, _wanted(settings, fit)), None
    if KEY in read_config(entry.folder):
        _check_fit(entry.name, replace(fit.canvas, tokenizer=entry.manifest.tokenizer), fit)
        fits = CanvasShape.of(entry.manifest).misfit(fit.canvas) is None
        return initialize(entry.folder, _wanted(settings, fit)), entry.name if fits else None
    return _continued(entry, fit, settings), entry.name


def _entry(init: str, registry: Registry) -> Entry | None:
    """The registered model of this name; None for the folder of a checkpoint."""
    folder = Path(init).expanduser()
    try:
        entry = registry.find(init)
    except (NoSuchModel, UsageError) as error:
        if folder.is_dir():
            return None
        if "/" in init:
            raise UsageError(f"there is no folder '{init}'.", "Name a registered model or a checkpoint.") from None
        raise NoSuchModel(error.problem, "Name a registered model, or the folder of a checkpoint.") from None
    if entry.manifest.kind == ADAPTER:
        problem = f"'{init}' is an adapter, which has no weights of its own to begin from."
        raise UsageError(problem, f"Begin from its base '{entry.manifest.base}', or from another model.")
    if entry.manifest.kind == HEAD:
        raise UsageError(f"'{init}' is a draft head, which predicts no text.", "Begin from another model.")
    if entry.manifest.is_remote:
        raise UsageError(
            f"'{init}' runs on another machine, and its weights are not here.", "Begin from another model."
        )
    return entry


def _continued(entry: Entry, fit: Fit, settings: TrainSettings) -> BlockDiffusionLM:
    """Load a model that was made here, which keeps its shape."""
    _check_fit(entry.name, CanvasShape.of(entry.manifest), fit)
    for flag, given in (("context", settings.context), ("shift", settings.shift)):
        if given is not None:
            problem = f"--{flag} was given, but '{entry.name}' has already decided that."
            raise UsageError(problem, f"Omit --{flag} or --init.")
    return load_backbone(entry.folder)


def _check_fit(init: str, canvas: CanvasShape, fit: Fit) -> None:
    """Raise UsageError for a beginning whose canvas is not that of the model to be trained."""
    problem = canvas.misfit(fit.canvas)
    if problem is not None:
        raise UsageError(
            f"'{init}' does not fit the core '{fit.core.name}': {problem}.",
            f"Begin from the core itself, from a model that was made with --for {fit.core.name}, or from a checkpoint "
            "with its tokenizer.",
        )


def _check_checkpoint(folder: Path, fit: Fit) -> None:
    for file in ("config.json", TOKENIZER):
        if not (folder / file).is_file():
            raise UsageError(f"{folder} holds no {file}.", "Name the folder of a transformers checkpoint.")
    if not any(folder.glob("*.safetensors")):
        problem = f"{folder} holds no *.safetensors; other weights can run code and are never read."
        raise UsageError(problem, "Convert them with transformers' save_pretrained.")
    tokenizer = tokenizer_fingerprint((folder / TOKENIZER).read_bytes())
    _check_fit(str(folder), replace(fit.canvas, tokenizer=tokenizer), fit)  # all else is made to fit


def _wanted(settings: TrainSettings, fit: Fit) -> Wanted:
    assert settings.block_size is not None  # what was left open has been decided
    return Wanted(
        vocabulary=fit.core.vocabulary,
        suppressed=fit.traits.suppressed,
        block_size=settings.block_size,
        timed=fit.process.timed,
        self_conditioned=fit.process.self_conditioned,
        context=settings.context,
        shift=settings.shift,
        hides=fit.process.hides,
    )


def _with_adapter(settings: TrainSettings, fit: Fit, registry: Registry, workspace: Path) -> Beginning:
    """Load a registered model and add a new adapter; the model's own weights stay where they are."""
    assert settings.init is not None
    assert settings.lora is not None
    entry = _entry(settings.init, registry)
    if entry is None:
        problem = f"an adapter is kept beside its base, and '{settings.init}' is not a registered model."
        remedy = f"First make a model of it with --init {settings.init}, then pass that model's name and --lora."
        raise UsageError(problem, remedy)
    digest = same_weights(entry, workspace)
    model = _base(entry, fit, settings)
    if isinstance(model, SmallCausalLM):
        raise UsageError(f"'{entry.name}' is a small causal model, and adapters of these are not made.", "Omit --lora.")
    return Beginning(model.train(), entry.name, new_adapter(model, settings, entry.name), digest)


def new_adapter(model: Tunable, settings: TrainSettings, base: str) -> PeftModel:
    """Add an adapter of the rank that the settings name; UsageError for one that is too large for this base."""
    assert settings.lora is not None
    try:
        return add_adapter(model, settings.lora, settings.seed)
    except ValueError as error:
        problem = f"--lora {settings.lora} is too large for '{base}': {error}."
        raise UsageError(problem, "Choose a smaller rank, such as 8.") from error


def same_weights(entry: Entry, workspace: Path) -> str:
    """The digest of the weights of what a training is made for; UsageError if they have changed since it began."""
    digest, kept = entry.manifest.weights_digest, workspace / _DIGEST
    if not kept.exists():
        write_atomic(kept, digest)
    if kept.read_text(encoding="utf-8") != digest:
        problem = f"the weights of '{entry.name}' have changed since this training began."
        raise UsageError(problem, "Restore the old ones, or start over with --overwrite.")
    return digest


def _base(entry: Entry, fit: Fit, settings: TrainSettings) -> BlockDiffusionLM:
    """Load what an adapter is trained on; a pulled model is read as a small one, in the dtype that it is stored in."""
    if KEY not in read_config(entry.folder):
        return _continued(entry, fit, settings)
    _check_fit(entry.name, CanvasShape.of(entry.manifest), fit)
    return initialize(entry.folder, _wanted(settings, fit), frozen_dtype(entry.folder)).requires_grad_(False)
