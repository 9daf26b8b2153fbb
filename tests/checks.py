"""What every norm's result is held to, against the oracle."""

import numpy as np

import normkit as nk
import reference
import tolerance
from data import Inputs
from tolerance import assert_within


def native(dtype):
    return dtype.newbyteorder("=") if dtype.kind == "f" else dtype  # of bfloat16, NumPy would make raw bytes


def statistics(cache, result, x):
    if isinstance(result, reference.Adaptive):  # the contract names no statistics of its cache
        return
    mean, rstd = tolerance.statistics(result, native(x.dtype))
    if result.centred:
        assert cache.mean.dtype == np.float64
        assert_within(cache.mean, result.mean, mean, "mean")
    assert cache.rstd.dtype == np.float64
    assert_within(cache.rstd, result.rstd, rstd, "rstd")


def forward(y, cache, result, inputs, within=None):
    """`result` has the axes of x. within: the tolerance of y, for who keeps it."""
    assert native(y.dtype) == native(inputs.x.dtype)
    statistics(cache, result, inputs.x)
    assert_within(y, result.y, tolerance.y(result, native(inputs.x.dtype)) if within is None else within, "y")


def positive(y, result, dtype):
    """Where z > 0: by the oracle, or by the sign of y that was found where rounding decides. None without a kink."""
    if isinstance(result, reference.Adaptive) or result.activation not in ("relu", "leaky_relu"):
        return None
    close = np.abs(result.z) <= tolerance.z(result, dtype)
    return np.where(close, np.asarray(y > 0), result.z > 0)


def within_contract(y, expected):
    """|Δy| <= 1e-6·max(1, |y|), without parameters."""
    assert_within(y, expected, 1e-6 * np.maximum(1, np.abs(expected)), "y")


OWNERS = {
    "dx": "x", "dweight": "weight", "dbias": "bias", "dresidual": "residual", "dcontent": "x", "dstyle": "style",
}  # fmt: skip


def expected_gradients(result, inputs, y=None):
    """(the oracle's gradients, their tolerances). `y` is what forward gave: its signs decide at a kink."""
    dtype = native(inputs.x.dtype)
    expected = result.backward(inputs.dy, None if y is None else positive(y, result, dtype))
    owners = {name: getattr(inputs, OWNERS[name]) for name in expected._fields}
    dtypes = {name: None if p is None else native(p.dtype) for name, p in owners.items()}
    return expected, tolerance.gradients(result, inputs.dy, expected, dtypes, dtype)


def gradients(found, result, inputs, y, expected=None):
    """expected: what `expected_gradients` gives, for who keeps it."""
    expected, within = expected_gradients(result, inputs, y) if expected is None else expected
    assert found._fields == expected._fields
    for name in expected._fields:
        gradient, owner = getattr(found, name), getattr(inputs, OWNERS[name])
        if owner is None:
            assert gradient is None
        else:
            assert gradient.shape == owner.shape
            assert native(gradient.dtype) == native(owner.dtype)
            assert_within(gradient.reshape(within[name].shape), getattr(expected, name), within[name], name)


def moments(x, axis, dtype):
    found = nk.moments(x, axis)
    mean, m2 = reference.moments(x, axis)
    count = x.size // max(1, mean.size)
    assert type(found.count) is int
    assert found.count == count
    assert found.mean.dtype == found.m2.dtype == np.float64
    var = m2 / count
    sigma = np.sqrt(var)
    dtype = tolerance.compute(dtype)
    n, eps = tolerance.STATISTIC[dtype.itemsize], tolerance.eps_of(dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = np.where(sigma > 0, np.maximum(1, np.abs(mean) / sigma / 1e6), 1)
    # eps·|v| is at least half an ulp and at most one: 4 eps is never more than 8 ulp, and ulp() is what is promised.
    assert_within(found.mean, mean, n * tolerance.ulp(np.maximum(np.abs(mean), sigma), dtype), "mean")
    assert_within(found.m2, m2, n * eps * m2 * beyond, "m2")
    assert_within(found.var(), var, n * eps * var * beyond + 2 * tolerance.tiny(np.float64), "var")


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
