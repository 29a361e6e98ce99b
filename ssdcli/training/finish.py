"""After the last step: measure on held-out text, choose the weight, write the folder, register it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import TypeVar

import torch

from ssdcli.data.canaries import FILE as CANARIES
from ssdcli.engine.ensemble.gate import Gate
from ssdcli.evaluation.losses import LossesByLevel
from ssdcli.evaluation.scored_text import heldout_texts
from ssdcli.registry.archive import REPORT, TRAINED_DOCUMENTS
from ssdcli.registry.manifest import TOKENIZER, Manifest, tokenizer_fingerprint, write_manifest
from ssdcli.registry.store import Registry
from ssdcli.reports.card import model_card
from ssdcli.reports.charts import loss_curve, to_svg, weight_sweep
from ssdcli.reports.description import Facts, Quality, Sample, length_counts, metrics_lines
from ssdcli.reports.report import report
from ssdcli.text.chat import copy_chat
from ssdcli.training.measured import measure_trained, measured_tokens
from ssdcli.training.prepare import Prepared
from ssdcli.training.settings import FROM_SCRATCH, TrainSettings
from ssdcli.training.trainer import SmallTrainer, writes_weights

_T = TypeVar("_T")

_VERSIONS = ("torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Trained:
    """A finished training: what was registered, and how well it predicts its held-out text.

    losses: where a weight was chosen, the columns are the small model's weights 0 (the core alone) to 1 (itself alone);
    else the single column is the model itself. weight: the best of them; None without a core, or with one that could
    not be run here in the time there was. gate: fitted along with the weight. kept: the step whose weights were kept,
    where that was not the last.
    """

    name: str
    core: str | None
    folder: Path
    size: str | None
    parameters: int
    losses: LossesByLevel
    weight: float | None
    gate: Gate | None
    report: tuple[str, ...]
    samples: tuple[Sample, ...]
    steps: int
    kept: int | None
    seconds: float

    def bits_per_byte(self) -> dict[str, float]:
        """Held-out denoising loss of the small model, its core and their ensemble, as far as there are any."""
        return self._by_member(self.losses.bits_per_byte().tolist())

    def nats_per_token(self) -> dict[str, float]:
        """The same in nats per token."""
        return self._by_member(self.losses.nats_per_token().tolist())

    def nats_by_level(self) -> dict[str, list[float]]:
        """The same in stretches of noise levels of equal width, from 0 to 1."""
        return self._by_member(self.losses.nats_by_level().T.tolist())

    def _by_member(self, columns: list[_T]) -> dict[str, _T]:
        if self.weight is None:
            return {"core" if self.core is None else "small": columns[-1]}
        return {"core": columns[0], "small": columns[-1], "ensemble": columns[self.losses.place(self.weight)]}


def finish(prepared: Prepared, trainer: SmallTrainer, registry: Registry, overwrite: bool) -> Trained:
    """Measure the weights as they will be stored, and register them."""
    model = prepared.beginning.as_stored()
    chosen = heldout_texts(prepared.store, prepared.tokenizer, measured_tokens(prepared.settings))
    seconds = trainer.plan.elapsed
    measured = measure_trained(prepared, model, chosen, seconds)
    name, parent = prepared.settings.name, prepared.parent
    trained = Trained(
        name=name,
        core=None if parent is None else parent.entry.name,
        folder=registry.models / name,
        size=prepared.size,
        parameters=prepared.beginning.parameters,
        losses=measured.losses,
        weight=measured.weight,
        gate=measured.gate,
        report=tuple(prepared.store.info.report),
        samples=tuple(measured.samples),
        steps=trainer.state.global_step,
        kept=trainer.kept,
        seconds=seconds,
    )
    with registry.stage(name, overwrite) as folder:
        _write(prepared, trainer, trained, folder)
    return trained


def _write(prepared: Prepared, trainer: SmallTrainer, trained: Trained, folder: Path) -> None:
    """Fill the model's folder: weights, tokenizer, card, metrics, pictures, recipe, manifest."""
    with writes_weights(folder):
        prepared.beginning.save(folder)
    if prepared.parent is None:
        shutil.copyfile(prepared.workspace / TOKENIZER, folder / TOKENIZER)
    else:
        shutil.copyfile(prepared.parent.entry.folder / TOKENIZER, folder / TOKENIZER)
        if prepared.format == "chat":
            copy_chat(prepared.parent.entry.folder, folder)
    if prepared.settings.canaries:
        shutil.copyfile(prepared.workspace / CANARIES, folder / CANARIES)
    trained_documents = prepared.store.folder / TRAINED_DOCUMENTS
    if trained_documents.exists():  # not in a store that an earlier version made
        shutil.copyfile(trained_documents, folder / TRAINED_DOCUMENTS)
    facts = _facts(prepared, trainer, trained)
    texts = {
        "metrics.jsonl": metrics_lines(facts.history),
        "loss.svg": to_svg(loss_curve(facts.history, facts.kept, f"{trained.name}: training")),
        "recipe.toml": recipe(prepared),
        "README.md": model_card(facts),
        REPORT: report(facts),
    }
    if facts.weight is not None:
        title = f"{trained.name} with {trained.core}"
        texts["weight.svg"] = to_svg(weight_sweep(facts.quality.weights, facts.quality.sweep, title))
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    write_manifest(folder, _manifest(prepared, trained, (folder / TOKENIZER).read_bytes()))


def _manifest(prepared: Prepared, trained: Trained, tokenizer: bytes) -> Manifest:
    config = prepared.model.config
    measured = {f"{who} bits per byte": bits for who, bits in trained.bits_per_byte().items() if isfinite(bits)}
    return Manifest(
        name=trained.name,
        kind=prepared.kind,
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
        base=prepared.base,
        base_weights=prepared.beginning.base_weights,
        format=prepared.format,
        ends=() if prepared.parent is None else prepared.parent.entry.manifest.ends,
        weight=trained.weight,
        gate=None if trained.gate is None else asdict(trained.gate),
        data=prepared.store.info.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: version(name) for name in _VERSIONS},
        metrics=measured,
    )


def _facts(prepared: Prepared, trainer: SmallTrainer, trained: Trained) -> Facts:
    config, info = prepared.model.config, prepared.store.info
    documents = [*prepared.store.train_documents, *prepared.store.heldout_documents]
    return Facts(
        name=trained.name,
        kind=prepared.kind,
        size=trained.size,
        parameters=trained.parameters,
        body_parameters=sum(p.numel() for p in prepared.model.body.parameters()),
        process=prepared.process.name,
        constants=prepared.process.constants(),
        block_size=config.block_size,
        context=config.context,
        vocabulary=config.vocabulary,
        core=trained.core,
        base=prepared.base,
        train=info.train,
        heldout=info.heldout,
        lengths=length_counts(stop - start for start, stop, _ in documents),
        data_lines=info.report,
        data_fingerprint=info.fingerprint,
        trained_tokens=trained.steps * trainer.tokens_per_step,
        steps=trained.steps,
        seconds=trained.seconds,
        device=_device(),
        history=trainer.history,
        kept=trained.kept,
        quality=_quality(trained),
        samples=trained.samples,
        command=_command(prepared.settings),
        settings=_told(prepared.settings),
    )


def _quality(trained: Trained) -> Quality:
    losses = trained.losses
    swept = trained.weight is not None
    return Quality(
        nats_per_token=trained.nats_per_token(),
        bits_per_byte=trained.bits_per_byte(),
        by_level=trained.nats_by_level(),
        weights=losses.weights.tolist() if swept else [],
        sweep=losses.bits_per_byte().tolist() if swept else [],
        weight=trained.weight,
        documents=len(losses.tokens),
        tokens=int(losses.tokens.sum()),
    )


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def _told(settings: TrainSettings) -> dict[str, str]:
    """All settings that have a value, under their flags' names."""
    flags, values = _flags(settings), asdict(settings) | {"data": " ".join(settings.data)}
    return {flags[key]: str(value) for key, value in values.items() if value is not None}


def _flags(settings: TrainSettings) -> dict[str, str]:
    """The names of the settings' flags, by field."""
    return {field.name: field.metadata.get("flag", field.name).replace("_", "-") for field in fields(settings)}


def _given(settings: TrainSettings) -> Mapping[str, object]:
    """The settings that differ from their defaults, under their flags' names."""
    flags = _flags(settings)
    defaults = asdict(TrainSettings())
    return {flags[key]: value for key, value in asdict(settings).items() if value != defaults[key] and key != "data"}


def _command(settings: TrainSettings) -> str:
    """The command that does the same again; the data is not named, its paths are nobody's business."""
    flags = {"for": settings.core} | dict(_given(_placeless(settings)))
    return " ".join(["ssd train-small DATA", *(_typed(flag, value) for flag, value in flags.items())])


def _typed(flag: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def _placeless(settings: TrainSettings) -> TrainSettings:
    """The settings with the name of the checkpoint that was begun from, without its place."""
    return settings if settings.init is None else replace(settings, init=Path(settings.init).name)


def recipe(prepared: Prepared) -> str:
    """The resolved recipe: every setting but the data and what the core decides, under its flag's name, in TOML."""
    settings = _placeless(prepared.settings)
    flags = _flags(settings)
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
            lines.append(f"{flags[key]} = {json.dumps(value, ensure_ascii=False)}")  # for such values, TOML too
    return "\n".join(lines) + "\n"
