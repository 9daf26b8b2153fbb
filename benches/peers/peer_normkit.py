"""normkit: ourselves; where the table says so, in a second way too, which is then a peer."""

import contextlib
import io
from collections.abc import Callable

import numpy as np

import calls
import normkit as nk
import record as records
from case import Case, Contender
from ops import Op

NAME = "normkit"
FLOAT32, NCHW = "normkit float32", "normkit NCHW"
UNFUSED, ONE_THREAD = "normkit unfused", "normkit one thread"


def plain(case: Case, op: Op, out: dict) -> tuple[Callable, Callable, str]:
    """The same op of the same values in float32 and contiguous NCHW, with an output of its own."""
    own = Case(case.shape)
    own.x[...], own.dy[...] = case.x, case.dy
    call = calls.call(op, own, **({"out": own.out} if out else {}))
    return call, calls.results, calls.says(call, own)


def unfused(case: Case, op: Op, out: dict) -> tuple[Callable, Callable, str]:
    """Batch norm, add and ReLU one by one, the last two by NumPy and in place."""

    def add_relu(y: np.ndarray) -> np.ndarray:
        np.add(y, case.residual, out=y)
        return np.maximum(y, 0, out=y)

    if not op.backward:
        norm = calls.forward("batch_norm", case, **out)
        says = "nk.batch_norm(x, …), then np.add and np.maximum in place"
        return (lambda: add_relu(norm()[0])), calls.results, says
    y, cache = calls.forward("batch_norm", case)()
    add_relu(y)
    own = case.like(y.shape) if out else None

    def backward() -> tuple[np.ndarray, ...]:
        dresidual = np.multiply(case.dy, y > 0, out=own)
        return (*nk.batch_norm_backward(dresidual, cache, **out), dresidual)

    return backward, tuple, "np.multiply(dy, y > 0), then nk.batch_norm_backward"


def one_thread(case: Case, op: Op, out: dict) -> tuple[Callable, Callable, str]:
    """The same call by the calling thread alone."""
    call, threads = calls.call(op, case, **out), nk.get_num_threads()

    def alone() -> object:
        nk.set_num_threads(1)
        try:
            return call()
        finally:
            nk.set_num_threads(threads)

    return alone, calls.results, f"{calls.says(call, case)} with one thread"


BESIDE = {"float32": (FLOAT32, plain), "NCHW": (NCHW, plain)}
BESIDE |= {"unfused": (UNFUSED, unfused), "one thread": (ONE_THREAD, one_thread)}


class Peer:
    def __init__(self, threads: int) -> None:
        nk.set_num_threads(threads)
        self.version, self.build = nk.__version__, records.digest(nk._normkit.__file__)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            nk.show_config()
        self.notes = printed.getvalue().strip()

    def contenders(self, op: Op, mode: str, case: Case) -> list[Contender]:
        out = {"out": case.out} if mode == "out" else {}
        call = calls.call(op, case, **out)

        def checked(returned: object) -> tuple[np.ndarray, ...]:
            arrays = calls.results(returned)
            if out and not np.shares_memory(arrays[0], case.out):
                raise SystemExit(f"normkit: {op.name} did not write to its out=")
            return arrays

        found = [Contender(NAME, "normkit", calls.says(call, case), call, checked)]
        if op.row.beside:
            peer, how = BESIDE[op.row.beside]
            call, result, says = how(case, op, out)
            found.append(Contender(peer, op.row.beside, says, call, result))
        return found
