"""Settings of the whole process: threads, and what the library runs on."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from normkit._normkit import _config, _hear_plans, _plans_heard, get_num_threads, set_num_threads


@dataclass(eq=False)
class _Block:
    """An open `with num_threads(n)`, and the number that was in force when it was entered."""

    before: int


_open: list[_Block] = []  # in the order of their entering, of all threads
_lock = threading.Lock()


def _new_lock() -> None:
    """For a forked child: its parent's other threads are gone, and one of them may have held the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use `n` threads inside a `with` block, then the previous number again, also after an exception.

    The number belongs to the process, not to the calling thread: of blocks that several Python threads have open at
    once, the one entered last counts for all of them, and when the last one is left the number is what it was before
    the first. Results do not depend on it: they have the same bits for every thread count.

    Args:
        n: number of threads, at least 1.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: `n` is less than 1 or more than 1024.

    Example:
        >>> import normkit as nk
        >>> before = nk.get_num_threads()
        >>> with nk.num_threads(1):
        ...     nk.get_num_threads()
        1
        >>> nk.get_num_threads() == before
        True
    """
    with _lock:
        block = _Block(get_num_threads())
        set_num_threads(n)
        _open.append(block)
    try:
        yield
    finally:
        with _lock:
            place = _open.index(block)
            if block is _open[-1]:
                set_num_threads(block.before)
            else:  # the next one returns to what this one would have
                _open[place + 1].before = block.before
            del _open[place]


def show_config() -> None:
    """Print version, instruction set, threads and cache sizes: what to put into a bug report.

    The instruction set is one of baseline, avx2 and avx512, detected at run time; the environment variable
    `NORMKIT_ISA` forces one of them. Threads: `set_num_threads`, else `NORMKIT_NUM_THREADS`, else
    `RAYON_NUM_THREADS`, else what affinity and cgroup quota allow.

    Example:
        >>> import normkit as nk
        >>> nk.show_config()  # doctest: +ELLIPSIS
        normkit ...
        isa     ... (usable here: ...)
        threads ...
        caches  L1 ..., L2 ..., L3 ...
    """
    config = _config()
    print(f"normkit {config['version']}")
    print(f"isa     {config['isa']} (usable here: {', '.join(config['isas'])})")
    print(f"threads {config['threads']}")
    print(f"caches  L1 {_size(config['l1'])}, L2 {_size(config['l2'])}, L3 {_size(config['l3'])}")


@contextmanager
def show_plans() -> Iterator[None]:
    """Print how the calls inside a `with` block are carried out on this machine, and why.

    A paragraph for each pass over memory, in their order, when the block is left: bytes read and written, how many
    statistics there are and how memory is walked (rows, columns or lines), threads, whether each is reduced and applied
    while it is in cache (fused) or all are reduced before (split), and whether the output is stored past the caches.
    Of the calls of this Python thread. Results do not depend on the plan.

    Example:
        >>> import numpy as np
        >>> import normkit as nk
        >>> x = np.ones((8, 4, 5), np.float32)
        >>> with nk.show_plans():  # doctest: +ELLIPSIS
        ...     y, cache = nk.batch_norm(x)
        memory     reads 640 B, writes 640 B
        statistics 4 of 40 elements: columns, ...
        threads    1, as less than 128 KiB is read
        schedule   fused: ...
        stores     through the caches, as less than ...
    """
    _hear_plans()
    try:
        yield
    finally:
        print("\n\n".join(_plans_heard()))


def _size(count: int) -> str:
    if count == 0:
        return "unknown"
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count / 2**10:g} KiB"
