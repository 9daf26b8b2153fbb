"""The oracle: every norm as its definition reads, in wider floats than the input's. Slow, obvious, a page long.

float32 is computed in float64, float64 in `np.longdouble` (64 bits of mantissa on x86, 113 on aarch64), so that the
error of the oracle stays far below the tolerances in `tolerance.py`.
"""

from dataclasses import dataclass

import numpy as np


def wide(a):
    """A copy of `a` in a wider float; float64 stays float64 where the machine has nothing wider."""
    a = np.asarray(a)
    return a.astype(np.longdouble if a.dtype.itemsize >= 8 else np.float64)


@dataclass
class Norm:
    """A forward result and what its backward needs. Arrays named without remark have the axes of x."""

    y: np.ndarray
    x_hat: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray  # shape of `cache.mean`
    var: np.ndarray  # the same shape, biased
    rstd: np.ndarray  # the same shape
    count: int  # elements per statistic
    axis: int
    groups: int | None
    frozen: bool

    def average(self, a):
        """Mean of `a` over the elements that share statistics, at each element."""
        cells = to_cells(a, self.axis, self.groups)
        return from_cells(np.broadcast_to(cells.mean(shared(self.groups), keepdims=True), cells.shape), a, self.axis)

    def at_elements(self, statistic):
        """A statistic in the cache's shape, at each element."""
        cells = to_cells(self.y, self.axis, self.groups)
        per_cell = statistic.reshape((1, -1, 1, 1) if self.groups is None else (*statistic.shape, 1, 1))
        return from_cells(np.broadcast_to(per_cell, cells.shape), self.y, self.axis)

    def per_channel(self, a):
        """Sum of `a` for each channel."""
        return np.moveaxis(a, self.axis, 0).reshape(a.shape[self.axis], -1).sum(1)

    def backward(self, dy):
        """(dx, dweight, dbias) by the closed form; parameters' gradients have shape (C,)."""
        dy = dy.astype(self.y.dtype)
        g = self.gamma * dy
        if not self.frozen:
            g = g - self.average(g) - self.x_hat * self.average(g * self.x_hat)
        return g * self.at_elements(self.rstd), self.per_channel(dy * self.x_hat), self.per_channel(dy)


def shared(groups):
    """The axes of the cells (N, G, C / G, S) over which statistics are shared."""
    return (0, 2, 3) if groups is None else (2, 3)


def to_cells(a, axis, groups):
    """(N, C, *spatial), the channels on `axis`, as (N, G, C / G, S); batch norm has C groups of one channel."""
    a = np.moveaxis(a, axis, 1)
    n, c = a.shape[:2]
    return a.reshape(n, c if groups is None else groups, 1 if groups is None else c // groups, -1)


def from_cells(cells, like, axis):
    return np.moveaxis(cells.reshape(np.moveaxis(like, axis, 1).shape), 1, axis)


def norm(x, weight=None, bias=None, *, axis=1, groups=None, eps=1e-5, mean=None, var=None):
    """Batch norm (`groups=None`), frozen batch norm (`mean` and `var` given) or group norm."""
    cells = to_cells(wide(x), axis, groups)
    frozen = mean is not None
    if frozen:
        mean, var = (wide(s).astype(cells.dtype).reshape(1, -1, 1, 1) for s in (mean, var))
    else:
        mean = cells.mean(shared(groups), keepdims=True)
        mean = mean + (cells - mean).mean(shared(groups), keepdims=True)
        var = np.square(cells - mean).mean(shared(groups), keepdims=True)
    rstd = 1 / np.sqrt(var + cells.dtype.type(eps))
    gamma, beta = (
        from_cells(
            np.broadcast_to(
                np.full((), default, cells.dtype)
                if p is None
                else wide(p).astype(cells.dtype).reshape(1, *cells.shape[1:3], 1),
                cells.shape,
            ),
            x,
            axis,
        )
        for p, default in ((weight, 1), (bias, 0))
    )
    x_hat = from_cells((cells - mean) * rstd, x, axis)
    shape = (-1,) if groups is None else (cells.shape[0], groups)
    count = cells.size // mean.size
    mean, var, rstd = (s.reshape(shape) for s in (mean, var, rstd))
    return Norm(gamma * x_hat + beta, x_hat, gamma, beta, mean, var, rstd, count, axis, groups, frozen)


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
