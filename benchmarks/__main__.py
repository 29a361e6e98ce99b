"""Run one of the benchmarks: `python -m benchmarks NAME [OPTIONS]`; without a name, list them.

A benchmark is a module with `arguments(parser)` and `main(given)`; QUICK holds the arguments' defaults with `--quick`.
"""

from __future__ import annotations

import ast
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from importlib import import_module
from pathlib import Path

from ssdcli.errors import SsdError
from ssdcli.machine.environment import prepare_machine

_FOLDER = Path(__file__).parent
_UNPREPARED = ("noise",)  # measures memory as malloc hands it out, and prepares its own processes afterwards


def main() -> None:
    """Prepare the machine, which has to happen before torch is imported; then import and run the benchmark."""
    scripts = {path.stem: path for path in sorted(_FOLDER.glob("*.py")) if not path.stem.startswith("_")}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in scripts:
        print("usage: python -m benchmarks NAME [OPTIONS]\n")
        print("\n".join(f"  {name:17} {_question(path)}" for name, path in scripts.items()))
        sys.exit(0 if name in ("", "-h", "--help") else 2)
    if name not in _UNPREPARED:
        prepare_machine()
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    module = import_module(f"benchmarks.{name}")
    parser = ArgumentParser(prog=sys.argv[0], description=module.__doc__, formatter_class=RawDescriptionHelpFormatter)
    module.arguments(parser)
    given = parser.parse_args()
    if getattr(given, "quick", False):
        parser.set_defaults(**module.QUICK)
        given = parser.parse_args()
    try:
        module.main(given)
    except SsdError as error:
        sys.exit(str(error))


def _question(path: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
