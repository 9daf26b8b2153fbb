"""Settings of the whole process: threads, and what the library runs on."""

from collections.abc import Iterator
from contextlib import contextmanager

from normkit._normkit import _config, get_num_threads, set_num_threads


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use `n` threads inside a `with` block, then the previous number again, also after an exception.

    The number belongs to the process, not to the calling thread. Results do not depend on it: they have the same bits
    for every thread count.

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
    previous = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(previous)


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


def _size(count: int) -> str:
    if count == 0:
        return "unknown"
    return f"{count / 2**20:g} MiB" if count >= 2**20 else f"{count / 2**10:g} KiB"
