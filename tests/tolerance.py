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
add (3 + 1)·u along rows: 4 steps and two halves of the lanes, beyond that float64. Down columns it is 3·u for 4 rows
and 1·u for each further 4, of 128 at most: 17 eps if all went one way, of which the tests allow for three quarters. In
total 24 eps·sum(|dy|·max(1, |h|)) for float32, where a dy in float64 is rounded, too. For float64 below 128 eps
(h: 64). dbias is a sum of the same kind with the factor 1 instead of h. One more rounding to the parameter's dtype.

*dx* = r·(g·dy - <g·dy> - h·<g·dy·h>): the two averages carry the errors of the sums, h its own, and there are 6
roundings of coefficients and operations: 8 eps more on each of the three terms' magnitudes.

*RMS norm* is the case without a mean: k = 0. *Layer norm*: the weight varies among the elements that share; the
averages above carry it.

*Activations.* z = g·h + b + residual has y's error from above, |residual| being one more term of its size. All three
are Lipschitz (1, 1, and 1.1 for silu), so y has 1.1 times that; silu's own exp, sum, division and product add
4 eps·|y|. The backward starts from dz = dy·act'(z). |silu''| <= 1/2, so z's error moves silu' by half of it, and its
own arithmetic by 8 eps; leaky_relu's slope and product are 2 roundings; relu has none. This error of dz goes through
the sums like dz itself. At the kink, where |z| is within its tolerance, backward must agree with the sign that
forward's y shows.

*Masks.* Nothing behind a mask has any tolerance: exactly 0.

*Batch renormalization*: y = g·(h·r + d) + b. r has the relative error of the statistics, 4 eps. d is a multiple rho =
sigma/sigma_running of mean/sigma, hence off by rho times what h is off by. As constants they scale the gradients:
dweight = r·sum(dz·h) + d·sum(dz).

*Adaptive instance norm*: g and b are statistics of the style, with their errors of 4 ulp. g may be any size (weights
above are of order 1): what the contract says of h, 1e-6·max(1, |h|), is multiplied by it. dstyle = dmean/M +
dsigma·h/(M - ddof): the sums' errors, that of h (SUM covers it), and 8 eps for operations.

*Half precision.* Inputs are exact in float32 and everything is computed there; storing y or dx (or a gradient of a
half-precision parameter) is one rounding to nearest: half a spacing at the largest number that the float32 bound
allows.

All of them plus a few of the smallest subnormal numbers, which is what underflow costs.
"""

import numpy as np

import reference
from half_types import finfo

SUM = {4: 24, 8: 128}  # float itemsize -> errors of a sum in eps, see above
APPLY = 8
STATISTIC = {4: 4, 8: 64}


LIPSCHITZ = {None: 1, "relu": 1, "leaky_relu": 1, "silu": 1.1}
# What dz/dy is off by: a share of z's error, and roundings in eps.
CURVATURE = {None: (0, 0), "relu": (0, 0), "leaky_relu": (0, 2), "silu": (0.5, 8)}
STORED = 4  # the mean of given statistics, their root, its inverse: roundings in float64


def eps_of(dtype):
    return float(finfo(dtype).eps)


def tiny(dtype, count=4):
    return count * np.longdouble(float(finfo(dtype).smallest_subnormal))


def compute(dtype):
    """What a dtype is computed in."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def is_half(dtype):
    return dtype.itemsize == 2


def spacing(values, dtype):
    """The distance between neighbours of the dtype at |values|, which need not be representable."""
    info = finfo(dtype)
    _, exponent = np.frexp(np.abs(values))
    return np.where(values == 0, 0, np.maximum(np.ldexp(np.longdouble(1), exponent - 1 - info.nmant), tiny(dtype, 1)))


def stored(expected, within, dtype):
    """The tolerance `within` of a number that is then rounded to the dtype."""
    return within + spacing(np.abs(expected) + within, dtype) / 2


def kappa(result):
    """|mean|/sqrt(var + eps), in the cache's shape; the factor (>= 1) by which it exceeds 1e6."""
    k = np.abs(result.mean) * result.rstd
    return k, np.maximum(1, k / 1e6)


def ulp(values, dtype):
    """The distance from |values| to the next number of the dtype, as wide floats."""
    return np.spacing(np.abs(values).astype(dtype)).astype(values.dtype)


def statistics(result, dtype):
    """Tolerances of (mean, rstd)."""
    if result.frozen:  # the caller's own mean, widened
        return 0 * result.mean, STORED * eps_of(np.float64) * result.rstd
    own = compute(dtype)
    n, (_, beyond) = STATISTIC[own.itemsize], kappa(result)
    mean = n * ulp(np.maximum(np.abs(result.mean), np.sqrt(result.var)), own)
    # rstd may lie outside float32's range where float32's variance would: relative there, too.
    return mean, n * eps_of(own) * result.rstd * beyond


def x_hat(result, dtype):
    """max(1, |x̂|), for float64 max(1, |x̂|, κ): what the error of x̂ is proportional to."""
    hat = np.maximum(1, np.abs(result.x_hat))
    k, beyond = kappa(result)
    if dtype.itemsize == 8:
        return np.maximum(hat, result.at_elements(k))
    return hat * result.at_elements(beyond)


def z(result, dtype):
    """Of y before the activation, in the compute dtype."""
    dtype, rho = compute(dtype), result.rho
    k, beyond = kappa(result)
    gamma, statistic = np.abs(result.gamma), STATISTIC[dtype.itemsize] * eps_of(dtype)
    scaled, moved = gamma * np.abs(result.x_hat) * result.r, gamma * np.abs(result.d)
    size = np.maximum(1, scaled + moved + gamma * rho + np.abs(result.beta) + np.abs(result.residual))
    of_r = statistic * scaled * (np.ndim(result.r) > 0)
    if dtype.itemsize == 8:
        return of_r + 64 * eps_of(dtype) * np.maximum(size, gamma * np.maximum(result.r, rho) * result.at_elements(k))
    return of_r + 1e-6 * size * result.at_elements(beyond)


def y(result, dtype):
    if isinstance(result, reference.Adaptive):
        return adaptive_y(result, dtype)
    silu = 4 * eps_of(compute(dtype)) * np.abs(result.y) * (result.activation == "silu")
    within = result.live(LIPSCHITZ[result.activation] * z(result, dtype) + silu)
    return result.live(stored(result.y, within, dtype)) if is_half(dtype) else within


def of_style(result, dtype):
    """Errors of the style's sigma and mean, at each element of the content."""
    content, own = result.content, compute(dtype)
    mean, rstd = statistics(result.style, dtype)
    sigma = rstd / result.style.rstd**2 + eps_of(own) / result.style.rstd
    return content.at_elements(sigma), content.at_elements(mean)


def adaptive_y(result, dtype):
    sigma, mean = of_style(result, dtype)
    content, own = result.content, compute(dtype)
    of_hat = (64 * eps_of(own) if own.itemsize == 8 else 1e-6) * np.abs(content.gamma) * x_hat(content, own)
    within = np.maximum(y(content, own), of_hat) + sigma * np.abs(content.x_hat) + mean
    return stored(result.y, within, dtype) if is_half(dtype) else within


def of_dz(result, dy, dtype):
    """(|dz|, its error)."""
    dy = np.abs(result.live(dy.astype(result.y.dtype)))
    share, roundings = CURVATURE[result.activation]
    return (
        LIPSCHITZ[result.activation] * dy,
        result.live(dy * (share * z(result, dtype) + roundings * eps_of(compute(dtype)))),
    )


def gradients(result, dy, expected, dtypes, dtype):
    """Tolerances of each of `expected` (named like the library's), which are stored in `dtypes`; x is of `dtype`."""
    if isinstance(result, reference.Adaptive):
        return adaptive_gradients(result, dy, expected, dtypes, dtype)
    own = compute(dtype)
    dz, error = of_dz(result, dy, dtype)
    gamma, hat, rstd = np.abs(result.gamma) * result.r, x_hat(result, own), result.at_elements(result.rstd)
    total, eps = SUM[own.itemsize], eps_of(own)
    relative = total + APPLY + STATISTIC[own.itemsize] * (np.ndim(result.r) > 0)
    through = lambda g: result.average(g) + hat * result.average(g * hat, result.ddof)  # noqa: E731
    dx = gamma * error
    if result.frozen:
        dx = rstd * dx + STORED * eps * gamma * dz * rstd  # rounding of dy, of g·r and of the product
    else:
        dx = rstd * (dx + through(dx) + relative * eps * (gamma * dz + through(gamma * dz)))
    r, d, rho = (result.at_parameters(np.abs(v)) for v in (result.r, result.d, result.rho))
    of_hat, of_one = result.per_parameter(dz * hat), result.per_parameter(dz)
    of_hat_error, of_one_error = result.per_parameter(error * hat), result.per_parameter(error)
    dweight = r * (total * eps * of_hat + of_hat_error) + d * (total * eps * of_one + of_one_error)
    dweight = (
        dweight + STATISTIC[own.itemsize] * eps * (np.ndim(result.r) > 0) * r * of_hat + total * eps * rho * of_one
    )
    within = {
        "dx": dx,
        "dweight": dweight,
        "dbias": total * eps * of_one + of_one_error,
        "dresidual": error + eps * dz,
    }
    done = finished(expected, within, dtypes, own)
    return {name: result.live(t) if name in ("dx", "dresidual") else t for name, t in done.items()}


def adaptive_gradients(result, dy, expected, dtypes, dtype):
    content, style, own = result.content, result.style, compute(dtype)
    total, eps = SUM[own.itemsize], eps_of(own)
    sigma = of_style(result, dtype)[0] * content.at_elements(style.rstd)  # relative
    plain = {"dx": own, "dweight": None, "dbias": None}
    gradient = content.backward(dy)
    within = gradients(content, dy, gradient, plain, own)
    g = content.gamma * np.abs(dy.astype(content.y.dtype))
    size = g + content.average(g) + x_hat(content, own) * content.average(g * x_hat(content, own), content.ddof)
    at = lambda p: style.at_elements(result.spread(p))  # noqa: E731
    dmean, dsigma, hat = at(np.abs(gradient.dbias)), at(np.abs(gradient.dweight)), x_hat(style, own)
    n, m = max(1, style.count), max(1, style.count - style.ddof)
    dstyle = at(within["dbias"]) / n + at(within["dweight"]) * hat / m
    dstyle = dstyle + (APPLY * dmean / n + (total + APPLY) * dsigma * hat / m) * eps
    dcontent = within["dx"] + sigma * size * content.at_elements(content.rstd)
    return finished(expected, {"dcontent": dcontent, "dstyle": dstyle}, dtypes, own)


def finished(expected, within, dtypes, own):
    """With the rounding to the dtype where it is stored in a narrower one than it was computed in, and underflow."""
    done = {}
    for name, gradient in expected._asdict().items():
        tolerance, dtype = within[name], dtypes[name]
        of_parameter = name in ("dweight", "dbias")  # a sum in float64, whatever x
        if dtype is not None and (of_parameter or dtype.itemsize < own.itemsize):
            tolerance = stored(gradient, tolerance, dtype)
        done[name] = tolerance + tiny(own if dtype is None else dtype) * (tolerance > 0)
    return done


def assert_within(found, expected, tolerance, what):
    """|found - expected| <= tolerance everywhere; the message shows the worst element."""
    found = np.asarray(found)
    assert found.shape == np.shape(expected), f"{what}: shape {found.shape}, expected {np.shape(expected)}"
    if found.size == 0:
        return
    error = np.abs(found.astype(np.result_type(np.float64, expected)) - expected)
    if (error <= tolerance).all():
        return
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
