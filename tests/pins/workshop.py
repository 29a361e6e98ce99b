"""A copy of the stored registry, and the command line over it, run in this process as `python -m ssdcli` would be.

Nothing here knows a module inside ssdcli: only the command line and what `import ssdcli` offers.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).parent
DATA = HERE / "data"
PINS = HERE / "pins.json"


class Workshop:
    """A folder with `home` (SSD_HOME), `text` and more, in which commands are run.

    brief: whether a choice of the cases will do, for tests that are run all the time.
    """

    def __init__(self, folder: Path, brief: bool = False) -> None:
        self.folder, self.brief = folder, brief
        self.home = folder / "home"

    @classmethod
    def copied(cls, folder: Path, brief: bool = False) -> Workshop:
        """A fresh copy of all that is stored."""
        shutil.copytree(DATA, folder, dirs_exist_ok=True)
        return cls(folder, brief)

    @contextmanager
    def entered(self, env: Mapping[str, str] | None = None) -> Iterator[None]:
        """Make this folder the present one, and its home that of ssd; nothing of the user's is seen."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SSD_")}
        told = {"SSD_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with patch.dict(os.environ, {**clean, **told, **(env or {})}, clear=True):
                yield
        finally:
            os.chdir(before)

    def run(self, *arguments: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> bytes:
        """What a command writes to standard output; RuntimeError with its standard error if it fails."""
        said = stdin.encode() if isinstance(stdin, str) else stdin
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with (
            self.entered(env),
            patch.object(sys, "argv", ["ssd", *arguments]),
            patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(said), encoding="utf-8")),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                runpy.run_module("ssdcli", run_name="__main__")
            except SystemExit as ending:
                if ending.code:
                    raise RuntimeError(f"ssd {' '.join(arguments)}: {ending.code}: {err.getvalue()}") from None
        out.flush()
        return out.buffer.getvalue()  # type: ignore[attr-defined]

    def text(self, *arguments: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> str:
        """Standard output as text."""
        return self.run(*arguments, stdin=stdin, env=env).decode()

    def json(self, *arguments: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> list[Any]:
        """The JSON values on the lines of standard output, `--json` being added."""
        lines = self.text(*arguments, "--json", stdin=stdin, env=env).split("\n")
        return [json.loads(line) for line in lines if line]

    def manifest(self, name: str) -> dict[str, Any]:
        """What a model's manifest says."""
        found: dict[str, Any] = json.loads((self.home / "models" / name / "ssd.json").read_text(encoding="utf-8"))
        return found


def without(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A table less some of its keys, which tell of a machine, a time or a place."""
    return {key: value for key, value in table.items() if key not in names}


def machine_of_one_thread() -> None:
    """Let torch compute with one thread, by which sums are rounded alike everywhere."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
