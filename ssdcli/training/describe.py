"""The description of a finished training, from which its manifest, card and report are made; and its recipe."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ssdcli.engine.ensemble.gate import PUBLIC_GATE, AverageGate
from ssdcli.evaluation.calibration import bins
from ssdcli.evaluation.estimates import gain, ratio
from ssdcli.evaluation.joint_gate import with_memory
from ssdcli.evaluation.losses import LossesByLevel
from ssdcli.evaluation.measurement import Estimate
from ssdcli.machine.units import counted
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.models.memory.memory_files import Memory
from ssdcli.options.declare import flag_of
from ssdcli.registry.manifest import Manifest, tokenizer_fingerprint
from ssdcli.registry.names import NO_CORE
from ssdcli.reports.description import Description, Quality, length_counts
from ssdcli.training.assessment import Assessment
from ssdcli.training.core_states import CoreStates
from ssdcli.training.prepare import Prepared
from ssdcli.training.settings import FROM_SCRATCH, TrainSettings
from ssdcli.training.trainer import SmallTrainer

_T = TypeVar("_T")


def describe(
    prepared: Prepared, trainer: SmallTrainer, found: Assessment, memory: Memory | None, seconds: float
) -> Description:
    """Describe a trained model, its memory and its training, which took so many seconds."""
    info, steps = prepared.store.info, trainer.state.global_step
    quality = _quality(found, has_core=prepared.parent is not None)
    lengths = [*prepared.store.train_documents, *prepared.store.heldout_documents]
    return Description(
        manifest=_manifest(prepared, found, memory, quality),
        size=prepared.size,
        body_parameters=sum(p.numel() for p in prepared.model.body.parameters()),
        train=info.train,
        heldout=info.heldout,
        lengths=length_counts(stop - start for start, stop, _ in lengths),
        data_lines=[*info.report, *_read_by_core(prepared)],
        read=info.read,
        trained_tokens=steps * trainer.tokens_per_step,
        steps=steps,
        seconds=seconds,
        device=_device(),
        history=trainer.history,
        kept=trainer.kept,
        quality=quality,
        samples=tuple(found.samples),
        command=_command(prepared.settings),
        settings=_told(prepared.settings),
    )


def _read_by_core(prepared: Prepared) -> list[str]:
    """What to say of a text of which the core could only read a part."""
    states, documents = CoreStates.open(prepared.read_folder), len(prepared.store.train_documents)
    if states is None or states.documents == documents:
        return []
    part = f"{states.documents:,} of {counted(documents, 'document')}"
    return [f"the core had time, or room on the disk, to read {part}, drawn at random"]


def _manifest(prepared: Prepared, found: Assessment, memory: Memory | None, quality: Quality) -> Manifest:
    """What the registry keeps of the model; the digests of its files are added when it is registered."""
    config, core = prepared.model.config, prepared.core
    bits = {f"{who} bits per byte": value for who, value in quality.bits_per_byte.items()}
    bits |= {f"{who} bits per byte margin": value for who, value in quality.margins.items()}
    bits |= {"gain bits per byte": quality.gain, "gain bits per byte margin": quality.gain_margin}
    train, causal = prepared.store.info.train, prepared.predicts_next
    return Manifest(
        name=prepared.settings.name,
        kind=prepared.kind,
        architecture=config.architecture,
        process=prepared.process.name,
        constants=dict(prepared.process.constants()),
        block_size=config.block_size,
        context=config.context,
        attention=prepared.attention,
        begin=core.manifest.begin if causal and core is not None else None,
        vocabulary=config.vocabulary,
        tokenizer=tokenizer_fingerprint(prepared.tokenizer_file.read_bytes()),
        parameters=prepared.beginning.parameters,
        core=None if core is None else core.name,
        base=prepared.base,
        base_weights=prepared.beginning.base_weights,
        format=prepared.format,
        ends=() if core is None else core.manifest.ends,
        weight=found.weight,
        gate=None if found.gate is None else asdict(found.gate),
        gates=tuple(map(asdict, _gates(found, prepared, remembers=memory is not None and prepared.exact))),
        memory=None if memory is None else memory.size,
        data=prepared.store.info.fingerprint,
        metrics={name: value for name, value in bits.items() if math.isfinite(value)}
        | {"held-out documents": quality.documents},
        measure=found.measure,
        text={name: getattr(train, name) for name in ("documents", "conversations", "tokens", "bytes")},
    )


def _gates(found: Assessment, prepared: Prepared, *, remembers: bool) -> tuple[AverageGate, ...]:
    """The gates as fitted; beside a causal core a memory has one, also where too little of its text was held out."""
    fitted = tuple(one.gate for one in found.gates)
    if isinstance(prepared.model, TunedCore):
        return fitted or (PUBLIC_GATE,) * remembers
    return with_memory(fitted) if remembers else fitted


def _quality(found: Assessment, *, has_core: bool) -> Quality:
    losses = found.losses
    swept = found.weight is not None
    levels = losses if isinstance(losses, LossesByLevel) else None
    sums = _sums(found, has_core=has_core)
    tried = losses.sums[:, 1:] if not found.gates else found.gates[0].nats[:, None]
    saved = gain(losses.sums[:, [0, -1]], tried, losses.bytes) if swept else Estimate(math.nan, math.nan)
    bits = {who: ratio(own / math.log(2), losses.bytes) for who, own in sums.items()}

    def by_member(columns: list[_T]) -> dict[str, _T]:
        """The columns of the core, the small model and their best ensemble, where these were found."""
        if found.weight is None:
            return {"small" if has_core else "core": columns[-1]}
        return {"core": columns[0], "small": columns[-1], "ensemble": columns[losses.place(found.weight)]}

    return Quality(
        nats_per_token={who: float(own.sum() / losses.tokens.sum()) for who, own in sums.items()},
        bits_per_byte={who: one.value for who, one in bits.items()},
        margins={who: one.margin for who, one in bits.items()},
        gain=saved.value,
        gain_margin=saved.margin,
        by_level=by_member(levels.nats_by_level().T.tolist()) if levels is not None else {},
        level_margins=by_member(levels.level_margins.T.tolist()) if levels is not None else {},
        weights=losses.weights.tolist() if swept else [],
        sweep=losses.bits_per_byte().tolist() if swept else [],
        reliability=_reliability(found),
        documents=len(losses.tokens),
        tokens=int(losses.tokens.sum()),
    )


def _reliability(found: Assessment) -> dict[str, list[tuple[float, float, int]]]:
    """How often the likeliest tokens of the largest set of members are right, by their probability and confidence."""
    gate, tops = (found.gates[0].gate, found.gates[0].tops) if found.gates else (None, None)
    if gate is None or tops is None or gate.confidence is None:
        return {}
    p, right = tops
    fitted = np.array([gate.confidence.of([one]) for one in p.tolist()])
    shown = {"probability": p} if np.allclose(p, fitted) else {"probability": p, "confidence": fitted}
    return {name: list(bins(sure, right)) for name, sure in shown.items()}


def _sums(found: Assessment, *, has_core: bool) -> dict[str, np.ndarray]:
    """The nats of each text by who predicts it: the ensemble at its best weight, or as gates were cross-validated."""
    losses = found.losses
    if found.weight is None:
        return {"small" if has_core else "core": losses.sums[:, -1]}
    best = losses.sums[:, losses.place(found.weight)]
    memory = {} if found.memory is None else {"memory": found.memory}
    ensemble = found.gates[0].nats if found.gates else best
    return {"core": losses.sums[:, 0], "small": losses.sums[:, -1], **memory, "ensemble": ensemble}


def _device() -> str:
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    )


def _told(settings: TrainSettings) -> dict[str, str]:
    """All settings that have a value and were not the core's to decide, by the names of their flags."""
    told = asdict(settings) | {"data": " ".join(settings.data)}
    others = () if settings.core == NO_CORE else FROM_SCRATCH
    flags = _flags(settings)
    return {flags[key]: _shown(value) for key, value in told.items() if value not in (None, ()) and key not in others}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flags(settings: TrainSettings) -> dict[str, str]:
    """The names of the flags, by field."""
    return {field.name: flag_of(field) for field in fields(settings)}


def _given(settings: TrainSettings) -> Mapping[str, object]:
    """The settings that differ from their defaults, by the names of their flags."""
    flags = _flags(settings)
    defaults = asdict(TrainSettings())
    return {flags[key]: value for key, value in asdict(settings).items() if value != defaults[key] and key != "data"}


def _command(settings: TrainSettings) -> str:
    """The command that repeats the training; the paths of the data are private, so it does not name them."""
    flags = {"for": settings.core} | dict(_given(replace(_placeless(settings), me=(), include=())))
    return " ".join(["ssd train-small DATA", *(_typed(flag, value) for flag, value in flags.items())])


def _typed(flag: str, value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"--{flag} {shlex.quote(str(one))}" for one in value)
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def _placeless(settings: TrainSettings) -> TrainSettings:
    """The settings without private paths: of the checkpoint that the training began from the name remains."""
    return settings if settings.init is None else replace(settings, init=Path(settings.init).name)


def recipe(prepared: Prepared) -> str:
    """The resolved recipe in TOML: every setting but the name, the data and what the core decides."""
    settings = _placeless(prepared.settings)
    flags = _flags(settings)
    left_out = ["data", "name"]
    if prepared.core is not None:
        left_out += FROM_SCRATCH
        left_out += [] if prepared.core.manifest.fixed_block is None else ["block_size"]
    lines = [
        "# ssd train-small DATA --name NAME --recipe recipe.toml",
        "# The settings that this model was trained with.",
    ]
    for key, value in asdict(settings).items():
        if value is not None and key not in left_out:
            lines.append(f"{flags[key]} = {json.dumps(value, ensure_ascii=False)}")  # for such values, JSON is TOML
    return "\n".join(lines) + "\n"
