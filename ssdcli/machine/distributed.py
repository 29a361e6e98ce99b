"""The processes that torchrun or accelerate starts, which run or train one model together and answer as one."""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE = timedelta(hours=2)  # while one still reads its weights, or measures
_PARTING = timedelta(seconds=10)


def is_first() -> bool:
    """Whether this is the process that reads the user's input and writes, as it is without torchrun."""
    return os.environ.get("RANK", "0") == "0"


def how_many() -> int:
    """How many processes there are: 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def agreed(make: Callable[[], _T]) -> _T:
    """What the first process makes, or the error it meets, in all of them; it must be something that pickle knows."""
    if how_many() == 1:
        return make()
    with alike():
        made = [make() if is_first() else None]
    from torch import device, distributed

    distributed.broadcast_object_list(made, device=device("cpu"))
    return made[0]  # type: ignore[return-value]


def summed(numbers: Sequence[float]) -> list[float]:
    """The sums over all processes, each of which gives as many numbers."""
    if how_many() == 1:
        return list(numbers)
    import torch

    _meet()
    sums = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


@contextmanager
def alike() -> Iterator[None]:
    """Leave a block in all processes at once, and with an error in all if one of them met it there."""
    if how_many() == 1:
        yield
        return
    own: BaseException | None = None
    try:
        yield
    except BaseException as error:
        own = error
    for met in [own, *_exchanged(own)]:
        if met is not None:
            raise met


@contextmanager
def first_ahead() -> Iterator[None]:
    """Let the first process through a block before the others; an error of any process ends it in all."""
    if is_first():
        with alike():
            yield
        with alike():
            pass
    else:
        with alike():
            pass
        with alike():
            yield


def _exchanged(error: BaseException | None) -> list[BaseException | None]:
    """What each process met, in their order."""
    from torch import distributed

    _meet()
    met: list[BaseException | None] = [None] * how_many()
    distributed.all_gather_object(met, None if error is None else _portable(error))
    return met


def _portable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _meet() -> None:
    """Connect the processes, if they are not."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        atexit.register(_part)


def _part() -> None:
    """Disconnect the processes while Python still runs.

    A thread of gloo's that lets go of a tensor after that aborts the process: all wait until nothing is under way.
    """
    from torch import distributed

    with suppress(RuntimeError, ValueError):  # another has gone already, or the backend has no such barrier
        distributed.monitored_barrier(timeout=_PARTING)
    distributed.destroy_process_group()
