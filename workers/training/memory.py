"""What the C library does with memory that a step gives back.

Glibc returns large blocks to the system at once, and each step gets them again page by page:
on 2 cores that was a quarter of a ResNet-20's time.
"""

import ctypes

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that glibc takes.
_LARGEST_BLOCK = 32 * 2**20
_KEPT = 2**31 - 1


def keep_for_the_next_step() -> bool:
    """Lets this process keep what it has freed, up to 2 GiB. False where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    is_set: list[int] = [
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK),
        mallopt(_M_TRIM_THRESHOLD, _KEPT),
    ]
    return all(is_set)
