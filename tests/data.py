"""The inputs of a call, drawn at random from a seed, in any memory layout."""

from dataclasses import dataclass, replace

import numpy as np

from half_types import HALVES
from layouts import LAYOUTS

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
ALL_DTYPES = DTYPES + HALVES


@dataclass(frozen=True)
class Inputs:
    """Everything that any norm of the table may ask for, for one x."""

    x: np.ndarray
    dy: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None
    running_mean: np.ndarray
    running_var: np.ndarray
    axis: int  # the channels
    groups: int
    eps: float = 1e-5
    axes: tuple[int, ...] | None = None  # what a layer norm is taken over; the weight has their shape
    residual: np.ndarray | None = None
    mask: np.ndarray | None = None
    style: np.ndarray | None = None

    def read_only(self):
        """The same arrays, which nobody can write to any more: many cases see them."""
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return self


def parameter_dtype(dtype):
    """Half-precision activations have float32 parameters."""
    return np.dtype(np.float32) if dtype in HALVES else dtype


def groups_for(channels):
    return next(g for g in (32, 7, 2, 1) if channels % g == 0)


def values(shape, dtype, *, seed=0, mean=3.0, sigma=2.0):
    """Inputs of (N, C, *spatial) in C order: normal, every channel with its own mean and spread."""
    rng = np.random.default_rng([seed, *shape])
    c = (1, shape[1], *(1 for _ in shape[2:]))
    x = rng.standard_normal(shape) * sigma * rng.uniform(0.5, 2, c) + mean * rng.uniform(-1, 1, c)
    dy = rng.standard_normal(shape) + rng.uniform(-1, 1, c)
    own = parameter_dtype(dtype)
    return Inputs(
        x=x.astype(dtype),
        dy=dy.astype(dtype),
        weight=rng.uniform(-2, 2, shape[1]).astype(own),
        bias=rng.uniform(-2, 2, shape[1]).astype(own),
        running_mean=rng.uniform(-2, 2, shape[1]).astype(own),
        running_var=rng.uniform(0.5, 4, shape[1]).astype(own),
        axis=1,
        groups=groups_for(shape[1]),
    )


# --- what only some norms ask for; the channels still on axis 1 ---


def with_residual(i):
    rng = np.random.default_rng([1, *i.x.shape])
    return replace(i, residual=rng.standard_normal(i.x.shape).astype(i.x.dtype))


def with_mask(i):
    """About two thirds count, the first two elements always; what lies behind is NaN."""
    shape = i.x.shape[:1] + i.x.shape[2:]
    mask = np.random.default_rng([2, *shape]).random(shape) < 2 / 3
    mask.flat[:2] = True
    behind = ~np.expand_dims(mask, 1)
    hide = lambda a: None if a is None else np.where(behind, np.array(np.nan, a.dtype), a)  # noqa: E731
    return replace(i, mask=mask, x=hide(i.x), dy=hide(i.dy), residual=hide(i.residual))


def with_style(i):
    """A style of other spatial sizes, means and spreads."""
    n, c, *spatial = i.x.shape
    style = values((n, c, *(s + 1 for s in spatial)), i.x.dtype, seed=3, mean=1.0, sigma=1.0).x
    return replace(i, style=style, weight=None, bias=None)


def with_axes(i, axes):
    """Parameters for a norm over these axes of (N, C, *spatial)."""
    axes = tuple(sorted(axes))
    shape = tuple(i.x.shape[a] for a in axes)
    weight, bias = np.random.default_rng([4, *shape]).uniform(-2, 2, (2, *shape))
    own = i.running_mean.dtype
    return replace(i, axes=axes, weight=weight.astype(own), bias=bias.astype(own))


def lay_out(inputs, layout):
    """The same inputs with everything shaped like x in another memory, and all axes where that puts them."""
    x, axis = LAYOUTS[layout](inputs.x)
    moved = {
        name: LAYOUTS[layout](getattr(inputs, name))[0]
        for name in ("dy", "residual", "style")
        if getattr(inputs, name) is not None
    }
    if inputs.mask is not None and layout == "broadcast":
        moved["mask"] = np.broadcast_to(inputs.mask[:1], inputs.mask.shape)
    if inputs.axes is not None:
        order = list(range(x.ndim))
        order.insert(axis % x.ndim, order.pop(1))
        moved["axes"] = axes = tuple(sorted(order.index(a) for a in inputs.axes))
        for name in ("weight", "bias"):
            p = getattr(inputs, name)
            if p is not None:
                full = p.reshape([s if a in inputs.axes else 1 for a, s in enumerate(inputs.x.shape)])
                full = np.moveaxis(full, 1, axis)
                moved[name] = np.ascontiguousarray(full.reshape([x.shape[a] for a in axes]))
    return replace(inputs, x=x, axis=axis, **moved)
