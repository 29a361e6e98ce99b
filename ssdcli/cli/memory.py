"""Running out of memory, as the user meets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ssdcli.errors import OutOfMemory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's or PyTorch's is about memory."""
    # PyTorch has its own error on GPUs, known here by its name alone, and a RuntimeError on CPUs.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


@contextmanager
def remedied(remedy: str) -> Iterator[None]:
    """Raise OutOfMemory with this remedy for an error that is about memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("out of memory.", remedy) from error
