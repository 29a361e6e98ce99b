from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import benchmarks
from benchmarks.__main__ import parser_of

FOLDER = Path(benchmarks.__file__).parent
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_asks_one_question_and_its_quick_run_changes_arguments_that_it_has(name: str) -> None:
    module = import_module(f"benchmarks.{name}")
    assert module.__doc__.partition("\n")[0].count("?") > 0
    assert f"python -m benchmarks {name}" in module.__doc__
    assert hasattr(module, "main") or (callable(module.work) and callable(module.report))
    known = {action.dest for action in parser_of(module, name)._actions}
    assert set(getattr(module, "QUICK", {})) <= known
    assert ("quick" in known) == hasattr(module, "QUICK")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False, timeout=120)


def test_without_a_name_all_scripts_are_listed() -> None:
    listed = run()
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[2:]] == SCRIPTS
    assert run("no-such-script").returncode == 2


def test_the_machine_is_prepared_before_torch_is_imported() -> None:
    code = (
        "import sys; from benchmarks import __main__ as runner\n"
        "runner.prepare_machine = lambda: sys.exit('torch' if 'torch' in sys.modules else 'none')\n"
        "sys.argv = ['', 'collaboration', '--help']; runner.main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.stderr == "none\n"
