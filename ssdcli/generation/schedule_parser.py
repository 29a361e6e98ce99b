"""When members run: what a user writes as a schedule, read into the engine's."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdcli.engine.ensemble.gate import Gate
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import LEANS, Constant, Leaning, Piecewise, Sandwich, Schedule
from ssdcli.errors import UsageError
from ssdcli.generation.types import Blend
from ssdcli.registry.names import suggest

CONSTANT = "constant"
LEANING = "leaning"
SANDWICH = "sandwich"
GATED = "gated"  # the rule that leans as the gate says
_STEEPEST = 20.0  # a weight that grows by e^20 over the way is no less than a switch
_FORM = "Write a line such as notes = [[1.0, 0.0], [0.5, 0.3]] for each member: pairs of noise level and weight."

Members = Sequence[Member[Any]]


def schedules(blend: Blend, members: Members, process: str, gate: Gate | None = None) -> list[Schedule]:
    """Each member's schedule: constant, `leaning[:S]`, `sandwich[:F]`, or what a TOML file says; a gate's own.

    UsageError for what cannot be.
    """
    if gate is not None:
        return _gated(blend, gate)
    schedule = _default(blend.rule, members, process) if blend.schedule is None else blend.schedule
    name, number = kind(schedule), schedule.partition(":")[1:]
    if schedule == CONSTANT:
        return [Constant(member.weight) for member in members]
    if name == LEANING:
        return _leaning(members, number)
    if name == SANDWICH:
        return _sandwiched(blend.rule, members, number)
    return _from_file(Path(schedule).expanduser(), members, blend.rule)


def among(rule: str, process: str) -> tuple[str, ...]:
    """The schedules of a core and small models that need no file; the first is taken unless another is named."""
    if rule == GATED:
        return (LEANING,)
    leans = process in LEANS and rule != "contrast"
    return (LEANING, CONSTANT, SANDWICH) if leans else (CONSTANT, LEANING, SANDWICH)


def _default(rule: str, members: Members, process: str) -> str:
    return among(rule, process)[0] if _both(members) else CONSTANT


def kind(schedule: str) -> str:
    """A schedule's name without its number: CONSTANT, LEANING or SANDWICH; else it is a file's."""
    return schedule.partition(":")[0]


def _gated(blend: Blend, gate: Gate) -> list[Schedule]:
    if blend.schedule not in (None, *among(GATED, "")):
        raise UsageError("a gate itself says when a small model weighs how much.", "Leave --schedule out.")
    return list(gate.schedules())


def _leaning(members: Members, number: tuple[str, str]) -> list[Schedule]:
    """The small models and their bases gain weight where there is more noise."""
    _check_both(members, LEANING)
    slope = _number(number, Leaning.slope, -_STEEPEST, _STEEPEST, "the leaning's slope", "Say leaning:2.")
    return [Constant(m.weight) if m.role == "core" else Leaning(m.weight, slope) for m in members]


def _sandwiched(rule: str, members: Members, number: tuple[str, str]) -> list[Schedule]:
    """The core in the middle of the way alone."""
    if rule == "contrast":
        raise UsageError("a contrast needs the core at every step.", "Use the sandwich with --rule mix or average.")
    _check_both(members, SANDWICH)
    light = _number(number, Sandwich.light, 0, 1, "the sandwich's share of light steps", "Say sandwich:0.25.")
    return [Sandwich(m.weight, light) if m.role == "core" else Constant(m.weight) for m in members]


def _check_both(members: Members, name: str) -> None:
    if not _both(members):
        raise UsageError(f"a {name} needs a core and a small model that both run.", "Name both, or leave it out.")


def _both(members: Members) -> bool:
    """Whether there are a core and a small model."""
    return {"core", "small"} <= {member.role for member in members}


def _number(given: tuple[str, str], default: float, least: float, most: float, what: str, hint: str) -> float:
    """The number behind a schedule's colon, if there is one."""
    colon, text = given
    try:
        number = float(text) if colon else default
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise UsageError(f"{what} must be between {least:g} and {most:g}, not {text!r}.", hint)
    return number


def _from_file(path: Path, members: Members, rule: str) -> list[Schedule]:
    """Piecewise linear weights by member; a member that the file does not name keeps its weight.

    A base follows its small model in the list and has the same schedule.
    """
    known = [member.name for member in members if member.role != "base"]
    tables = _read(path)
    if not tables:
        raise UsageError(f"the schedule {str(path)!r} is empty.", _FORM)
    for name in tables:
        if name not in known:
            hint = f"{suggest(name, known)} The members are {', '.join(known)}.".strip()
            raise UsageError(f"the schedule {str(path)!r} names {name!r}, which is no member.", hint)
    chosen: list[Schedule] = []
    leader = ""
    for member in members:
        leader = leader if member.role == "base" else member.name
        chosen.append(_piecewise(path, leader, tables[leader]) if leader in tables else Constant(member.weight))
        if rule == "contrast" and member.role == "core":
            _check_always_on(path, member.name, chosen[-1])
    idle = next((t / 1000 for t in range(1000, 0, -1) if all(schedule(t / 1000) == 0 for schedule in chosen)), None)
    if idle is not None:
        problem = f"the schedule {str(path)!r} lets no member run at noise level {idle:g}."
        raise UsageError(problem, "Give one a weight above zero at every level.")
    return chosen


def _check_always_on(path: Path, core: str, schedule: Schedule) -> None:
    if any(schedule(t / 1000) == 0 for t in range(1, 1001)):
        problem = f"the schedule {str(path)!r} leaves out {core!r}, and a contrast needs the core at every step."
        raise UsageError(problem, "Give it a weight above zero at every level.")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the schedule {str(path)!r} cannot be read ({error.strerror}).",
            f"Say {CONSTANT}, {LEANING}[:S], {SANDWICH}[:F], or name a file.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the schedule {str(path)!r} is not valid TOML ({error}).", _FORM) from None


def _piecewise(path: Path, name: str, table: Any) -> Piecewise:
    """The points of the member of this name."""
    problem = f"the schedule {str(path)!r} has no list of pairs for {name!r} with levels that fall from 1 to 0."
    try:
        points = tuple((float(t), float(w)) for t, w in table)
        piecewise = Piecewise(points)
    except (TypeError, ValueError):
        raise UsageError(problem, _FORM) from None
    if not all(0 <= t <= 1 and 0 <= w <= 1 for t, w in points):
        raise UsageError(f"the schedule {str(path)!r} has a level or weight outside [0, 1] for {name!r}.", _FORM)
    return piecewise
