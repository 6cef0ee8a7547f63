"""The memory that a process frees is that of its next column, or its next step: the allocator keeps it.

mlray's own clusters have workers give back what they free (`MALLOC_TRIM_THRESHOLD_`), for tasks that wait. One that
works would have the kernel map and clear the same pages again and again: half of all that a join of plain columns cost,
and 13 of the 55 ms of a step of training.
"""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3), from <malloc.h>
_KEPT = 128 << 20
_READY = 60 << 20
"""What is to lie ready for the next allocation. A thread but the first has heaps of 64 MiB, of which glibc unmaps an
empty one, however much is to be kept, if this much is free before it: a step that ended just in the next heap had it
mapped and cleared each time. With 64 MiB a heap would never be given back.
"""


@cache
def keep_freed_memory(largest: int = 64 << 20) -> None:
    """Of this process, from now on: up to 128 MiB that were freed, of pieces below `largest` bytes, and a heap of 64
    MiB in each arena of its threads. Nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_TOP_PAD, _READY)
        mallopt(_MMAP_THRESHOLD, largest)
