"""Trainings that end by SIGKILL at a chosen moment. Run as `python killed.py TEXT FOLDER`.

Each moment gets a registry FOLDER/PROCESS-MOMENT, and a child process of its own that leaves its training there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ssdcli.training import job
from ssdcli.training.objective import Objective
from ssdcli.training.plan import Plan
from tests.trainings import run, tiny_settings

MOMENTS = (
    ("simplex", "step"),
    ("simplex", "writing"),
    ("simplex", "publishing"),
    ("simplex", "published"),
    ("simplex", "finishing"),
    ("masked", "step"),
    ("masked", "publishing"),
)
KILLED_AT = 4  # steps


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fatal(method: Callable[..., Any], when: Callable[..., bool], *, after: bool = False) -> Callable[..., Any]:
    """The method, with death before or after the call for which `when` holds."""

    def fragile(*arguments: Any, **named: Any) -> Any:
        fatal = when(*arguments)
        if fatal and not after:
            die()
        result = method(*arguments, **named)
        if fatal:
            die()
        return result

    return fragile


def arm(moment: str) -> None:
    """Make this process die at a moment of its fourth step."""
    calls: list[None] = []

    def fourth(*_: Any) -> bool:
        calls.append(None)
        return len(calls) == KILLED_AT

    def last_name(_: Path, target: Path) -> bool:
        return Path(target).name == f"checkpoint-{KILLED_AT}"

    if moment == "step":
        Objective.forward = fatal(Objective.forward, fourth, after=True)
    elif moment == "writing":
        Plan.save = fatal(Plan.save, fourth)
    elif moment == "finishing":
        job.finish = die
    else:
        Path.rename = fatal(Path.rename, last_name, after=moment == "published")


def main(text: str, folder: Path) -> None:
    """Let one child after the other die."""
    for process, moment in MOMENTS:
        child = os.fork()
        if child == 0:
            arm(moment)
            run(tiny_settings(text, process=process), folder / f"{process}-{moment}")
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, (process, moment)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
