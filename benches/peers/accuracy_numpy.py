"""NumPy as norms are usually written: `mean` and `var` of the array, the formula, all in the array's dtype."""

from collections.abc import Callable

import numpy as np

from case import EPS, Case, Contender
from ops import Op

NAME = "NumPy"
OVER = {"batch_norm": (0, 2, 3), "instance_norm": (2, 3), "layer_norm": (-1,), "rms_norm": (-1,), "group_norm": (2,)}


def split(a: np.ndarray, op: Op, case: Case) -> np.ndarray:
    return a.reshape(a.shape[0], case.groups, -1) if op.row.name == "group_norm" else a


def parameter(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    return p if x.ndim == 2 else p.reshape(1, -1, *(1 for _ in x.shape[2:]))


def statistics(op: Op, case: Case) -> tuple[np.ndarray | None, np.ndarray]:
    x, over = split(case.x, op, case), OVER[op.row.name]
    if op.row.name == "rms_norm":
        return None, 1 / np.sqrt(np.mean(x * x, axis=over, keepdims=True) + np.float32(EPS))
    return x.mean(over, keepdims=True), 1 / np.sqrt(x.var(over, keepdims=True) + np.float32(EPS))


def normalized(op: Op, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(x̂, rstd)"""
    mean, rstd = statistics(op, case)
    x = split(case.x, op, case)
    return (x if mean is None else x - mean) * rstd, rstd


def forward(op: Op, case: Case) -> tuple[np.ndarray, ...]:
    hat = normalized(op, case)[0].reshape(case.x.shape)
    y = hat * parameter(case.w, case.x)
    return ((y if op.row.name == "rms_norm" else y + parameter(case.b, case.x)),)


def backward(op: Op, case: Case) -> tuple[np.ndarray, ...]:
    hat, rstd = normalized(op, case)
    over, g = OVER[op.row.name], split(case.dy * parameter(case.w, case.x), op, case)
    centre = 0 if op.row.name == "rms_norm" else g.mean(over, keepdims=True)
    dx = rstd * (g - centre - hat * (g * hat).mean(over, keepdims=True))
    rows = 0 if case.x.ndim == 2 else (0, 2, 3)
    return dx.reshape(case.x.shape), (case.dy * hat.reshape(case.x.shape)).sum(rows), case.dy.sum(rows)


class Peer:
    version = np.__version__

    def contenders(self, op: Op, mode: str, case: Case) -> list[Contender]:
        if op.row.name not in OVER or mode == "out":
            return []
        call: Callable = backward if op.backward else forward

        def quiet() -> tuple[np.ndarray, ...]:
            with np.errstate(all="ignore"):
                return call(op, case)

        return [Contender(NAME, "as written", "mean, var and the formula", quiet, lambda arrays: arrays)]
