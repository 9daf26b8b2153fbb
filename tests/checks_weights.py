"""What the weight norms are held to, against the oracle.

Tolerances: everything before the one rounding is in float64. There a sum takes at most 16 + 16 + 4 additions in a
block and 64 chunks, and a few roundings follow: 128 float64 eps of the sum of magnitudes of its terms. Then half an ulp
of the output's dtype, and half of the smallest subnormal.
"""

import numpy as np

import normkit as nk
import reference_weights as oracle
from half_types import finfo
from tolerance import assert_within

F64 = np.float64
WIDE = 128 * np.finfo(F64).eps


def rounded(expected, dtype, size=None):
    """Half an ulp of `expected`, and WIDE of the magnitudes of its terms."""
    info = finfo(np.dtype(dtype))
    _, exponent = np.frexp(np.abs(expected))
    ulp = np.maximum(np.ldexp(float(info.eps), exponent - 1), float(info.smallest_subnormal))
    return ulp / 2 + WIDE * (np.abs(expected) if size is None else size)


def values(shape, dtype=F64, seed=0, mean=0.3):
    rng = np.random.default_rng([seed, *shape])
    weight, dw = rng.standard_normal((2, *shape))
    return (weight + mean).astype(dtype), dw.astype(dtype)


def vectors(shape, dim, dtype=F64):
    rng = np.random.default_rng([1, *shape])
    rows = shape[dim]
    u, v = rng.uniform(0.5, 1.5, rows), rng.uniform(0.5, 1.5, int(np.prod(shape)) // rows)
    return (u / np.linalg.norm(u)).astype(dtype), (v / np.linalg.norm(v)).astype(dtype)


def scales(shape, dim, dtype=F64):
    """g or gain: one number for each position, of either sign."""
    n = 1 if dim is None else shape[dim]
    return np.random.default_rng([2, n]).uniform(0.5, 2, n).astype(dtype) * np.resize([1, -1, 1], n).astype(dtype)


def check_weight_norm(v, dw, g, dim):
    w, cache = nk.weight_norm(v, g, dim=dim)
    expected, norm = oracle.weight_norm(v, g, dim)
    dtype = v.dtype.newbyteorder("=")
    assert w.dtype == dtype
    assert cache.norm.dtype == F64
    assert_within(cache.norm, norm.ravel(), WIDE * norm.ravel(), "norm")
    assert_within(w, expected, rounded(expected, dtype), "w")
    dv, dg = found = nk.weight_norm_backward(dw, cache)
    assert found._fields == ("dv", "dg")
    expected_dv, expected_dg, terms, size = oracle.weight_norm_backward(dw, v, g, dim)
    assert (dv.dtype, dg.dtype, dg.shape) == (dtype, g.dtype, g.shape)
    assert_within(dv, expected_dv, rounded(expected_dv, dtype, size), "dv")
    assert_within(dg.ravel(), expected_dg.ravel(), rounded(expected_dg, g.dtype, terms).ravel(), "dg")
    return w, dv


def check_spectral_norm(weight, dw, dim, n=2):
    u, v = vectors(weight.shape, dim)
    w, cache = nk.spectral_norm(weight, u, v, n_power_iterations=n, dim=dim)
    expected, eu, ev, sigma = oracle.spectral_norm(weight, u, v, n, 1e-12, dim)
    dtype = weight.dtype.newbyteorder("=")
    # A product's error is WIDE of the Frobenius norm, and sigma, the norm of each, not much less than that here.
    frobenius = np.sqrt(np.square(oracle.wide(weight)).sum())
    growth = (2 * n + 1) * (frobenius / sigma) ** (2 * n + 1)
    assert growth < 1e5
    assert type(cache.sigma) is float
    assert abs(cache.sigma - sigma) <= WIDE * growth * sigma
    for found, expected_vector in ((cache.u, eu), (cache.v, ev)):
        assert found.dtype == F64
        assert_within(found, expected_vector, WIDE * growth, "u, v")
    assert w.dtype == dtype
    assert_within(w, expected, rounded(expected, dtype, growth * np.abs(expected)), "w")
    dweight = nk.spectral_norm_backward(dw, cache)
    assert isinstance(dweight, np.ndarray)
    assert dweight.dtype == dtype
    expected, size = oracle.spectral_norm_backward(dw, weight, cache.u, cache.v, cache.sigma, dim)
    assert_within(dweight, expected, rounded(expected, dtype, size), "dweight")
    return w, dweight


def check_standardization(weight, dw, gain, eps=1e-4):
    w, cache = nk.scaled_weight_standardization(weight, gain, eps=eps)
    expected, mean, rstd = oracle.standardization(weight, gain, eps)
    dtype = weight.dtype.newbyteorder("=")
    # The mean is held in float64, and x - mean loses an eps of |mean|.
    held = WIDE * (1 + np.abs(mean) * rstd)
    assert cache.mean.dtype == cache.rstd.dtype == F64
    assert_within(cache.mean, mean.ravel(), (held / rstd).ravel(), "mean")
    assert_within(cache.rstd, rstd.ravel(), (held * rstd).ravel(), "rstd")
    size = 1 if gain is None else np.abs(gain).reshape(mean.shape)
    assert w.dtype == dtype
    assert_within(w, expected, rounded(expected, dtype, held / WIDE * (size + np.abs(expected))), "w")
    dweight, dgain = found = nk.scaled_weight_standardization_backward(dw, cache)
    assert found._fields == ("dweight", "dgain")
    expected, expected_gain, size, terms = oracle.standardization_backward(dw, weight, gain, eps)
    assert dweight.dtype == dtype
    assert_within(dweight, expected, rounded(expected, dtype, held / WIDE * size), "dweight")
    if gain is None:
        assert dgain is None
    else:
        assert (dgain.dtype, dgain.shape) == (gain.dtype, gain.shape)
        within = rounded(expected_gain, gain.dtype, held / WIDE * terms)
        assert_within(dgain.ravel(), expected_gain.ravel(), within.ravel(), "dgain")
    return w, dweight


def run_all(weight, dw):
    """Every function with every dim; what was written."""
    dtype = weight.dtype.newbyteorder("=")
    for dim in (*range(weight.ndim), None):
        yield check_weight_norm(weight, dw, scales(weight.shape, dim, dtype), dim)
    for dim in range(weight.ndim):
        if weight.strides[dim] or weight.shape[dim] == 1:
            yield check_spectral_norm(weight, dw, dim)
    yield check_standardization(weight, dw, None)
    yield check_standardization(weight, dw, scales(weight.shape, 0, dtype))
