"""Work in a forked child and in its parent at once."""

import json
import os
import warnings
from collections.abc import Callable
from typing import TypeVar

import normkit as nk

T = TypeVar("T")


def in_both(work: Callable[[], T]) -> tuple[T, T]:
    """What `work` returns in a child, with another number of threads, and in this process meanwhile; as JSON has it."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks of threaded processes
        child = os.fork()
    if child == 0:
        try:
            nk.set_num_threads(3)
            with os.fdopen(writer, "w") as pipe:
                json.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    own = work()
    with os.fdopen(reader) as pipe:
        found = json.load(pipe)
    assert os.waitpid(child, 0)[1] == 0
    return found, own
