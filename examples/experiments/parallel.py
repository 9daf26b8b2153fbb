"""Independent jobs on all cores: one process each, with one thread each, as small matrices want it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

from threadpoolctl import threadpool_limits

import normkit as nk


def one_thread() -> None:
    """For the rest of this process."""
    threadpool_limits(1)
    nk.set_num_threads(1)


def each(jobs: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Call every job, `(function, *arguments)`: `(index of the job, result)`, in the order in which they finish."""
    workers = min(len(jobs), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        futures: dict[Future[Any], int] = {pool.submit(*job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
