"""How a process that trains keeps memory."""

import ctypes
import os

# malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def bound_cache() -> None:
    """Have oneDNN and what lies over it keep little for each shape; call it before torch.

    Steps seldom have a shape twice, and the 1024 that each keeps unless told buy no time.
    """
    for kept in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(kept, "32")


def reuse_memory() -> None:
    """Have what one step frees serve the next one; call it before torch holds a tensor.

    Else each large tensor is fetched from the kernel page by page and given back, which can take
    longer than the arithmetic (decision 72). Where the C library isn't glibc, little changes.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)
