"""How the C library hands out memory on a CPU."""

import ctypes
import os
import platform

# Of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep memory that tensors have left for the next ones instead of returning it to the system.

    glibc returns every block above 32 MB, and what is free at the end of its heap. A training then
    asks for the same pages again in every step, and the system fills each with zeros: a third of
    the time of large batches. The process keeps the most that it ever used. Where the C library is
    another one, or the environment already says how to allocate (``MALLOC_*``, ``GLIBC_TUNABLES``,
    ``LD_PRELOAD``), nothing changes.

    Returns:
        Whether memory is kept from now on.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ)
    if own or {"GLIBC_TUNABLES", "LD_PRELOAD"} & set(os.environ):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1))
