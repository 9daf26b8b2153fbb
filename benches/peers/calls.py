"""normkit's calls, forward and backward, from the tests' table; and those of the functions that are not in it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

import normkit as nk
from case import EPS, Case  # also finds the tests' folder
from cases import BY_NAME
from ops import Op


def batch_norm_inference(case: Case, **kw) -> partial:
    return partial(nk.batch_norm_inference, case.x, case.rm, case.rv, case.w, case.b, eps=EPS, **kw)


def moments(case: Case) -> partial:
    return partial(nk.moments, case.x, axis=case.over)


def weight_norm(case: Case) -> partial:
    return partial(nk.weight_norm, case.x, case.g)


def spectral_norm(case: Case) -> partial:
    return partial(nk.spectral_norm, case.x, case.u, case.v)


def scaled_weight_standardization(case: Case) -> partial:
    return partial(nk.scaled_weight_standardization, case.x, case.g)


def fold_all(convolutions: list, fold: Callable) -> list:
    return [fold(weight, None, rm, rv, w, b) for weight, rm, rv, w, b in convolutions]


def fold_conv_bn(case: Case) -> partial:
    return partial(fold_all, case.convolutions, partial(nk.fold_conv_bn, eps=EPS))


class LayerGradients(NamedTuple):
    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray


def layer_backward(layer: nk.BatchNorm, dy: np.ndarray) -> LayerGradients:
    return LayerGradients(layer.backward(dy), **{f"d{name}": of for name, of in layer.grads.items()})


def layer(case: Case) -> partial:
    made = nk.BatchNorm(len(case.w))
    made.weight[...], made.bias[...] = case.w, case.b
    return partial(made, case.x)


OTHERS: dict[str, Callable[..., partial]] = {
    "batch_norm_inference": batch_norm_inference,
    "moments": moments,
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "scaled_weight_standardization": scaled_weight_standardization,
    "fold_conv_bn": fold_conv_bn,
    "BatchNorm": layer,
}


def forward(norm: str, case: Case, **kw) -> partial:
    if norm in OTHERS:
        return OTHERS[norm](case, **kw)
    row = BY_NAME[norm]
    if row.function == "batch_norm":  # the table's leaves running statistics out
        kw |= dict(zip(("running_mean", "running_var"), case.running(), strict=True))
    if row.function == "batch_renorm":  # its result depends on them: they are to stay as they are
        kw |= {"momentum": 0.0}
    return row.call(case.inputs(row), **kw)


def call(op: Op, case: Case, **kw) -> partial:
    """What is timed; `out=` may be among the keywords."""
    before = forward(op.norm, case, **({} if op.backward else kw))
    if not op.backward:
        return before
    if isinstance(before.func, nk.BatchNorm):
        before()
        return partial(layer_backward, before.func, case.dy)
    _, cache = before()
    return partial(getattr(nk, f"{before.func.__name__}_backward"), case.dy, cache, **kw)


def says(call: partial, case: Case) -> str:
    """A call as a reader would write it."""
    if call.func is fold_all:
        return f"nk.fold_conv_bn(…) for each of {len(call.args[0])} convolutions"
    if isinstance(call.func, nk.BatchNorm):
        return "nk.BatchNorm(…)(x)"
    if call.func is layer_backward:
        return "nk.BatchNorm(…).backward(dy)"
    names = {id(value): name for name, value in vars(case).items()}

    def written(value: object) -> str:
        if isinstance(value, np.ndarray):
            return names.get(id(value), "…")
        return "cache" if type(value).__name__.endswith("Cache") else repr(value)

    given = [written(a) for a in call.args] + [f"{name}={written(a)}" for name, a in call.keywords.items()]
    return f"nk.{call.func.__name__}({', '.join(given)})"


def results(returned: object) -> tuple[np.ndarray, ...]:
    """y of (y, cache), all gradients, mean and variance, or all weights and biases."""
    if isinstance(returned, np.ndarray):
        return (returned,)
    if isinstance(returned, list):
        return tuple(a for pair in returned for a in pair)
    if isinstance(returned, nk.Moments):
        return returned.mean, returned.var()
    if hasattr(returned, "_fields"):
        return tuple(a for a in returned if a is not None)
    return returned[:1]
