"""`ssd doctor`: the machine, what fits, and the registry's health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import core_names
from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.machine.environment import import_torch
from ssdcli.machine.units import counted, in_bytes
from ssdcli.registry.store import Registry

if TYPE_CHECKING:
    from ssdcli.doctor.health import Checkup

For = Annotated[
    str | None,
    typer.Option("--for", metavar="CORE", autocompletion=core_names, help="Show how 'generate' would run this core."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(core: For = None, as_json: AsJson = False) -> None:
    """Show what this machine has, which cores fit and how fast they are, what is broken, and what to do next."""
    registry = Registry()
    if core is not None:
        _write_outlook(registry, core, as_json=as_json)
        return
    with console.waiting("measuring"):
        import_torch()
        from ssdcli.doctor.health import examine

        checkup = examine(registry)
    if as_json:
        console.write_json(checkup.to_json())
    else:
        console.write_table(_rows(checkup))
    if checkup.problems:
        raise SsdError(
            f"{len(checkup.problems)} of the models cannot be used: {', '.join(checkup.problems)}.",
            "The table says what mends each.",
        )


def _write_outlook(registry: Registry, name: str, *, as_json: bool) -> None:
    if "/" in name:  # no model's name, but a repository or a path
        problem = f"--for takes the name of a registered core, and {name!r} is a place to pull one from."
        raise NoSuchModel(problem, f"'ssd pull {name} --dry-run' says whether it fits here.")
    entry = registry.find(name)
    if entry.manifest.kind != "core":
        raise UsageError(f"{name!r} is {entry.manifest.noun}, not a core.", "See 'ssd models list'.")
    import_torch()
    from ssdcli.doctor.outlook import outlook
    from ssdcli.machine.hardware import look

    sentences = outlook(entry, look())
    if as_json:
        console.write_json({"core": name, "outlook": sentences})
    else:
        console.write("\n".join(sentences))


def _rows(checkup: Checkup) -> list[tuple[str, str]]:
    """The rows of the table."""
    hardware = checkup.hardware
    fast = "" if hardware.bfloat16 else ", slow at bfloat16"
    memory = f"{in_bytes(hardware.memory)}, {in_bytes(hardware.free)} free"
    return [
        ("cpu", f"{counted(hardware.cores, 'core')}{fast}"),
        ("memory", memory),
        ("bandwidth", f"{in_bytes(int(checkup.bandwidth))} of weights a second, measured now"),
        *(
            (gpu.device, f"{gpu.name}, {in_bytes(gpu.memory)}, {in_bytes(gpu.free)} free")
            for gpu in hardware.accelerators
        ),
        *(("disk", f"{in_bytes(free)} free for {folder}") for folder, free in checkup.disks.items()),
        *((package, found or "not installed") for package, found in checkup.versions.items()),
        ("8 and 4 bits", "yes" if hardware.quantizes else "no; pip install 'ssdcli[quantize]'"),
        ("network", "offline" if checkup.offline else "used by 'ssd pull', and by cores that run elsewhere"),
        ("models", f"{checkup.models}, {len(checkup.problems) or 'none'} broken"),
        *checkup.cores.items(),
        *((name, f"broken: {problem}") for name, problem in checkup.problems.items()),
        *(("to pull", f"{repo}: {said}") for repo, said in checkup.to_pull.items()),
        ("a training", checkup.training),
        *(("next", sentence) for sentence in checkup.next),
    ]
