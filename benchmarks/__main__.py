"""Run one of the benchmarks: `python -m benchmarks NAME [OPTIONS]`; without a name, list them.

A benchmark is a module with `arguments(parser)` and `main(given)`. A long one, whose results are kept, has instead of
`main` what `lib.experiment.run` calls: `work(given, workshop)`, `report(lines)`, and perhaps `check(given)`. QUICK
holds the arguments' defaults with `--quick`.
"""

from __future__ import annotations

import ast
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ssdcli.errors import SsdError
from ssdcli.machine.environment import prepare_machine

_FOLDER = Path(__file__).parent


def main() -> None:
    """Prepare the machine, which has to happen before torch is imported; then import and run the benchmark."""
    scripts = {path.stem: path for path in sorted(_FOLDER.glob("*.py")) if not path.stem.startswith("_")}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in scripts:
        print("usage: python -m benchmarks NAME [OPTIONS]\n")
        print("\n".join(f"  {name:17} {_question(path)}" for name, path in scripts.items()))
        sys.exit(0 if name in ("", "-h", "--help") else 2)
    prepare_machine()
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    module = import_module(f"benchmarks.{name}")
    parser = parser_of(module, sys.argv[0])
    given = parser.parse_args()
    if getattr(given, "quick", False):
        parser.set_defaults(**module.QUICK)
        given = parser.parse_args()
    try:
        if hasattr(module, "main"):
            module.main(given)
        else:
            import_module("benchmarks.lib.experiment").run(given, module)
    except SsdError as error:
        sys.exit(str(error))


def parser_of(benchmark: ModuleType, name: str) -> ArgumentParser:
    """The arguments of a benchmark, and those that others of its kind have too."""
    parser = ArgumentParser(prog=name, description=benchmark.__doc__, formatter_class=RawDescriptionHelpFormatter)
    benchmark.arguments(parser)
    if not hasattr(benchmark, "main"):
        parser.add_argument("--out", type=Path, help="file of results, a line each; models are kept beside it")
        parser.add_argument("--table", type=Path, help="only print the tables of this file")
    if hasattr(benchmark, "QUICK"):
        parser.add_argument("--quick", action="store_true", help="a small run of about a minute")
    return parser


def _question(path: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
