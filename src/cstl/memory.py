"""How a process that trains or evaluates asks the system for memory."""

import ctypes
import os
import platform
import sys


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed tensors, in huge pages; with glibc on Linux, elsewhere nothing.

    glibc gives every large block back to the kernel at once and asks for it again in the next step, where each page is
    cleared when it is first touched: on the CPU a third of a training step in bf16. Huge pages take another twentieth
    off. PyTorch looks for its variable when it first allocates, so call this before there is a tensor.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(trim_threshold, 2**31 - 1)
