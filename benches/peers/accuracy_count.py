"""Errors in units in the last place, against the tests' oracle in longer floats.

The unit is the distance between neighbours of the result's dtype at max(|true value|, root mean square of all true
values of that result). A result near 0 beside others of order 1 is a difference of such numbers, and its own last place
would say nothing. Statistics count in float32's units: the mean at max(|mean|, sigma), rstd relative.
"""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np

from case import EPS, Case  # also finds the tests' folder
from ops import Row

import reference_weights  # isort: skip
from cases import BY_NAME  # isort: skip


def spacing(size: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The distance between neighbours of the dtype at these magnitudes, which need not be representable."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(size)
    least = np.longdouble(float(info.smallest_subnormal))
    return np.maximum(np.ldexp(np.longdouble(1), exponent - 1 - info.nmant), least)


def ulps(found: np.ndarray, true: np.ndarray, dtype: np.dtype) -> float:
    """The largest error; infinity where something finite came out infinite or NaN.

    What is true but beyond the dtype's range has to come out infinite.
    """
    true = np.asarray(true)
    found = np.asarray(found).reshape(true.shape).astype(np.longdouble)
    assert np.isfinite(true).all()
    size, most = np.abs(true), np.longdouble(float(ml_dtypes.finfo(dtype).max))
    scale = np.max(size, initial=0)
    rms = scale * np.sqrt(np.mean(np.square(size / scale))) if scale else scale
    with np.errstate(invalid="ignore"):
        error = np.abs(found - true) / spacing(np.minimum(np.maximum(size, rms), most), dtype)
        error = np.where((size > most) & (found == np.copysign(np.inf, true)), 0, error)
    return float(error.max(initial=0)) if np.isfinite(error).all() else math.inf


def wide(a: np.ndarray | None) -> np.ndarray | None:
    """float64: the oracle computes that in longdouble."""
    return None if a is None else a.astype(np.float64)


def truth(row: Row, case: Case) -> dict[str, np.ndarray]:
    """True y, dx, dweight, and the statistics where the norm has them."""
    name = row.norm or row.name
    if name not in BY_NAME:
        return weights(name, case)
    i = case.inputs(BY_NAME[name])
    arrays = {k: wide(v) for k, v in vars(i).items() if isinstance(v, np.ndarray) and v.dtype.kind != "b"}
    result = BY_NAME[name].oracle(replace(i, **arrays))
    gradients = result.backward(arrays["dy"])
    found = {"y": result.y, "dx": gradients[0]}
    if hasattr(gradients, "dweight"):
        found |= {"dweight": gradients.dweight, "mean": result.mean, "rstd": result.rstd, "sigma": np.sqrt(result.var)}
    if not getattr(result, "centred", True):
        del found["mean"]
    return found


def weights(name: str, case: Case) -> dict[str, np.ndarray]:
    x, dy, g = (wide(a) for a in (case.x, case.dy, case.g))
    if name == "weight_norm":
        y, _ = reference_weights.weight_norm(x, g, 0)
        dx, dweight, *_ = reference_weights.weight_norm_backward(dy, x, g, 0)
    elif name == "scaled_weight_standardization":
        y, *_ = reference_weights.standardization(x, g, 1e-4)
        dx, dweight, *_ = reference_weights.standardization_backward(dy, x, g, 1e-4)
    else:
        y, *of = reference_weights.spectral_norm(x, wide(case.u), wide(case.v), 1, 1e-12, 0)
        return {"y": y, "dx": reference_weights.spectral_norm_backward(dy, x, *of, 0)[0]}
    return {"y": y, "dx": dx, "dweight": dweight}


def statistics(found: tuple[np.ndarray | None, np.ndarray], true: dict[str, np.ndarray]) -> float:
    """The larger error of (mean, rstd); a mean that the norm does not have is None."""
    mean, rstd = found
    relative = np.abs(np.asarray(rstd).reshape(true["rstd"].shape) / true["rstd"] - 1) / np.finfo(np.float32).eps
    errors = [relative]
    if "mean" in true and mean is not None:
        unit = spacing(np.maximum(np.abs(true["mean"]), true["sigma"]), np.dtype(np.float32))
        errors.append(np.abs(np.asarray(mean).reshape(true["mean"].shape) - true["mean"]) / unit)
    worst = max(float(np.max(e)) for e in errors)
    return worst if math.isfinite(worst) else math.inf


assert EPS == 1e-5  # what the page says
