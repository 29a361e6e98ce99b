"""After the last step: measure on held-out text, choose the weight, write the folder, register it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from ssdcli.evaluation.losses import Losses
from ssdcli.models.folder import save_backbone
from ssdcli.pipeline.measured import measure_trained
from ssdcli.pipeline.prepare import TOKENIZER, Prepared, passages
from ssdcli.registry.manifest import Manifest, tokenizer_fingerprint, write_manifest
from ssdcli.registry.store import Registry
from ssdcli.training.report import CardFacts, loss_curve_svg, metrics_lines, model_card, sweep_svg
from ssdcli.training.settings import FROM_SCRATCH, TrainSettings
from ssdcli.training.trainer import SmallTrainer, writes_weights

_MEASURED_TOKENS = 16_384
_VERSIONS = ("torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Trained:
    """A finished training: what was registered, and how well it predicts its held-out text.

    losses: where a weight was chosen, the columns are the small model's weights 0 (the core alone) to 1 (itself alone);
    else the single column is the model itself. weight: the best of them; None without a core, or with one that could
    not be run here in the time there was.
    """

    name: str
    core: str | None
    folder: Path
    size: str | None
    parameters: int
    losses: Losses
    weight: float | None
    report: tuple[str, ...]
    steps: int
    seconds: float

    def bits_per_byte(self) -> dict[str, float]:
        """Held-out denoising loss of the small model, its core and their ensemble, as far as there are any."""
        return self._by_member(self.losses.bits_per_byte().tolist())

    def nats_per_token(self) -> dict[str, float]:
        """The same in nats per token."""
        return self._by_member(self.losses.nats_per_token().tolist())

    def _by_member(self, columns: list[float]) -> dict[str, float]:
        if self.weight is None:
            return {"core" if self.core is None else "small": columns[-1]}
        return {"core": columns[0], "small": columns[-1], "ensemble": columns[self.losses.place(self.weight)]}


def finish(prepared: Prepared, trainer: SmallTrainer, registry: Registry, overwrite: bool) -> Trained:
    """Measure the weights as they will be stored, and register them."""
    model = prepared.model.to("cpu", torch.bfloat16).float().eval().requires_grad_(False)
    chosen = passages(prepared.store, prepared.tokenizer, _MEASURED_TOKENS)
    measured = measure_trained(prepared, model, chosen)
    name, parent = prepared.settings.name, prepared.parent
    trained = Trained(
        name=name,
        core=None if parent is None else parent.entry.name,
        folder=registry.models / name,
        size=prepared.size,
        parameters=sum(p.numel() for p in model.parameters()),
        losses=measured.losses,
        weight=measured.weight,
        report=tuple(prepared.store.info.report),
        steps=trainer.state.global_step,
        seconds=trainer.plan.elapsed,
    )
    with registry.stage(name, overwrite) as folder:
        _write(prepared, trainer, trained, folder)
    return trained


def _write(prepared: Prepared, trainer: SmallTrainer, trained: Trained, folder: Path) -> None:
    """Fill the model's folder: weights, tokenizer, card, metrics, pictures, recipe, manifest."""
    with writes_weights(folder):
        save_backbone(prepared.model, folder)
    if prepared.parent is None:
        shutil.copyfile(prepared.workspace / TOKENIZER, folder / TOKENIZER)
    else:
        shutil.copyfile(prepared.parent.entry.folder / TOKENIZER, folder / TOKENIZER)
    texts = {
        "metrics.jsonl": metrics_lines(trainer.history),
        "loss.svg": loss_curve_svg(trainer.history, f"{trained.name}: training"),
        "recipe.toml": recipe(prepared),
        "README.md": model_card(_facts(prepared, trainer, trained)),
    }
    if trained.weight is not None:
        losses = trained.losses
        title = f"{trained.name} with {trained.core}"
        texts["weight.svg"] = sweep_svg(losses.weights.tolist(), losses.bits_per_byte().tolist(), title)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    write_manifest(folder, _manifest(prepared, trained, (folder / TOKENIZER).read_bytes()))


def _manifest(prepared: Prepared, trained: Trained, tokenizer: bytes) -> Manifest:
    config = prepared.model.config
    measured = {f"{who} bits per byte": value for who, value in trained.bits_per_byte().items()}
    return Manifest(
        name=trained.name,
        kind="core" if trained.core is None else "small",
        architecture=config.architecture,
        process=prepared.process.name,
        constants=dict(prepared.process.constants()),
        block_size=config.block_size,
        context=config.context,
        attention="block-causal",
        vocabulary=config.vocabulary,
        tokenizer=tokenizer_fingerprint(tokenizer),
        parameters=trained.parameters,
        core=trained.core,
        base=prepared.settings.base,
        ends=[] if prepared.parent is None else prepared.parent.entry.manifest.ends,
        weight=trained.weight,
        data=prepared.store.info.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: version(name) for name in _VERSIONS},
        metrics=measured,
    )


def _facts(prepared: Prepared, trainer: SmallTrainer, trained: Trained) -> CardFacts:
    config, info = prepared.model.config, prepared.store.info
    rows = {f"{who}, nats per token": value for who, value in trained.nats_per_token().items()}
    rows |= {f"{who}, bits per byte": value for who, value in trained.bits_per_byte().items()}
    return CardFacts(
        name=trained.name,
        kind="core" if trained.core is None else "small",
        size=trained.size,
        parameters=trained.parameters,
        body_parameters=sum(p.numel() for p in prepared.model.body.parameters()),
        process=prepared.process.name,
        constants=prepared.process.constants(),
        block_size=config.block_size,
        context=config.context,
        vocabulary=config.vocabulary,
        core=trained.core,
        weight=trained.weight,
        data_lines=info.report,
        data_fingerprint=info.fingerprint,
        train_tokens=info.train.tokens,
        trained_tokens=trained.steps * trainer.tokens_per_step,
        steps=trained.steps,
        seconds=trained.seconds,
        device=_device(),
        heldout=rows,
        command=_command(prepared.settings),
    )


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def _given(settings: TrainSettings) -> Mapping[str, object]:
    """The settings that differ from their defaults, under their flags' names."""
    flags = {field.name: field.metadata.get("flag", field.name).replace("_", "-") for field in fields(settings)}
    defaults = asdict(TrainSettings())
    return {flags[key]: value for key, value in asdict(settings).items() if value != defaults[key] and key != "data"}


def _command(settings: TrainSettings) -> str:
    """The command that does the same again; the data is not named, its paths are nobody's business."""
    flags = {"for": settings.core} | dict(_given(settings))
    return " ".join(["ssd train-small DATA", *(f"--{flag} {value}" for flag, value in flags.items())])


def recipe(prepared: Prepared) -> str:
    """The resolved recipe: every setting but the data and what the core decides, under its flag's name, in TOML."""
    settings = prepared.settings
    flags = {field.name: field.metadata.get("flag", field.name).replace("_", "-") for field in fields(settings)}
    left_out = ["data", "name"]
    if prepared.parent is not None:
        left_out += FROM_SCRATCH
        left_out += [] if prepared.parent.entry.manifest.attention == "full" else ["block_size"]
    lines = [
        "# ssd train-small DATA --name NAME --recipe recipe.toml",
        "# The settings that this model was trained with.",
    ]
    for key, value in asdict(settings).items():
        if value is not None and key not in left_out:
            lines.append(f"{flags[key]} = " + (f'"{value}"' if isinstance(value, str) else str(value)))
    return "\n".join(lines) + "\n"
