"""Making the C library give freed memory back at once, so that a process holds what its tensors hold.

glibc keeps large freed blocks for later and fills them with smaller ones: on a CPU a training process then holds a
quarter to a half more than all its tensors together, by chance of their sizes. With a fixed threshold every block above
it is a mapping of its own, which ends when the tensor does. It costs time, since fresh pages must be cleared.
"""

from __future__ import annotations

import ctypes
import platform

# glibc's own default, which no longer grows with what is freed once it is set by hand; and the largest it grows to.
THRESHOLD_BYTES = 128 * 1024
_LARGEST_THRESHOLD = 32 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def return_freed_memory() -> bool:
    """From now on this process returns every freed block above 128 KiB to the system.

    Returns:
        Whether the C library can be told so; only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return _set(THRESHOLD_BYTES)


def keep_freed_memory() -> bool:
    """The opposite of `return_freed_memory`: as glibc is after large blocks were freed.

    Returns:
        Whether the C library can be told so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return _set(_LARGEST_THRESHOLD)


def _set(threshold: int) -> bool:
    """With what may lie free at the end of the heap, which glibc lets be twice the threshold."""
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_THRESHOLD, threshold)) and bool(
        library.mallopt(_M_TRIM_THRESHOLD, 2 * threshold)
    )
