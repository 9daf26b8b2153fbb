"""The oracle: every norm as its definition reads, in wider floats than the input's. Slow, obvious, a page long.

float32 is computed in float64, float64 in `np.longdouble` (64 bits of mantissa on x86, 113 on aarch64), so that the
error of the oracle stays far below the tolerances in `tolerance.py`.
"""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np


def wide(a):
    """A copy of `a` in a wider float; float64 stays float64 where the machine has nothing wider."""
    a = np.asarray(a)
    return a.astype(np.longdouble if a.dtype.itemsize >= 8 else np.float64)


@dataclass(frozen=True)
class Sharing:
    """Which elements share a statistic: x, its axes split or not, as a matrix with a row for each statistic."""

    shape: tuple  # of x, the channels split into groups where it is so
    kept: tuple  # the axes of `shape` that statistics keep

    @property
    def statistics(self):
        """The shape of a statistic."""
        return tuple(self.shape[a] for a in self.kept)

    @property
    def order(self):
        return (*self.kept, *(a for a in range(len(self.shape)) if a not in self.kept))

    @property
    def count(self):
        return prod(self.shape[a] for a in self.order[len(self.kept) :])

    def rows(self, a):
        return a.reshape(self.shape).transpose(self.order).reshape(prod(self.statistics), self.count)

    def at_elements(self, statistic, like):
        """A statistic at each element of `like`, whose shape is that of x."""
        rows = np.broadcast_to(statistic.reshape(-1, 1), (prod(self.statistics), self.count))
        moved = rows.reshape([self.shape[a] for a in self.order])
        return moved.transpose(np.argsort(self.order)).reshape(like.shape)


def per_channel(x, axis):
    """Batch norm: a channel shares."""
    return Sharing(x.shape, (axis % x.ndim,))


def per_group(x, axis, groups):
    """Group norm: the channels of a group share, in each sample. Samples are the first axis that is no channel axis."""
    axis %= x.ndim
    if axis == 0:
        return Sharing((groups, x.shape[0] // groups, *x.shape[1:]), (2, 0))
    return Sharing((*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :]), (0, axis))


def over(x, axes):
    """Layer norm: the elements along `axes` share."""
    return Sharing(x.shape, tuple(a for a in range(x.ndim) if a not in axes))


BatchNormGradients = namedtuple("BatchNormGradients", "dx dweight dbias")
ResidualGradients = namedtuple("ResidualGradients", "dx dweight dbias dresidual")
AdaptiveGradients = namedtuple("AdaptiveGradients", "dcontent dstyle")
SLOPE = 0.1  # of leaky_relu


def activate(z, activation):
    if activation is None:
        return z
    if activation == "silu":
        with np.errstate(over="ignore"):
            return z / (1 + np.exp(-z))
    return np.where(z <= 0, z * (SLOPE if activation == "leaky_relu" else 0), z)  # NaN stays


def slope(z, activation, positive):
    """act'(z). At 0 it is that of negative numbers."""
    if activation is None:
        return np.ones_like(z)
    if activation == "silu":
        with np.errstate(over="ignore"):
            s = 1 / (1 + np.exp(-z))
        return s * (1 + z * (1 - s))
    if activation == "relu":
        return np.where(positive | np.isnan(z), 1, 0).astype(z.dtype)  # not closed at NaN, as PyTorch's
    return np.where(positive, 1, SLOPE).astype(z.dtype)


@dataclass
class Norm:
    """A forward result and what its backward needs: y = act(gamma·(x_hat·r + d) + beta + residual).

    Arrays named without remark have the shape of x. r = 1 and d = 0 but for batch renormalization.
    """

    x_hat: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray  # shape of `cache.mean`
    var: np.ndarray  # the same shape; divided by count - ddof
    rstd: np.ndarray  # the same shape
    sharing: Sharing
    parameter_axes: tuple
    count: int  # elements per statistic, those behind the mask apart
    frozen: bool = False
    centred: bool = True
    ddof: int = 0
    r: np.ndarray | float = 1.0
    d: np.ndarray | float = 0.0
    rho: np.ndarray | float = 0.0  # sigma/sigma_running where d depends on the mean
    activation: str | None = None
    residual: np.ndarray | float = 0.0
    mask: np.ndarray | None = None
    fields: type = BatchNormGradients

    def __post_init__(self):
        self.z = self.live(self.gamma * (self.x_hat * self.r + self.d) + self.beta + self.residual)
        self.y = self.live(activate(self.z, self.activation))

    def live(self, a):
        """0 behind the mask, whatever is there."""
        return a if self.mask is None else np.where(self.mask, a, 0)

    def average(self, a, ddof=0):
        """Sum of `a` over the elements that share statistics, divided by count - ddof, at each element."""
        sums = self.sharing.rows(self.live(a)).sum(1)
        return self.at_elements(sums / max(1, self.count - ddof))

    def at_elements(self, statistic):
        """A statistic in the cache's shape, at each element."""
        return self.sharing.at_elements(statistic, self.x_hat)

    def per_parameter(self, a):
        """Sum of `a` for each element of the weight."""
        return self.live(a).sum(tuple(k for k in range(a.ndim) if k not in self.parameter_axes))

    def at_parameters(self, a):
        """What is equal wherever a parameter is, for each element of the weight."""
        a = np.broadcast_to(a, self.x_hat.shape)
        if a.size == 0:
            return np.zeros([a.shape[k] for k in self.parameter_axes], a.dtype)
        return a[tuple(slice(None) if k in self.parameter_axes else 0 for k in range(a.ndim))]

    def dz(self, dy, positive=None):
        dy = self.live(dy.astype(self.y.dtype))
        return dy * slope(self.z, self.activation, self.z > 0 if positive is None else positive)

    def backward(self, dy, positive=None):
        """The gradients by the closed form, in the shapes of x and of the weight.

        positive: where z > 0, for who knows better near the kink of an activation.
        """
        dz = self.dz(dy, positive)
        g = self.gamma * self.r * dz
        if not self.frozen:
            centre = self.average(g) if self.centred else 0
            g = g - centre - self.x_hat * self.average(g * self.x_hat, self.ddof)
        found = (
            self.live(g * self.at_elements(self.rstd)),
            self.per_parameter(dz * (self.x_hat * self.r + self.d)),
            self.per_parameter(dz),
            dz,
        )
        return self.fields(*found[: len(self.fields._fields)])


def prod(sizes):
    return int(np.prod(tuple(sizes), dtype=np.int64))


def at_axes(p, x, axes, default):
    """A parameter at each element: its elements lie along `axes` of x."""
    if p is None:
        return np.full(x.shape, default, x.dtype)
    p = p.astype(x.dtype).reshape([s if a in axes else 1 for a, s in enumerate(x.shape)])
    return np.broadcast_to(p, x.shape)


def normalize(
    x, weight, bias, sharing, parameter_axes, *, eps, mean=None, var=None, centred=True, ddof=0, mask=None,
    residual=None, **kw,
):  # fmt: skip
    """A norm by the statistics of `sharing`, or by given ones."""
    x, frozen = wide(x), mean is not None
    if mask is not None:
        x = np.where(mask, x, 0)
    live = np.ones(x.shape, bool) if mask is None else mask
    rows, count = sharing.rows(x), sharing.count
    if mask is not None:
        count = int(sharing.rows(live).sum(1)[0]) if rows.shape[0] else 0
    average = lambda a: (a * sharing.rows(live)).sum(1, keepdims=True) / max(1, count)  # noqa: E731
    if frozen:
        mean, var = (wide(s).astype(x.dtype).reshape(-1, 1) for s in (mean, var))
    else:
        mean = average(rows) if centred else np.zeros((rows.shape[0], 1), x.dtype)
        mean = mean + average(rows - mean) * centred
        var = average(np.square(rows - mean)) * count / max(1, count - ddof)
    rstd = 1 / np.sqrt(var + x.dtype.type(eps))
    mean, var, rstd = (s.reshape(sharing.statistics) for s in (mean, var, rstd))
    x_hat = (x - sharing.at_elements(mean, x)) * sharing.at_elements(rstd, x)
    gamma, beta = (
        at_axes(None if p is None else wide(p), x, parameter_axes, default) for p, default in ((weight, 1), (bias, 0))
    )
    if residual is not None:
        residual = wide(residual).astype(x.dtype) if mask is None else np.where(mask, wide(residual), 0).astype(x.dtype)
        kw |= {"residual": residual, "fields": ResidualGradients}
    return Norm(
        x_hat, gamma, beta, mean, var, rstd, sharing, parameter_axes, count, frozen, centred, ddof, mask=mask, **kw
    )


def norm(
    x, weight=None, bias=None, *, axis=1, groups=None, eps=1e-5, mean=None, var=None, activation=None, residual=None,
    mask=None,
):  # fmt: skip
    """Batch norm (`groups=None`), frozen batch norm (`mean` and `var` given) or group norm.

    mask: the shape of x without its channels, or broadcastable to it.
    """
    sharing = per_channel(x, axis) if groups is None else per_group(x, axis, groups)
    if mask is not None:
        axis %= x.ndim
        without = x.shape[:axis] + x.shape[axis + 1 :]
        mask = np.broadcast_to(np.expand_dims(np.broadcast_to(mask, without), axis), x.shape)
    return normalize(
        x, weight, bias, sharing, (axis % x.ndim,), eps=eps, mean=mean, var=var, activation=activation,
        residual=residual, mask=mask,
    )  # fmt: skip


def instance_norm(x, weight=None, bias=None, *, axis=1, **kw):
    return norm(x, weight, bias, axis=axis, groups=x.shape[axis], **kw)


def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5):
    axes = axes_of(axis, x.ndim)
    return normalize(x, weight, bias, over(x, axes), axes, eps=eps)


def rms_norm(x, weight=None, *, axis=-1, eps=1e-6):
    axes = axes_of(axis, x.ndim)
    fields = namedtuple("RmsGradients", "dx dweight")
    return normalize(x, weight, None, over(x, axes), axes, eps=eps, centred=False, fields=fields)


def axes_of(axis, ndim):
    return tuple(sorted(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,))))


def batch_renorm(x, running_mean, running_var, weight=None, bias=None, *, r_max, d_max, axis=1, eps=1e-5):
    """Training. r and d are constants for the backward."""
    plain = norm(x, axis=axis, eps=eps)
    dtype = plain.y.dtype
    sigma = np.sqrt(wide(running_var).astype(dtype).ravel() + dtype.type(eps))
    distance = (plain.mean - wide(running_mean).astype(dtype).ravel()) / sigma
    r, d = np.clip(1 / plain.rstd / sigma, 1 / dtype.type(r_max), r_max), np.clip(distance, -d_max, d_max)
    rho = np.where(np.abs(distance) <= d_max, 1 / plain.rstd / sigma, 0)
    r, d, rho = (plain.at_elements(s) for s in (r, d, rho))
    return normalize(x, weight, bias, plain.sharing, plain.parameter_axes, eps=eps, r=r, d=d, rho=rho)


@dataclass
class Adaptive:
    """Adaptive instance norm: the instance norm of the content with the style's sigma and mean as parameters."""

    content: Norm
    style: Norm

    def __post_init__(self):
        self.y = self.content.y

    def backward(self, dy, positive=None):
        dcontent, dsigma, dmean = self.content.backward(dy)
        style, at = self.style, self.style.at_elements
        spread = at(self.spread(dsigma)) * style.x_hat / max(1, style.count - style.ddof)
        return AdaptiveGradients(dcontent, at(self.spread(dmean)) / max(1, style.count) + spread)

    def spread(self, gradient):
        """From the order of the parameters' axes to that of the statistics."""
        return gradient if self.style.sharing.kept[0] < self.style.sharing.kept[1] else gradient.T


def adaptive_instance_norm(content, style, *, axis=1, eps=1e-5, ddof=0):
    of_style = normalize(style, None, None, per_group(style, axis, style.shape[axis]), (), eps=eps, ddof=ddof)
    sharing = per_group(content, axis, content.shape[axis])
    axis %= content.ndim
    samples = 1 if axis == 0 else 0
    parameters = (1 / of_style.rstd, of_style.mean)  # (N, C)
    if axis < samples:
        parameters = tuple(p.T for p in parameters)
    return Adaptive(
        normalize(content, *parameters, sharing, tuple(sorted((axis, samples))), eps=eps, ddof=ddof), of_style
    )


def moments(x, axis):
    """(mean, m2) over the axes, as NumPy counts them."""
    x = wide(x)
    mean = x.mean(axis, keepdims=True)
    mean = mean + (x - mean).mean(axis, keepdims=True)
    return mean.reshape(np.mean(x, axis).shape), np.square(x - mean).sum(axis)


def fold(conv_weight, conv_bias, mean, var, weight, bias, *, eps, groups=1, transposed=False):
    """(w, b), unrounded: output channel o is scaled by gamma/sigma of o, wherever the layout keeps o."""
    w, mean, var = wide(conv_weight), wide(mean).ravel(), wide(var).ravel()
    scale = (1 if weight is None else wide(weight).ravel()) / np.sqrt(var + eps)
    b = (0 if conv_bias is None else wide(conv_bias)) - mean
    b = b * scale + (0 if bias is None else wide(bias).ravel())
    w = w.copy()
    for o in range(len(mean)):
        if transposed:  # (in, out / groups, *k): group j of the inputs feeds group j of the outputs
            per_group = w.shape[1]
            inputs = np.array_split(np.arange(w.shape[0]), groups)[o // per_group]
            w[inputs, o % per_group] *= scale[o]
        else:
            w[o] *= scale[o]
    return w, b


def convolve(x, w, b=None, *, groups=1, transposed=False):
    """A convolution (correlation) with stride 1 and no padding, or its transpose; (N, in) for a linear layer."""
    x, w = wide(x), wide(w)
    kernel, n_in = w.shape[2:], x.shape[1]
    n_out = w.shape[1] * groups if transposed else w.shape[0]
    grow = 1 if transposed else -1
    size = tuple(s + grow * (k - 1) for s, k in zip(x.shape[2:], kernel, strict=True))
    y = np.zeros((x.shape[0], n_out, *size), np.result_type(x, w))
    for group in range(groups):
        inputs = slice(group * n_in // groups, (group + 1) * n_in // groups)
        outputs = slice(group * n_out // groups, (group + 1) * n_out // groups)
        for offset in np.ndindex(*kernel):
            if transposed:
                window = tuple(slice(o, o + s) for o, s in zip(offset, x.shape[2:], strict=True))
                y[(slice(None), outputs, *window)] += np.einsum(
                    "io,ni...->no...", w[(inputs, slice(None), *offset)], x[:, inputs]
                )
            else:
                window = tuple(slice(o, o + s) for o, s in zip(offset, size, strict=True))
                y[:, outputs] += np.einsum(
                    "oi,ni...->no...", w[(outputs, slice(None), *offset)], x[(slice(None), inputs, *window)]
                )
    return y if b is None else y + wide(b).reshape(1, -1, *(1 for _ in size))
