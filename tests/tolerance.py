"""How far a result may be from the oracle, and why. Nothing here is measured: every constant is derived.

Let u = 2^-24 (float32) or 2^-53 (float64) be the unit roundoff, eps = 2u, sigma² the variance, r = rstd, g the weight,
b the bias, h = (x - mean)·r, <a> the mean of a over the elements that share statistics, k = |mean|·r.

*Statistics.* The contract: 4 ulp of float32 for |mean|/sigma <= 1e6. A mean that cancels (|mean| << sigma) cannot be
relatively exact however it is summed, so its ulp is that of max(|mean|, sigma). Beyond k = 1e6 the bound grows with k.
float64: sums of at most 4096 elements in 16 lanes flushed every 16 steps: 16 + 16 + 4 (fold) additions, then a merge
over blocks; with the roundings of deviation and square below 64 eps.

*y.* The contract: 1e-6·max(1, |y|) for float32, without parameters. With them g·h and b may cancel, so |y| is read as
|g·h| + |b|. For float64 the saved mean is itself rounded: (x - mean)·r moves by u·k, hence max(1, |y|, k).

*Sums of the backward.* Every term dy·h carries the error of h (above: 1e-6 = 8.4 eps) and of 3 roundings; the lane sums
add (16 + 8 + 5)·u: 16 steps, 8 flushes in 4096/32 steps, 5 levels of fold; beyond that float64. In total below
24 eps·sum(|dy|·max(1, |h|)) for float32, where a dy in float64 is rounded, too. For float64 below 128 eps (h: 64).
dbias is a sum of the same kind with the factor 1 instead of h. One more rounding to the parameter's dtype.

*dx* = r·(g·dy - <g·dy> - h·<g·dy·h>): the two averages carry the errors of the sums, h its own, and there are 6
roundings of coefficients and operations: 8 eps more on each of the three terms' magnitudes.

All of them plus a few of the smallest subnormal numbers, which is what underflow costs.
"""

import numpy as np

SUM = {4: 24, 8: 128}  # float itemsize -> errors of a sum in eps, see above
APPLY = 8
STATISTIC = {4: 4, 8: 64}


def eps_of(dtype):
    return np.finfo(dtype).eps


def tiny(dtype, count=4):
    return count * np.finfo(dtype).smallest_subnormal.astype(np.longdouble)


def kappa(result):
    """|mean|/sqrt(var + eps), in the cache's shape; the factor (>= 1) by which it exceeds 1e6."""
    k = np.abs(result.mean) * result.rstd
    return k, np.maximum(1, k / 1e6)


def ulp(values, dtype):
    """The distance from |values| to the next number of the dtype, as wide floats."""
    return np.spacing(np.abs(values).astype(dtype)).astype(values.dtype)


def statistics(result, dtype):
    """Tolerances of (mean, rstd)."""
    n, (_, beyond) = STATISTIC[dtype.itemsize], kappa(result)
    mean = n * ulp(np.maximum(np.abs(result.mean), np.sqrt(result.var)), dtype)
    # rstd may lie outside float32's range where float32's variance would: relative there, too.
    return mean, n * eps_of(dtype) * result.rstd * beyond


def x_hat(result, dtype):
    """max(1, |x̂|), for float64 max(1, |x̂|, κ): what the error of x̂ is proportional to."""
    hat = np.maximum(1, np.abs(result.x_hat))
    k, beyond = kappa(result)
    if dtype.itemsize == 8:
        return np.maximum(hat, result.at_elements(k))
    return hat * result.at_elements(beyond)


def y(result, dtype):
    k, beyond = kappa(result)
    size = np.maximum(1, np.abs(result.gamma * result.x_hat) + np.abs(result.beta))
    if dtype.itemsize == 8:
        return 64 * eps_of(dtype) * np.maximum(size, np.abs(result.gamma) * result.at_elements(k))
    return 1e-6 * size * result.at_elements(beyond)


def gradients(result, dy, dtype, weight_dtype, bias_dtype):
    """Tolerances of (dx, dweight, dbias)."""
    dy = np.abs(dy.astype(result.y.dtype))
    g, hat, rstd = np.abs(result.gamma) * dy, x_hat(result, dtype), result.at_elements(result.rstd)
    total, eps = SUM[dtype.itemsize], eps_of(dtype)
    if result.frozen:
        dx = 4 * eps * g * rstd  # rounding of dy, of g·r and of the product
    else:
        dx = (total + APPLY) * eps * rstd * (g + result.average(g) + hat * result.average(g * hat))
    dweight, dbias = result.per_channel(dy * hat), result.per_channel(dy)
    return (
        dx + tiny(dtype),
        (total * eps + eps_of(weight_dtype)) * dweight + tiny(weight_dtype),
        (total * eps + eps_of(bias_dtype)) * dbias + tiny(bias_dtype),
    )


def assert_within(found, expected, tolerance, what):
    """|found - expected| <= tolerance everywhere; the message shows the worst element."""
    found = np.asarray(found)
    assert found.shape == np.shape(expected), f"{what}: shape {found.shape}, expected {np.shape(expected)}"
    if found.size == 0:
        return
    error = np.abs(found.astype(np.longdouble) - expected)
    ratio = np.where(error == 0, 0, error / np.maximum(tolerance, np.finfo(np.longdouble).tiny))
    worst = np.unravel_index(np.argmax(np.where(np.isnan(ratio), np.inf, ratio)), ratio.shape)
    assert ratio[worst] <= 1, (
        f"{what}{list(map(int, worst))}: found {found[worst]!r}, expected {np.asarray(expected)[worst]!r}, "
        f"error {float(ratio[worst]):.3g} times the tolerance"
    )


def kappa_of_spread(result):
    """What 4 ulp of the variance grow by beyond |mean|/sigma = 1e6: eps has no part in a running variance.

    A variance of exactly 0 has to be found exactly.
    """
    sigma = np.sqrt(result.var)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sigma > 0, np.maximum(1, np.abs(result.mean) / sigma / 1e6), 1)
