"""`ssd pull`: a checkpoint from the hub or from this computer as a core."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import core_names
from ssdcli.cli.progress import pulse
from ssdcli.errors import UsageError, require
from ssdcli.machine.environment import import_torch
from ssdcli.machine.units import in_parameters, large
from ssdcli.registry.names import check_name
from ssdcli.registry.store import Entry, Registry

if TYPE_CHECKING:
    from ssdcli.hub.pull import PullPlan, Watch
    from ssdcli.machine.placement import Need

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="ORG/NAME, ORG/NAME@REVISION or ORG/NAME:FILE.gguf on the hub, the path of a folder or a GGUF file, or "
        "http://HOST:PORT/v1#MODEL for a causal language model that a server runs.",
    ),
]
As = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Its name here [default: the repository's or file's].")
]
_ATTENTION = {  # in words, for people; JSON has the manifest's
    "autoregressive": "causal: it predicts the next token, one a pass",
    "causal": "causal before the canvas, full on it",
    "block-causal": "full inside a block, causal between blocks",
    "full": "full: all tokens see each other",
}
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model of this name.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be fetched and whether it fits, without fetching the weights.")
]
TokenizerOf = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="SOURCE",
        help="For a model that a server runs: where it is from. Its tokenizer is fetched, not its weights.",
    ),
]
Variable = Annotated[
    str,
    typer.Option("--token-variable", metavar="NAME", help="The environment variable that holds a server's token."),
]
For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="CORE",
        autocompletion=core_names,
        help="For a DFlash drafter: the registered core that it was published for, which it makes faster.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(pull)


def pull(
    source: Source,
    name: As = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    tokenizer: TokenizerOf = None,
    variable: Variable = "SSD_CORE_TOKEN",
    core: For = None,
    as_json: AsJson = False,
) -> None:
    """Register a core: a checkpoint from the Hugging Face hub, a folder or a GGUF file, or a server's model.

    With --for a DFlash drafter, which makes a core faster.
    """
    # Read when huggingface_hub is imported: its warnings would mix with ours, and nothing may be sent anywhere.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if source.startswith(("http://", "https://")):
        require(not dry_run, "there is nothing to fetch of a server's model.", "Omit --dry-run.")
        with console.waiting("reading"):
            entry: Entry | None = _registered_remote(source, tokenizer, variable, name, overwrite)
    else:
        require(tokenizer is None, "--tokenizer is for a model that a server runs.", "Omit it.")
        if core is not None:
            require(not dry_run, "a drafter is fetched whole.", "Omit --dry-run.")
            entry = _registered_drafter(source, core, name, overwrite)
        else:
            entry = _registered_core(source, name, overwrite, dry_run=dry_run, as_json=as_json)
    if as_json and entry is not None:
        console.write_json(_registered(entry))


def _registered_core(source: str, name: str | None, overwrite: bool, *, dry_run: bool, as_json: bool) -> Entry | None:
    """Register a core, or write what a pull would do."""
    from ssdcli.hub import pull as pipeline
    from ssdcli.hub.source import default_name, parse_source

    place = parse_source(source)
    given = name or default_name(place)
    if given:  # otherwise the GGUF file may say what the model is called
        check_name(given)
    with console.waiting("reading"):
        plan = pipeline.preview(place) if dry_run else pipeline.plan(place)
    name = check_name(given or plan.stated_name)
    for doubt in plan.doubts:
        console.warn(doubt)
    if dry_run:
        _write_facts(_facts(plan, name), as_json=as_json)
        return None
    registry = Registry()
    entry = None if overwrite else pipeline.registered(plan.origin, name, registry)
    if entry is not None:
        console.note(f"{name!r} is {plan.source.place} already; nothing was fetched.")
        return entry
    if plan.header is not None:
        console.note(_dequantising(plan))
    sizes = f", {large(plan.weight_bytes, 'B')} to {large(plan.bytes_to_write, 'B')}"
    with _bar(plan.weight_bytes, "converting" if plan.header is None else plan.conversion + sizes) as watch:
        entry = pipeline.pull(plan, name, registry, watch, overwrite)
    console.note(f"Registered {name!r}: {plan.family.title}, {in_parameters(entry.manifest.parameters)} parameters.")
    first = "Why is the sky blue?" if entry.manifest.format == "chat" else "Once upon a time"
    console.note(f"Now try: ssd generate --core {name} {shlex.quote(first)}")
    return entry


def _registered_remote(source: str, tokenizer: str | None, variable: str, name: str | None, overwrite: bool) -> Entry:
    """Register a server's model, and say what it will see."""
    from ssdcli.hub.remote import register_remote
    from ssdcli.hub.source import parse_source, spelled
    from ssdcli.models.remote.address import Address

    address = Address.parse(source, variable)
    remedy = "Name the repository or folder of the model that the server runs, as in --tokenizer ORG/NAME."
    if tokenizer is None:
        raise UsageError("a server does not give away its tokenizer.", remedy)
    name = check_name(name or spelled(address.model))
    entry = register_remote(address, parse_source(tokenizer), name, Registry(), overwrite)
    console.note(
        f"Registered {name!r}: {address.model} at {address.host}, asked for {Address.of(entry.folder).top} tokens "
        "of each place."
    )
    console.note(f"{address.host} sees the prompt and the text that is written, and nothing else; see docs/remote.md.")
    if address.url.startswith("http://") and not address.is_here:
        console.warn(f"what is sent to {address.host} is not encrypted.")
    return entry


def _registered_drafter(source: str, core: str, name: str | None, overwrite: bool) -> Entry:
    """Register a drafter for a core."""
    from ssdcli.hub.published_drafter import plan_drafter, pull_drafter
    from ssdcli.hub.pull import registered
    from ssdcli.hub.source import default_name, parse_source

    place, registry = parse_source(source), Registry()
    name = check_name(name or default_name(place))
    with console.waiting("reading"):
        plan = plan_drafter(place, registry.find(core))
    known = None if overwrite else registered(plan.origin, name, registry)
    if known is not None:
        console.note(f"{name!r} is {plan.source.place} already; nothing was fetched.")
        return known
    with _bar(plan.weight_bytes, "checking") as watch:
        entry = pull_drafter(plan, name, registry, watch, overwrite)
    console.note(f"Registered {name!r}: a DFlash drafter, {in_parameters(entry.manifest.parameters)} parameters.")
    console.note(f"{core!r} drafts by it from now on; --stats of 'ssd generate' tells how well.")
    return entry


def _dequantising(plan: PullPlan) -> str:
    """What a GGUF file takes of the disk, and of memory when it runs."""
    sizes = f"{large(plan.weight_bytes, 'B')} become {large(plan.bytes_to_write, 'B')} on the disk"
    return f"Dequantising: {sizes}. To run here: {_outlook(_need(plan))}"


@contextmanager
def _bar(weight_bytes: int, converting: str) -> Iterator[Watch]:
    """A progress bar over the bytes of the weights, on standard error; converting: what is said after them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from ssdcli.hub.pull import Watch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console.terminal(), transient=True) as bar:
        task = bar.add_task("fetching", total=weight_bytes)
        yield Watch(
            fetched=lambda count: bar.advance(task, count),
            converting=lambda: pulse(bar, description=converting),
        )


def _facts(plan: PullPlan, name: str) -> dict[str, Any]:
    """What is known before the weights are fetched."""
    import_torch()
    from ssdcli.hub.pull import suited
    from ssdcli.training.choices import choose_preset
    from ssdcli.training.settings import TrainSettings

    need = _need(plan)
    count = need.parameters
    return {
        "name": name,
        "source": plan.source.place,
        "gated": plan.source.gated,
        "licence": plan.licence,
        "family": plan.family.title,
        "process": plan.spec.process,
        "attention": plan.spec.attention,
        "parameters": count,
        "files": {file.name: file.size for file in plan.weights},
        "bytes": plan.weight_bytes,
        "bytes_to_fetch": plan.bytes_to_fetch,
        "bytes_converted": plan.bytes_to_write,
        "weights": plan.conversion,
        "this_machine": _outlook(need),
        "small_sizes": list(dict.fromkeys([choose_preset(TrainSettings(), tokens=count).name, suited(count).name])),
    }


def _need(plan: PullPlan) -> Need:
    """What the core will need; its weights are stored as they are published, those of a GGUF file in bfloat16."""
    from ssdcli.models.weights.stored import announced_need

    need = announced_need(plan.native, "bfloat16", plan.spec)
    long = plan.header is None and (plan.bytes_to_write or plan.weight_bytes) > 3 * need.parameters
    return replace(need, stored="float32") if long else need


def _outlook(need: Need) -> str:
    """How a core would be held here, or why it cannot be."""
    from ssdcli.doctor.fit import summary
    from ssdcli.machine.hardware import look

    return summary(need, look())


def _write_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.write_json(facts)
        return
    rows = [(key.replace("_", " "), _shown(key, value)) for key, value in facts.items() if key != "files"]
    console.write_table([*rows, *(("file", f"{file}, {large(size, 'B')}") for file, size in facts["files"].items())])


def _shown(key: str, value: object) -> str:
    if key == "attention":
        return _ATTENTION.get(str(value), str(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    if key.startswith("bytes") and isinstance(value, int):
        return large(value, "B")
    return f"{value:,}" if isinstance(value, int) else str(value or "-")


def _registered(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    facts = {key: getattr(manifest, key) for key in ("source", "architecture", "process", "attention", "parameters")}
    return {"name": entry.name, **facts, "path": str(entry.folder)}
