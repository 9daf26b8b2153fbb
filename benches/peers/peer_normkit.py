"""normkit: ourselves."""

import contextlib
import io

import numpy as np

import normkit as nk
from case import EPS, Case, Contender

NAME = "normkit"


class Peer:
    def __init__(self, threads: int) -> None:
        nk.set_num_threads(threads)
        self.version = getattr(nk, "__version__", "unknown")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            returned = nk.show_config() if hasattr(nk, "show_config") else None
        self.notes = (printed.getvalue() or str(returned or "")).strip()

    def contenders(self, op: str, mode: str, case: Case) -> list[Contender]:
        kwargs = {"out": case.out} if mode == "out" else {}
        x, dy, w, b, groups = case.x, case.dy, case.weight, case.bias, case.groups
        rm, rv = case.running()
        if op == "batch_norm":
            says = "nk.batch_norm(x, w, b, rm, rv, training=True{})"
            call, result = (lambda: nk.batch_norm(x, w, b, rm, rv, training=True, **kwargs)), lambda r: (r[0],)
        elif op == "batch_norm_inference":
            says = "nk.batch_norm_inference(x, rm, rv, w, b{})"
            call, result = (lambda: nk.batch_norm_inference(x, rm, rv, w, b, eps=EPS, **kwargs)), lambda r: (r,)
        elif op == "group_norm":
            says = "nk.group_norm(x, groups, w, b{})"
            call, result = (lambda: nk.group_norm(x, groups, w, b, **kwargs)), lambda r: (r[0],)
        elif op == "batch_norm_backward":
            says = "nk.batch_norm_backward(dy, cache{})"
            _, cache = nk.batch_norm(x, w, b, rm, rv, training=True)
            call, result = (lambda: nk.batch_norm_backward(dy, cache, **kwargs)), tuple
        else:
            says = "nk.group_norm_backward(dy, cache{})"
            _, cache = nk.group_norm(x, groups, w, b)
            call, result = (lambda: nk.group_norm_backward(dy, cache, **kwargs)), tuple

        def checked(returned: object) -> tuple[np.ndarray, ...]:
            arrays = result(returned)
            if kwargs and not np.shares_memory(arrays[0], case.out):
                raise SystemExit(f"normkit: {op} did not write to its out=")
            return arrays

        return [Contender(NAME, "normkit", says.format(", out=" if kwargs else ""), call, checked)]
