"""How malloc gives pages back, held still while timing (glibc; elsewhere these do nothing)."""

import ctypes
import re
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MIB = 1 << 20
_libc = ctypes.CDLL(None)
CONTROLLED = hasattr(_libc, "mallopt") and hasattr(_libc, "malloc_trim")


def settled() -> None:
    """What glibc's thresholds grow to by themselves: blocks above 32 MiB get new pages each time, others are reused."""
    if CONTROLLED:
        _libc.mallopt(M_MMAP_MAX, 65536)
        _libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        _libc.mallopt(M_TRIM_THRESHOLD, 64 * MIB)
        _libc.malloc_trim(0)


def kept() -> None:
    """All freed memory stays with the process: a repeated call finds its pages again."""
    if CONTROLLED:
        _libc.mallopt(M_MMAP_MAX, 0)
        _libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def huge_mib() -> float | None:
    """MiB of this process that lie in transparent huge pages now."""
    try:
        found = re.search(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None
