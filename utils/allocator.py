"""Memory settings of the C library that PyTorch's CPU kernels need."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_blocks() -> None:
    """Let glibc keep freed memory: by default every large tensor is mapped, zeroed page by page, and unmapped again.

    Half the time of a training step or an inference on a CPU. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 256 << 20)


def give_back() -> None:
    """Return what glibc keeps: after a large image, that is more than the next may have any use for."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
