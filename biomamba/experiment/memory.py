"""Keep freed memory in the process: a page given back to the system is dear to get again, and every update needs it."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3), glibc


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep what is freed; where there is no such allocator, do nothing.

    A loop over small chunks frees and takes the same few buffers thousands of times; with glibc's defaults each
    round trip faults their pages in again. The resident size stays at its peak, which does not grow.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, 32 << 20)  # the largest it takes
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
