"""Several processes (ranks), started by torchrun or accelerate, that run or train one model together.

accelerate's PartialState has a barrier and a main process too, but a rank that fails leaves the others waiting there
until they time out, and it imports torch, which a plain `ssd generate --help` does not.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

_T = TypeVar("_T")
_TIMEOUT = timedelta(hours=2)  # one rank may still read its weights, or measure
_EXIT_TIMEOUT = timedelta(seconds=10)


def is_rank_zero() -> bool:
    """Whether this process reads the user's input and writes the output; without torchrun there is no other."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """The number of processes: 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def from_rank_zero(make: Callable[[], _T]) -> _T:
    """What rank zero makes, broadcast to all; an error that it meets is raised in all. It must be picklable."""
    if world_size() == 1:
        return make()
    with barrier():
        made = [make() if is_rank_zero() else None]
    from torch import device, distributed

    distributed.broadcast_object_list(made, device=device("cpu"))
    return made[0]  # type: ignore[return-value]


def summed_over_ranks(numbers: Sequence[float]) -> list[float]:
    """The sums over all ranks, each of which gives as many numbers, in float64."""
    if world_size() == 1:
        return list(numbers)
    import torch

    _connect()
    sums = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


@contextmanager
def barrier() -> Iterator[None]:
    """No rank leaves the block before all have finished it; one rank's exception is raised in all."""
    if world_size() == 1:
        yield
        return
    own: BaseException | None = None
    try:
        yield
    except BaseException as error:
        own = error
    for found in [own, *_exchanged(own)]:
        if found is not None:
            raise found


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank zero runs the block before the others do; one rank's exception is raised in all."""
    if is_rank_zero():
        with barrier():
            yield
        with barrier():
            pass
    else:
        with barrier():
            pass
        with barrier():
            yield


def _exchanged(error: BaseException | None) -> list[BaseException | None]:
    """The error of each rank, in their order."""
    from torch import distributed

    _connect()
    errors: list[BaseException | None] = [None] * world_size()
    distributed.all_gather_object(errors, None if error is None else _picklable(error))
    return errors


def _picklable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it cannot be pickled."""
    import pickle  # only here, and not needed to start

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _connect() -> None:
    """Initialise the process group, once."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_TIMEOUT)
        atexit.register(_disconnect)


def _disconnect() -> None:
    """Destroy the process group while Python still runs.

    If a thread of gloo's frees a tensor after that, the process is aborted, so all ranks first wait until nothing is
    under way.
    """
    from torch import distributed

    with suppress(RuntimeError, ValueError):  # another rank has left already, or the backend has no such barrier
        distributed.monitored_barrier(timeout=_EXIT_TIMEOUT)
    distributed.destroy_process_group()
