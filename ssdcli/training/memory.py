"""glibc settings without which page faults dominate a training on small machines."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> bool:
    """Tell malloc to keep large blocks instead of returning each to the kernel; False where there is no glibc.

    Call it before torch allocates. By default glibc maps every tensor over 128 KiB afresh, and the kernel clears
    each of its pages again at every step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_M_MMAP_THRESHOLD, 2**30) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False
