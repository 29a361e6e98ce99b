"""The processes that torchrun starts, which run one model together and answer as one."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE = timedelta(hours=2)  # while one still reads its weights


def is_first() -> bool:
    """Whether this is the process that reads the user's input and writes, as it is without torchrun."""
    return os.environ.get("RANK", "0") == "0"


def agreed(make: Callable[[], _T]) -> _T:
    """What the first process makes, in all of them; it must be something that pickle knows."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return make()
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        atexit.register(distributed.destroy_process_group)
    made = [make() if is_first() else None]
    distributed.broadcast_object_list(made, device=torch.device("cpu"))
    return made[0]  # type: ignore[return-value]
