"""What becomes of memory that a process frees, under glibc; other C libraries are left as they are.

keep_freed_memory()         # the next request finds it again: a training step asks for what the last one freed
give_back_freed_memory()    # now and then: what fits no later request would pile up
"""

import ctypes
import sys
from collections.abc import Callable


# Names of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees for its next request."""
    if mallopt := _glibc("mallopt"):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def give_back_freed_memory() -> None:
    """Have glibc give what is free to the system, once."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(name: str) -> Callable | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
