"""The reverse process: how a canvas is denoised, composed of frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import Canvas, Process
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.stopping import EarlyStop

Times = tuple[float, Tensor]  # the level t of a canvas, and each row's lower level s: (B,) float64


class Sampler(Protocol):
    """One reverse step of a noise process: which positions or tokens of a prediction a canvas takes over."""

    @property
    def process(self) -> Any:
        """The noise process that it reverses."""

    def reverse(self) -> ReverseProcess:
        """With the steps, the temperatures and the early stop that go with it unless others are named."""

    def step(self, canvas: Canvas, prediction: Prediction, times: Times, picker: Picker, noise: CounterNoise) -> Canvas:
        """Denoise from t to each row's s, given a prediction of the clean tokens; at s = 0 the canvas is clean.

        prediction: its log p is tempered, and certain where the canvas shows a token; the members' own are as they were
            made.
        """

    def decided(self, before: Canvas, after: Canvas) -> Tensor:
        """The positions for which a step chose a token that the canvas did not show before: (B, L) bool."""

    def finished(self, canvas: Canvas) -> Tensor:
        """The rows that no further step would change: (B,) bool."""


@dataclass(frozen=True)
class ReverseProcess:
    """How the canvas of a block is denoised from t = 1 to t = 0.

    sampler: what a step does.
    steps: how many a block takes; None for as many as it has tokens.
    temperatures: of predictions at t = 1 and at t = 0, before any that is asked for; between them it falls with t.
    stop: when a row stops before its time; None for never.
    from_left: whether text is written from the left, and what is written stays.
    """

    sampler: Sampler
    steps: int | None
    temperatures: tuple[float, float] = (1.0, 1.0)
    stop: EarlyStop | None = None
    from_left: bool = False

    @property
    def process(self) -> Process:
        """The noise process that is reversed."""
        process: Process = self.sampler.process
        return process

    def steps_of(self, length: int) -> int:
        """How many steps a block of this length takes."""
        return length if self.steps is None else self.steps

    def tempered(self, log_p: Tensor, t: float) -> Tensor:
        """Log p (B, L, V) at the temperature that belongs to t."""
        hot, cold = self.temperatures
        return Picker(cold + (hot - cold) * t).tempered(log_p)


@dataclass(frozen=True)
class Choice:
    """A sampler as it is asked for.

    name: one that the catalogue has for the process; None for its default.
    number: what belongs to the name; None for its default.
    remask: the probability with which a step hides a known token again.
    late: ids that end a text, whose positions a sampler reveals last if it can.
    ends: all ids that end a text, so that what follows one need not be written.
    """

    name: str | None = None
    number: float | None = None
    remask: float = catalogue.REMASK.usual
    late: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


USUAL = Choice()


def reverse_process(process: Process, choice: Choice = USUAL) -> ReverseProcess:
    """What a choice stands for; ValueError says what is wrong with the name or a number."""
    declared = catalogue.sampler(process.name, choice.name)
    remask = catalogue.REMASK.checked(choice.remask)
    options: dict[str, Any] = {"remask": remask, "late": choice.late, "ends": choice.ends}
    if choice.remask and "remask" not in declared.takes:
        raise ValueError(f"{declared.name} does not support remask (got {choice.remask:g})")
    options = {name: value for name, value in options.items() if name in declared.takes}
    if declared.number is not None:
        number = declared.number.default if choice.number is None else declared.number.checked(choice.number)
        options[declared.number.name] = number
    elif choice.number is not None:
        raise ValueError(f"{declared.name} takes no number (got {choice.number:g})")
    sampler: Sampler = declared.load()(process, **options)
    return sampler.reverse()
