"""Errors that a user meets: what is wrong, what to do about it, and the exit code that says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SsdError(Exception):
    """A failure with a sentence that says what is wrong and one that says what to do (exit code 1)."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem = problem
        self.remedy = remedy


class UsageError(SsdError):
    """A flag, a name or a recipe that cannot be right."""

    exit_code = 2


class NoSuchModel(SsdError):
    """A model that is not in the registry."""

    exit_code = 3


class DownloadFailed(SsdError):
    """A download that failed, or was needed while offline."""

    exit_code = 4


class RemoteFailed(SsdError):
    """A core on another machine that does not answer, or not as it must."""

    exit_code = 4


class OutOfMemory(SsdError):
    """The machine does not have enough memory."""

    exit_code = 5


class Resumable(SsdError):
    """A failure of a job that can be resumed."""


class Interrupted(Resumable):
    """The user stopped a job that can be resumed."""

    exit_code = 130


def require(holds: bool, problem: str, remedy: str = "Give such a value.") -> None:
    """Raise UsageError unless the condition holds."""
    if not holds:
        raise UsageError(problem, remedy)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's or PyTorch's is about memory."""
    # PyTorch raises an error of its own on GPUs, known here by its name, and a RuntimeError on CPUs.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


@contextmanager
def on_out_of_memory(remedy: str) -> Iterator[None]:
    """Raise OutOfMemory with this remedy in place of an error that is about memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("out of memory.", remedy) from error
