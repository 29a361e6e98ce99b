"""How a training is watched and stopped at a terminal: a progress bar, and ^C."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from ssdcli.cli import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ssdcli.training.job import Watcher
    from ssdcli.training.trainer import Progress


@dataclass
class Stop:
    """Whether the user asked to stop, and whether a training step has to be finished first."""

    asked: bool = False
    in_step: bool = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Let the first ^C (or SIGTERM) during a step stop the training after it; any other stops it at once."""
    stop = Stop()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.asked or not stop.in_step:
            raise KeyboardInterrupt
        stop.asked = True
        console.note("Stopping after this step; press ^C again to stop at once.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pulse(bar: Bar, **shown: str) -> None:
    """Show in a progress bar that something goes on, of which nobody knows how long it takes."""
    (task,) = bar.tasks
    task.total = None  # `update` knows no such change
    bar.update(task.id, **shown)  # type: ignore[arg-type]


class Screen:
    """A progress bar on standard error, and above it what was read."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console.terminal(),
            transient=True,
        )
        self._task = self._bar.add_task(f"reading for {name}", total=None, facts="")

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def watcher(self, stop: Stop) -> Watcher:
        """Callbacks that draw on this screen, and tell `stop` while steps are being taken."""
        from ssdcli.training.job import Watcher

        def prepared(report: Sequence[str], what: str) -> None:
            self._prepared(report, what)
            stop.in_step = True

        def measuring() -> None:
            stop.in_step = False
            self._measuring()

        return Watcher(prepared, self._progress, self._reading, self._comparing, measuring, lambda: stop.asked)

    def _prepared(self, report: Sequence[str], what: str) -> None:
        for line in report:
            (console.note if line.startswith("read") and "--me" not in line else console.warn)(line)
        console.note(what)
        pulse(self._bar, description="preparing", facts="")

    def _reading(self, done: int, documents: int) -> None:
        if done == documents:
            pulse(self._bar, description="preparing", facts="")
            return
        facts = f"{done:,} of {documents:,} documents"
        self._bar.update(self._task, description="the core reads", completed=done, total=documents, facts=facts)

    def _comparing(self, done: int, steps: int) -> None:
        if done == steps:
            pulse(self._bar, description="preparing", facts="")
            return
        self._bar.update(self._task, description="learning what is alike", completed=done, total=steps, facts="")

    def _progress(self, progress: Progress) -> None:
        facts = f"loss {progress.loss:.3f}  {progress.tokens_per_second:,.0f} tokens/s"
        if progress.seconds_left is not None:
            minutes, seconds = divmod(round(progress.seconds_left), 60)
            facts += f"  {minutes}:{seconds:02d} left"
        self._bar.update(self._task, description="training", completed=progress.step, total=progress.total, facts=facts)

    def _measuring(self) -> None:
        pulse(self._bar, description="measuring", facts="")
