"""When members run: what a user writes as a schedule, read into the engine's."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdcli.engine import catalogue
from ssdcli.engine.catalogue import ScheduleDeclaration
from ssdcli.engine.ensemble.gate import AnyGate
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant, Piecewise, Schedule
from ssdcli.errors import UsageError
from ssdcli.generation.blend import Blend
from ssdcli.registry.names import suggest

_FORM = "Write a line such as notes = [[1.0, 0.0], [0.5, 0.3]] for each member: pairs of noise level and weight."

Members = Sequence[Member[Any]]


def schedules(blend: Blend, members: Members, process: str, gate: AnyGate | None = None) -> list[Schedule]:
    """Each member's schedule, by a name of the catalogue or by a TOML file; a gate's own.

    UsageError for a schedule that does not exist or does not fit the rule and the members.
    """
    if gate is not None:
        return _gated(blend, gate)
    if blend.declared.weighs and blend.schedule not in (None, blend.declared.schedule):
        raise UsageError(f"the rule {blend.declared.name} sets the weights itself.", "Omit --schedule.")
    schedule = _default(blend, members, process) if blend.schedule is None else blend.schedule
    declared = named(schedule)
    if declared is None:
        return _from_file(Path(schedule).expanduser(), members, blend)
    return _of(declared, schedule.partition(":")[1:], members, blend)


def named(schedule: str) -> ScheduleDeclaration | None:
    """What the catalogue has of this name, to which a number may be added after a colon; None for a file."""
    name, colon, _ = schedule.partition(":")
    known = {one.name: one for one in catalogue.SCHEDULES}
    return known[name] if name in known and not (colon and known[name].number is None) else None


def among(blend: Blend, process: str) -> tuple[str, ...]:
    """The schedules of a core and small models that need no file; the first is taken unless another is named."""
    if (only := blend.declared.schedule) is not None:
        return (only,)
    usual = catalogue.SCHEDULES[0].name if "base" in blend.needs else catalogue.process(process).schedule
    return (usual, *(one.name for one in catalogue.SCHEDULES if one.name != usual))


def goes_with(blend: Blend, schedule: str) -> bool:
    """Whether the rule of a blend can run by a schedule of this name, or by a file."""
    if (only := blend.declared.schedule) is not None:
        return schedule == only
    declared = named(schedule)
    return declared is None or not _leaves_core_out(declared, blend)


def _leaves_core_out(declared: ScheduleDeclaration, blend: Blend) -> bool:
    """Whether a schedule pauses the core where the rule needs it at every step."""
    return declared.pauses and declared.varies == "core" and "base" in blend.needs


def _default(blend: Blend, members: Members, process: str) -> str:
    return among(blend, process)[0] if _both(members) else catalogue.SCHEDULES[0].name


def _gated(blend: Blend, gate: AnyGate) -> list[Schedule]:
    if blend.schedule not in (None, blend.declared.schedule):
        raise UsageError("a gate sets the weights at every noise level itself.", "Omit --schedule.")
    return list(gate.schedules())


def _of(declared: ScheduleDeclaration, number: tuple[str, str], members: Members, blend: Blend) -> list[Schedule]:
    """A declared schedule for the members whose weight it varies, with the number after its colon, if any."""
    if declared.varies is None:
        return [declared.load()(member.weight) for member in members]
    name = declared.name
    if _leaves_core_out(declared, blend):
        hint = f"Omit --schedule, or use {name} with --rule {catalogue.default_rule()}."
        raise UsageError(f"a {blend.declared.name} needs the core at every step, and {name} pauses it.", hint)
    if not _both(members):
        hint = "Name both (an adapter of the core with its weight), or omit it."
        raise UsageError(f"a {name} needs a core and a small model that both run.", hint)
    given = _number(declared, *number)
    core_varies = declared.varies == "core"
    return [
        declared.load()(member.weight, **given) if (member.role == "core") == core_varies else Constant(member.weight)
        for member in members
    ]


def _both(members: Members) -> bool:
    """Whether there are a core and a small model."""
    return {"core", "small"} <= {member.role for member in members}


def _number(declared: ScheduleDeclaration, colon: str, text: str) -> dict[str, float | None]:
    """The number of a schedule as its argument: the one after the colon, or the default."""
    number = declared.number
    if number is None:
        return {}
    if not colon:
        return {number.name: number.default}
    try:
        return {number.name: number.checked(float(text))}
    except ValueError:
        problem = f"the {number.name} of the {declared.name} must be {number.check}, not {text!r}."
        raise UsageError(problem, f"Write {declared.name}:{number.default:g}.") from None


def _from_file(path: Path, members: Members, blend: Blend) -> list[Schedule]:
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
            raise UsageError(f"the schedule {str(path)!r} names {name!r}, which is not a member.", hint)
    chosen: list[Schedule] = []
    leader = ""
    for member in members:
        leader = leader if member.role == "base" else member.name
        chosen.append(_piecewise(path, leader, tables[leader]) if leader in tables else Constant(member.weight))
        if "base" in blend.needs and member.role == "core":
            _check_always_on(path, blend.declared.name, member.name, chosen[-1])
    idle = next((t / 1000 for t in range(1000, 0, -1) if all(schedule(t / 1000) == 0 for schedule in chosen)), None)
    if idle is not None:
        problem = f"the schedule {str(path)!r} lets no member run at noise level {idle:g}."
        raise UsageError(problem, "Give one a weight above zero at every level.")
    return chosen


def _check_always_on(path: Path, rule: str, core: str, schedule: Schedule) -> None:
    if any(schedule(t / 1000) == 0 for t in range(1, 1001)):
        problem = f"the schedule {str(path)!r} leaves out {core!r}, and a {rule} needs the core at every step."
        raise UsageError(problem, "Give it a weight above zero at every level.")


def _read(path: Path) -> dict[str, Any]:
    from ssdcli.machine.encodings import decode_bytes

    try:
        return tomllib.loads(decode_bytes(path.read_bytes()).text)
    except OSError as error:
        raise UsageError(
            f"the schedule {str(path)!r} cannot be read ({error.strerror}).",
            f"Write {catalogue.schedule_help()}, or name a file.",
        ) from None
    except tomllib.TOMLDecodeError as error:
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
