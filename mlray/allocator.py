"""The memory that a process frees is that of its next column, or its next step: the allocator keeps it.

mlray's own clusters have workers give back what they free (`MALLOC_TRIM_THRESHOLD_`), for tasks that wait. One that
works would have the kernel map and clear the same pages again and again: half of all that a join of plain columns cost,
and 13 of the 55 ms of a step of training.
"""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3), from <malloc.h>
_KEPT = 128 << 20
_HEAP = 64 << 20
"""What a thread but the first takes from the kernel at a time. glibc unmaps one that is empty, however much is to be
kept, unless as much is to lie ready: a step that ended just in the next one had it mapped and cleared each time.
"""


@cache
def keep_freed_memory(largest: int = 64 << 20) -> None:
    """Of this process, from now on: up to 128 MiB that were freed, of pieces below `largest` bytes. Nothing where the C
    library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_TOP_PAD, _HEAP)
        mallopt(_MMAP_THRESHOLD, largest)
