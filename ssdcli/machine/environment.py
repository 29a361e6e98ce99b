"""What must be set before torch is imported for it to run well on small and shared machines."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

_SPINS = "4000"  # some tens of microseconds
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_machine() -> None:
    """Keep freed memory, ask for large pages, let idle threads sleep; call it before torch is first imported."""
    # By default OpenMP's threads spin at every barrier: if another process holds a core, each matrix product then waits
    # for a whole time slice of the scheduler. Sleeping at once is no better, because waking up takes longer than most
    # operations of a small model. So GNU's threads spin for a short while, and then sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # most Linux systems give large pages only to those who ask
    keep_memory()


def import_torch() -> None:
    """Prepare the machine and import torch, without collecting garbage meanwhile.

    torch makes a quarter of a million objects, none of them garbage. To search them during the import, later on, and
    when Python ends takes a quarter of the time of a short command.
    """
    prepare_machine()
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import torch  # noqa: F401 - for those who import it next
    finally:
        gc.enable()
    gc.freeze()


def keep_memory() -> bool:
    """Tell glibc's malloc to keep large blocks instead of returning them to the kernel; False without glibc.

    By default every tensor over 128 KiB is mapped anew, and the kernel clears all of its pages again at every step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        trims = libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        # glibc before 2.35 allows no threshold above 32 MiB.
        maps = libc.mallopt(_M_MMAP_THRESHOLD, 2**30) or libc.mallopt(_M_MMAP_THRESHOLD, 2**25)
        return bool(trims and maps)
    except (OSError, AttributeError):
        return False
