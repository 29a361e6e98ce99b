"""The package's source as the guards read it: its modules, and what each imports, without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ssdcli"
FILES = ("open", "exec", "eval", "__import__")  # built-in functions that reach files, or could


@dataclass(frozen=True)
class Import:
    """One import: the module, or the module and the name in it that may be a module too.

    name: dotted, absolute.
    line: where it stands.
    when_loaded: whether it runs when the module is imported, and not in a function or for a type checker alone.
    """

    name: str
    line: int
    when_loaded: bool


def module_name(path: Path) -> str:
    """The dotted name of a file of the package: "ssdcli.engine.process.masked"."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """All modules of the package by dotted name."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """The folder of the package that a module stands in, or the module's own name if it stands beside the folders."""
    return module.split(".")[1] if "." in module else module


@cache
def imports(module: str) -> tuple[Import, ...]:
    """All imports in a module, those within functions included."""
    return imports_in(modules()[module].read_text(encoding="utf-8"))


def imports_in(source: str) -> tuple[Import, ...]:
    """All imports in a source text, and the modules of the package that its strings name."""
    return tuple(dict.fromkeys(_imports(ast.parse(source), when_loaded=True)))


def opens_files(source: str) -> list[int]:
    """The lines of a source text that call what reaches files without an import."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id in FILES]


def strings(module: str) -> list[tuple[int, str]]:
    """All strings in a module with their lines; of an f-string those between its values."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [(node.lineno, node.value) for node in nodes if isinstance(node.value, str)]


@cache
def loads(module: str) -> frozenset[str]:
    """The modules, the package's own and others, that run when this one is imported; with their parent packages."""
    names = {found.name for found in imports(module) if found.when_loaded} | {module}
    parents = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
    return frozenset((names | parents) - {module})


def _imports(node: ast.AST, when_loaded: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, when_loaded) for alias in child.names)
        elif isinstance(child, ast.Constant):  # for `import_module` and the catalogue's targets
            name = str(child.value).partition(":")[0]
            if "." in name and name in modules():  # "ssdcli" alone is also the name of what pip installs
                yield Import(name, child.lineno, when_loaded=False)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative imports are not used here"
            yield from (
                Import(_target(child.module or "", alias.name), child.lineno, when_loaded) for alias in child.names
            )
        else:
            runs = not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not _is_for_types(
                child
            )
            yield from _imports(child, when_loaded and runs)


def _target(module: str, name: str) -> str:
    return f"{module}.{name}" if f"{module}.{name}" in modules() else module


def _is_for_types(node: ast.AST) -> bool:
    """Whether this is `if TYPE_CHECKING:`; what stands in its `else` would be missed, and there is none."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
