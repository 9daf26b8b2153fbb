"""THE table: norms x shapes x layouts x dtypes. Tests and benches read it, so that neither can lack a row.

A new norm is one row in `NORMS`. No pytest here: benches import this file too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

import normkit as nk
import reference

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

SHAPES = (  # (N, C, *spatial)
    (1, 1, 1, 1),
    (5, 16, 1, 1),
    (6, 5),
    (256, 128),
    (32, 512),
    (300, 3),
    (7, 1, 9),
    (7, 3, 10),
    (4, 32, 7, 7),
    (33, 17, 7, 7),
    (3, 40, 14, 14),
    (1, 24, 14, 14),
    (12, 4, 8, 8),
    (2, 3, 4, 5, 6),
    (2, 3, 255),
    (2, 3, 256),
    (2, 3, 257),
    (1, 3, 4095),
    (1, 3, 4096),
    (1, 3, 4097),
    (2, 2, 5003),
    (1, 1, 70003),
    (2, 1, 270, 270),
    (2, 251, 28, 28),
    (8, 322, 16, 16),
)
# Big enough that every thread gets some of it, and odd: for bit equality and processes, not for the slow oracle.
LARGE_SHAPES = ((16, 64, 33, 33), (40, 130, 14, 14), (64, 256, 7, 7), (3001, 256), (2, 3, 150_001), (1, 1, 700_001))


# --- layouts: values in C order with the channels on axis 1 -> (the same values in another memory, channel axis) ---


def channels_last(a):
    return np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1


def channels_last_memory(a):
    return np.moveaxis(channels_last(a)[0], -1, 1), 1


def channels_first(a):
    return np.ascontiguousarray(np.moveaxis(a, 1, 0)), 0


def sliced(a):
    buffer = np.full((a.shape[0] + 1, *a.shape[1:-1], 2 * a.shape[-1] + 1), np.nan, a.dtype)
    view = buffer[1:, ..., 1::2]
    view[...] = a
    return view, 1


def reversed_axes(a):
    backwards = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[backwards])[backwards], 1


def broadcast(a):
    return np.broadcast_to(a[:1], a.shape), 1


def misaligned(a):
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view, 1


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a, 1


LAYOUTS: dict[str, Callable] = {
    "c_order": lambda a: (np.array(a, order="C"), 1),
    "channels_last": channels_last,
    "channels_last_memory": channels_last_memory,
    "channels_first": channels_first,
    "fortran": lambda a: (np.array(a, order="F"), 1),
    "sliced": sliced,
    "reversed": reversed_axes,
    "broadcast": broadcast,
    "misaligned": misaligned,
    "byte_swapped": lambda a: (a.astype(a.dtype.newbyteorder()), 1),
    "read_only": read_only,
}
DENSE = ("c_order", "channels_last", "channels_last_memory", "channels_first", "fortran")


# --- norms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """Everything that any norm of the table may ask for, for one x."""

    x: np.ndarray
    dy: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None
    running_mean: np.ndarray
    running_var: np.ndarray
    axis: int
    groups: int
    eps: float = 1e-5


@dataclass(frozen=True)
class NormRow:
    """How a norm is called, what the oracle says it should give, and for which shapes its forward is defined."""

    name: str
    forward: Callable[..., tuple]
    backward: Callable[..., tuple]
    oracle: Callable[[Inputs], reference.Norm]
    defined: Callable[[tuple], bool]


NORMS = (
    NormRow(
        "batch_norm",
        lambda i, **kw: nk.batch_norm(i.x, i.weight, i.bias, eps=i.eps, axis=i.axis, **kw),
        nk.batch_norm_backward,
        lambda i: reference.norm(i.x, i.weight, i.bias, eps=i.eps, axis=i.axis),
        lambda shape: np.prod(shape) > shape[1],
    ),
    NormRow(
        "batch_norm_frozen",
        lambda i, **kw: nk.batch_norm(
            i.x, i.weight, i.bias, i.running_mean, i.running_var, training=False, eps=i.eps, axis=i.axis, **kw
        ),
        nk.batch_norm_backward,
        lambda i: reference.norm(i.x, i.weight, i.bias, eps=i.eps, axis=i.axis, mean=i.running_mean, var=i.running_var),
        lambda shape: True,
    ),
    NormRow(
        "group_norm",
        lambda i, **kw: nk.group_norm(i.x, i.groups, i.weight, i.bias, eps=i.eps, axis=i.axis, **kw),
        nk.group_norm_backward,
        lambda i: reference.norm(i.x, i.weight, i.bias, eps=i.eps, axis=i.axis, groups=i.groups),
        lambda shape: True,
    ),
)
BY_NAME = {row.name: row for row in NORMS}


def groups_for(channels):
    return next(g for g in (32, 7, 2, 1) if channels % g == 0)


def values(shape, dtype, *, seed=0, mean=3.0, sigma=2.0):
    """Inputs of (N, C, *spatial) in C order: normal, every channel with its own mean and spread."""
    rng = np.random.default_rng([seed, *shape])
    c = (1, shape[1], *(1 for _ in shape[2:]))
    x = rng.standard_normal(shape) * sigma * rng.uniform(0.5, 2, c) + mean * rng.uniform(-1, 1, c)
    dy = rng.standard_normal(shape) + rng.uniform(-1, 1, c)
    return Inputs(
        x=x.astype(dtype),
        dy=dy.astype(dtype),
        weight=rng.uniform(-2, 2, shape[1]).astype(dtype),
        bias=rng.uniform(-2, 2, shape[1]).astype(dtype),
        running_mean=rng.uniform(-2, 2, shape[1]).astype(dtype),
        running_var=rng.uniform(0.5, 4, shape[1]).astype(dtype),
        axis=1,
        groups=groups_for(shape[1]),
    )


def lay_out(inputs, layout):
    """The same inputs with x and dy in another memory."""
    x, axis = LAYOUTS[layout](inputs.x)
    dy, _ = LAYOUTS[layout](inputs.dy)
    return replace(inputs, x=x, dy=dy, axis=axis)


@dataclass(frozen=True)
class Case:
    norm: str
    shape: tuple[int, ...]
    layout: str
    dtype: np.dtype

    def __str__(self):
        return f"{self.norm}-{'x'.join(map(str, self.shape))}-{self.layout}-{self.dtype.name}"

    def inputs(self):
        return lay_out(_shared_values(self.shape, self.dtype), self.layout)

    def expected(self):
        """The oracle's forward with the channels on axis 1, whatever the layout; and (dx, dweight, dbias)."""
        return _expected(self.norm, self.shape, self.dtype, self.layout == "broadcast")


@lru_cache(maxsize=2)
def _shared_values(shape, dtype):
    """Read-only: many cases see the same arrays."""
    inputs = values(shape, dtype)
    for array in (inputs.x, inputs.dy, inputs.weight, inputs.bias, inputs.running_mean, inputs.running_var):
        array.flags.writeable = False
    return inputs


@lru_cache(maxsize=2)
def _expected(norm, shape, dtype, is_broadcast):
    inputs = lay_out(_shared_values(shape, dtype), "broadcast" if is_broadcast else "c_order")
    result = BY_NAME[norm].oracle(inputs)
    return result, result.backward(inputs.dy), inputs.dy


def cases(shapes=SHAPES, layouts=tuple(LAYOUTS), dtypes=DTYPES) -> Iterator[Case]:
    """Every case of the table, in an order that lets neighbours share their values and their oracle."""
    for shape in shapes:
        big = np.prod(shape) > 200_000
        for dtype in dtypes:
            for row in NORMS:
                for layout in layouts:
                    if row.defined(shape) and not (big and layout not in DENSE):
                        yield Case(row.name, shape, layout, dtype)
