"""What a person wants to know first of a registered model, from its manifest alone: needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from ssdcli.machine.units import counted, in_parameters, large
from ssdcli.registry.manifest import ADAPTER, CODE_LENGTH, DENOISING_LOSS, HEAD, MEMORY, NELBO, Manifest
from ssdcli.registry.store import Entry

_COMMIT = 12  # digits of a commit that tell it from all others

_MEASURES = {
    CODE_LENGTH: "exact code length, token by token from the left",
    NELBO: "NELBO, an upper bound on the text's code length",
    DENOISING_LOSS: "mean denoising loss, which does not bound a code length",
}


def explained(measure: str) -> str:
    """The name of a measure, and what it is: `NELBO, an upper bound on the text's code length`."""
    return _MEASURES.get(measure, measure)


@dataclass(frozen=True)
class Overview:
    """A registered model in a few lines.

    title: what it is.
    origin: what it was made from.
    memory: what it holds as a memory, and how to build that again; none without a memory.
    measured: of what its figures are, or how to get some.
    figures: who predicts, and its bits per byte; none where nothing was measured.
    caveat: what the figures mean.
    prompts: what it does with a prompt.
    commands: what to type next.
    """

    title: str
    origin: str
    memory: list[str]
    measured: str
    figures: list[tuple[str, str]]
    caveat: str
    prompts: str
    commands: list[str]


def overview(entry: Entry, *, is_default: bool) -> Overview:
    """Describe a registered model; `is_default`: whether it is the core that is used when none is named."""
    model = entry.manifest
    figures = list(_figures(model))
    here = model.kind != MEMORY and not model.is_remote
    size = [f"{in_parameters(model.parameters)} parameters"] * here
    return Overview(
        title=f"{model.name}: " + ", ".join([identity(model), *size, *["the default core"] * is_default]),
        origin=_origin(entry),
        memory=_memory(model),
        measured=_measured(model) if figures else _unmeasured(model),
        figures=figures,
        caveat=_caveat(model) if figures else "",
        prompts=_prompts(model),
        commands=_commands(model, is_default),
    )


def identity(model: Manifest) -> str:
    """What a model is, and for which other: `a small causal model for the core big`."""
    if model.kind == "core":
        return "a core" + " on another machine" * model.is_remote
    if model.kind == ADAPTER and model.base == model.core:
        return f"an adapter to the core {model.core}" + ", in whose place it writes" * model.tunes_core
    if model.reads_core:
        return f"a small model that reads the hidden states of the core {model.core}"
    small = "a small causal model" if model.attention == "autoregressive" else "a small diffusion model"
    what = {MEMORY: "a memory", HEAD: "a draft head", ADAPTER: f"an adapter to {model.base}"}.get(model.kind, small)
    return f"{what} for the core {model.core}" if model.core else what


def _origin(entry: Entry) -> str:
    """Where a model comes from, with the day on which it was made here."""
    model = entry.manifest
    if model.is_remote:
        return f"{model.source}, which sees the prompt and the text that is written; registered on {_day(model)}"
    if model.source is not None:
        where, _, revision = model.source.rpartition("@")
        commit = "" if revision.startswith("sha256:") else f"@{revision[:_COMMIT]}"  # of a file, a digest
        return f"pulled from {where}{commit} on {_day(model)}"
    begun = [f"begun from {model.base}"] if model.base is not None else []
    comes = ["it comes with ssd"] if entry.bundled else []
    return "; ".join([_amount(model.text), *begun, f"finished on {_day(model)}", *comes])


def _memory(model: Manifest) -> list[str]:
    """What a model holds as a memory, and what builds it again."""
    if model.memory is None:
        return []
    size = f"{counted(model.memory['texts'], 'text')} with {large(model.memory['tokens'])} tokens, word for word"
    export = "refuses it" if model.kind == MEMORY else "leaves it out"
    again = f"ssd train-small FOLDER --update {model.name} builds it again when the text has changed"
    return [f"{size}; 'ssd models export' {export}", again]


def _amount(text: Mapping[str, float]) -> str:
    """The size of a training text: `99 documents, 12 of them conversations, with 41,208 tokens`."""
    sizes = {name: int(text[name]) for name in ("documents", "conversations", "tokens") if text.get(name)}
    if not sizes:
        return "text of unknown size"
    tokens = f"{large(sizes.get('tokens', 0))} tokens"
    if "documents" not in sizes:
        return f"{tokens} of text"
    talks = f", {sizes['conversations']:,} of them conversations," if "conversations" in sizes else ""
    return f"{counted(sizes['documents'], 'document')}{talks} with {tokens}"


def _day(model: Manifest) -> str:
    """The day of a manifest, as `2 January 2026`."""
    try:
        made = datetime.fromisoformat(model.created)
    except ValueError:
        return model.created
    return f"{made.day} {made:%B %Y}"


def _figures(model: Manifest) -> Iterator[tuple[str, str]]:
    """Who predicts, and its bits per byte with their interval."""
    if model.kind == HEAD:
        yield from ((name.removesuffix(" right"), f"{share:.0%}") for name, share in model.metrics.items())
    weight = "" if model.weight is None or model.gates else f", at a weight of {model.weight:g}"
    for who, name in (predictors(model) | {"ensemble": f"{together(model)}{weight}"}).items():
        value, margin = (model.metrics.get(f"{who} bits per byte{end}") for end in ("", " margin"))
        if value is not None:
            yield name, f"{value:.3f}" + ("" if margin is None else f" ± {margin:.3f}")


def predictors(model: Manifest) -> dict[str, str]:
    """What those that predict are called, by their keys in the metrics."""
    alone = model.name if model.kind == "core" else f"{model.core} alone"
    one_by_one = {"core": alone, "small": f"{model.name} alone", "memory": "its memory alone"}
    return one_by_one | {"ensemble": together(model)}


def together(model: Manifest) -> str:
    """What the ensemble is called: where there is a gate, an adapter of the core has joined in its place."""
    if model.memory is None or not model.gates:
        return "both together"
    return f"{model.name} with its memory" if model.tunes_core else "all together"


def _unmeasured(model: Manifest) -> str:
    if model.is_remote:
        return "not measured: that would take sending the text there"
    return "not measured" if model.kind == HEAD else f"not measured yet; '{_evaluation(model)}' does"


def _measured(model: Manifest) -> str:
    if model.kind == HEAD:
        return f"drafted tokens that are the likeliest of {model.core}, on held-out text"
    documents = int(model.metrics.get("held-out documents", 0))
    where = counted(documents, "held-out document") if documents else "held-out text"
    return f"bits per byte on {where}; lower is better"


def _caveat(model: Manifest) -> str:
    if model.kind == HEAD:
        return "it changes no text, only the speed; 'ssd generate --stats' reports what is drafted and accepted"
    has_margins = any(name.endswith(" margin") for name in model.metrics)
    intervals = "with 95% confidence intervals" if has_margins else "without a confidence interval"
    chosen = "; the same text chose the weight" if model.weight is not None else ""
    return f"{explained(model.measure)}; {intervals}{chosen}"


def _prompts(model: Manifest) -> str:
    if model.kind == "core":
        chats = "answered through its chat template; --plain continues them as text"
        return chats if model.format == "chat" else "continued as text"
    if model.kind == HEAD:
        return f"none of its own; it drafts wherever {model.core} writes"
    made = "made from" if model.kind == MEMORY else "trained on"
    if model.format == "plain":
        return f"continued as text, like the documents it was {made}"
    return f"answered, like the conversations it was {made}; --plain continues them as text"


def _evaluation(model: Manifest) -> str:
    return f"ssd eval TEXT {'--core' if model.kind == 'core' else '--with'} {model.name}"


def _commands(model: Manifest, is_default: bool) -> list[str]:
    prompt = '"Dear reader,"' if model.format == "plain" else '"Write a short letter to my landlord."'
    if model.kind == HEAD:
        return [f"ssd generate {prompt} --core {model.core} --stats"]
    if model.kind != "core":
        return [f"ssd generate {prompt} --with {model.name}", _evaluation(model)]
    core = "" if is_default else f" --core {model.name}"
    return [f"ssd generate {prompt}{core}", f"ssd train-small FOLDER --for {model.name} --name NAME"]
