"""Laws of the house: imports point down the list of rooms, the engine knows torch alone, start-up knows no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable

import pytest

from ssdcli.engine import catalogue
from tests.house.source import PACKAGE, Import, imports, imports_in, loads, modules, opens_files, room, strings

ROOMS = (
    "cli",
    "serving",
    "demo",
    "doctor",
    "training",
    "evaluation",
    "generation",
    "hub",
    "reports",
    "data",
    "text",
    "models",
    "registry",
    "engine",
    "machine",
    "options",
)
BOUNDS = "ssdcli.options.checks"  # the one module outside the engine that it imports: it knows neither files nor users
NAMING = ("ssdcli.engine.catalogue", "ssdcli.models.families.")
DECLARED = (*catalogue.PROCESSES, *catalogue.SAMPLERS, *catalogue.RULES, *catalogue.SCHEDULES)
HOMONYMS = {
    ("ssdcli.cli.pull", "gated"),  # a repository of the hub that asks for consent
    ("ssdcli.engine.process.simplex", "simplex"),  # its own file: the target is in the one that chooses a variant
}
LOOSE = ("__init__", "__main__", "api", "errors")
BESIDE = {"__init__": "cli", "__main__": "cli", "api": "demo", "errors": "options"}  # where a loose module ranks

TORCH_FREE = ("cli", "registry", "hub", "engine.catalogue")
HEAVY = ("torch", "transformers", "accelerate", "peft", "datasets", "bitsandbytes", "safetensors.torch")
LIBRARIES_OF_MODELS = ("transformers", "peft", "accelerate", "huggingface_hub")
SLOW = (
    "gzip",
    "importlib.metadata",
    "pickle",
    "ssdcli.data.documents",
    "ssdcli.machine.encodings",
    "tarfile",
)  # for few
STANDARD = frozenset(sys.stdlib_module_names) - {"io", "os", "pathlib", "shutil", "tempfile"}  # without files


def test_only_these_modules_stand_beside_the_rooms() -> None:
    """Everything else is in a room, and every room is in the list."""
    assert {path.stem for path in PACKAGE.glob("*.py")} <= set(LOOSE)
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_down_the_list_of_rooms(name: str) -> None:
    """No module, not even within a function, imports one of a room above its own."""
    rooms = [module for module in modules() if room(module) == name]
    upward = [(module, found) for module in rooms for found in _upward(name, imports(module))]
    assert not [f"{module}:{found.line} imports {found.name}" for module, found in upward]


@pytest.mark.parametrize("name", LOOSE)
def test_loose_modules_import_what_their_rank_allows(name: str) -> None:
    """`api` stands beside `demo`; `errors` imports nothing of the package, whose face hands on what is in `api`."""
    module = f"ssdcli.{name}" if name != "__init__" else "ssdcli"
    assert not _upward(name, imports(module))


@pytest.mark.parametrize(
    "source",
    [
        "import ssdcli",
        "from ssdcli import load",
        "import ssdcli.cli.app",
        "def later():\n    from ssdcli.cli import app",
        "import_module('ssdcli.cli.app')",
        "target = 'ssdcli.cli.app:main'",
    ],
)
def test_no_way_to_import_from_above_is_overlooked(source: str) -> None:
    """The package's face, whose names are those of `api`, is above every room but `cli`."""
    assert _upward("generation", imports_in(source))
    assert not _upward("cli", imports_in(source))


def test_the_engine_imports_torch_and_itself_alone() -> None:
    """No files, no names of models, no errors of the command line: torch and the standard library without its files."""
    outside = {
        (module, found.name)
        for module in modules()
        if room(module) == "engine"
        for found in imports(module)
        if found.name.split(".")[0] not in STANDARD | {"torch"}
        and not found.name.startswith("ssdcli.engine")
        and found.name != BOUNDS
    }
    assert not outside


def test_the_engine_opens_no_files() -> None:
    """Not even by the built-in functions that need no import."""
    assert opens_files("def f(path):\n    return open(path)") == [2]
    found = {module: opens_files(path.read_text(encoding="utf-8")) for module, path in modules().items()}
    assert not {module: lines for module, lines in found.items() if lines and room(module) == "engine"}


@pytest.mark.parametrize("module", [name for name in modules() if not name.startswith(NAMING)])
def test_what_is_declared_is_named_in_the_catalogue_alone(module: str) -> None:
    """Elsewhere it is asked for: `default_rule()`, `needing("base")`, `names(PROCESSES)`; or stands in its own file.

    A name in quotes, or after the flag that takes it, is found; a sentence that happens to have the word is not.
    """
    own = {one.name for one in DECLARED if one.target.partition(":")[0] == module or (module, one.name) in HOMONYMS}
    names = "|".join(map(re.escape, sorted({one.name for one in DECLARED} - own)))
    naming = re.compile(f"({names})|.*--(rule|schedule|sampler|process) ({names})\\b.*", re.DOTALL)
    assert not [(line, text) for line, text in strings(module) if naming.fullmatch(text)]


@pytest.mark.parametrize("module", [name for name in modules() if name.removeprefix("ssdcli.").startswith(TORCH_FREE)])
def test_start_up_loads_no_torch(module: str) -> None:
    """Neither does the module import torch where it is loaded, nor anything that it imports."""
    assert not _way_to_torch(module)


def test_the_command_line_loads_no_torch_through_other_libraries() -> None:
    """What the source does not tell: the real import, with all of the libraries that it brings."""
    wanted = [name for name in modules() if name.removeprefix("ssdcli.").startswith(TORCH_FREE)]
    script = f"import sys\nfor name in {wanted}:\n    __import__(name)\n    assert 'torch' not in sys.modules, name"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr


def test_start_up_loads_nothing_slow_that_it_does_not_need() -> None:
    """`ssd --help` and `ssd models list` take a fifth of a second, of which these imports would be a tenth."""
    script = f"import sys, ssdcli.cli.app\nassert not sys.modules.keys() & {set(SLOW)}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["ssdcli.generation.writer", "ssdcli.models.loading", "ssdcli.doctor.health"])
def test_what_a_packed_core_needs_loads_no_library_of_models(module: str) -> None:
    """Text begins two seconds after the command, of which torch takes half; transformers alone would take as long."""
    assert not {found for found in _reached(module) if found.split(".")[0] in LIBRARIES_OF_MODELS}


def test_no_two_files_share_a_name() -> None:
    """A name says what is in a file; two files of one name are listed here as the same thing at two levels."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        if path.stem != "__init__":
            places[path.stem].append(path.relative_to(PACKAGE).as_posix())
    shared = {name: sorted(paths) for name, paths in places.items() if len(paths) > 1}
    assert shared == {name: paths for name, paths in shared.items() if tuple(paths) in SAME_THING}


def test_no_two_classes_share_a_name() -> None:
    """One name for one thing, in whichever room it is."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in modules().items():
        for name in re.findall(r"^class ([A-Z]\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            places[name].append(module)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_the_allowed_namesakes_are_there() -> None:
    """An entry of the list of files that share a name goes with the files."""
    assert all((PACKAGE / path).is_file() for paths in SAME_THING for path in paths)


SAME_THING = {
    ("cli/audit.py", "evaluation/audit/audit.py"),
    ("cli/evaluate.py", "evaluation/evaluate.py"),
    ("cli/pull.py", "hub/pull.py"),
    ("cli/recipes.py", "registry/recipes.py"),
    ("engine/causal.py", "models/backbones/causal.py", "models/families/causal.py"),
    ("models/backbones/diffusion_gemma.py", "models/families/diffusion_gemma.py"),
    ("models/backbones/modernbert.py", "models/families/modernbert.py"),
    ("models/backbones/ssdlm.py", "models/families/ssdlm.py"),
    ("models/backbones/tess2.py", "models/families/tess2.py"),
}


def _rank(module: str) -> int:
    place = room(module) if module != "ssdcli" else "__init__"
    return ROOMS.index(BESIDE.get(place, place))


def _upward(place: str, found: Iterable[Import]) -> list[Import]:
    """Those imports of the package that a room, or a loose module, must not have."""
    own = ROOMS.index(BESIDE.get(place, place))
    return [one for one in found if one.name.split(".")[0] == "ssdcli" and _rank(one.name) < own]


def _reached(module: str) -> list[str]:
    """A module and all that is imported with it."""
    queue = [module]
    for name in queue:
        queue += [found for found in sorted(loads(name)) if found not in queue] if name in modules() else []
    return queue


def _way_to_torch(module: str) -> list[str]:
    """The chain of imports from a module to a library that brings torch; empty if there is none."""
    before: dict[str, str | None] = {module: None}
    queue = [module]
    for name in queue:
        if name in HEAVY:
            way = [name]
            while (last := before[way[-1]]) is not None:
                way.append(last)
            return way[::-1]
        if name in modules():
            new = [found for found in sorted(loads(name)) if found not in before]
            before |= dict.fromkeys(new, name)
            queue += new
    return []
