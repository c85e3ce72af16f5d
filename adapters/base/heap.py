"""Freed memory kept for the next array, where the C library would hand it back at once.

MLX's CPU arrays come from malloc, and glibc returns every large block to the system when it is
freed: the next array's pages are then faulted in one by one. With arrays of 2 MB that took four
times as long as the arithmetic on them.
"""

from __future__ import annotations

import ctypes
import functools
import sys

# malloc.h of glibc: parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_KEPT = 512 << 20
_LARGEST = 32 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Keep up to 512 MB of freed memory, in blocks below 32 MB; whether the C library can.

    What is freed stays with the process, not with the arrays: it shows in its resident size alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
