"""What every norm's result is held to, against the oracle."""

import numpy as np

import tolerance
from cases import Inputs
from tolerance import assert_within


def native(dtype):
    return dtype.newbyteorder("=")


def parameter_dtype(p, x):
    return native((x if p is None else p).dtype)


def statistics(cache, result, x):
    assert cache.mean.dtype == cache.rstd.dtype == np.float64
    mean, rstd = tolerance.statistics(result, native(x.dtype))
    if result.frozen:  # the caller's own mean, widened; one rounding each of sum, root and division
        mean, rstd = 0 * mean, 4 * np.finfo(np.float64).eps * result.rstd
    assert_within(cache.mean, result.mean, mean, "mean")
    assert_within(cache.rstd, result.rstd, rstd, "rstd")


def forward(y, cache, result, inputs):
    """`result` has the axes of x."""
    assert native(y.dtype) == native(inputs.x.dtype)
    statistics(cache, result, inputs.x)
    assert_within(y, result.y, tolerance.y(result, native(inputs.x.dtype)), "y")


def gradients(found, result, inputs):
    weight, bias, x = inputs.weight, inputs.bias, inputs.x
    dx, dweight, dbias = result.backward(inputs.dy)
    tolerances = tolerance.gradients(
        result, inputs.dy, native(x.dtype), parameter_dtype(weight, x), parameter_dtype(bias, x)
    )
    assert native(found.dx.dtype) == native(x.dtype)
    assert_within(found.dx, dx, tolerances[0], "dx")
    for name, p, expected, within in (
        ("dweight", weight, dweight, tolerances[1]),
        ("dbias", bias, dbias, tolerances[2]),
    ):
        gradient = getattr(found, name)
        if p is None:
            assert gradient is None
        else:
            assert gradient.shape == p.shape
            assert native(gradient.dtype) == native(p.dtype)
            assert_within(gradient.ravel(), expected, within, name)


def same_bits(a, b):
    """Equal shape, dtype and bytes (so that NaN equals itself and -0 is not 0)."""
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and native(a.dtype) == native(b.dtype) and canonical(a) == canonical(b)


def canonical(a):
    """The values' bytes in C order and native byte order."""
    a = np.asarray(a)
    return np.ascontiguousarray(a, native(a.dtype)).tobytes()


def stride_order(a):
    """The axes longer than one from the farthest apart to the nearest: the memory layout of a dense array."""
    axes = [i for i in range(a.ndim) if a.shape[i] > 1]
    return sorted(axes, key=lambda i: -a.strides[i])


def plain(x, dy, *, eps=1e-5, groups=1):
    """Inputs without parameters, the channels on axis 1."""
    return Inputs(x, dy, None, None, np.zeros(x.shape[1]), np.ones(x.shape[1]), 1, groups, eps)
