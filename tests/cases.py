"""THE table: norms x shapes x layouts x dtypes. Tests and benches read it, so that neither can lack a row.

A new norm is one row in `NORMS`. No pytest here: benches import this file too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain

import numpy as np

import normkit as nk
import reference
from data import (
    ALL_DTYPES,
    DTYPES,
    HALVES,
    Inputs,
    lay_out,
    values,
    with_axes,
    with_mask,
    with_residual,
    with_style,
)
from layouts import DENSE, LAYOUTS, exists

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


# --- norms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormRow:
    """How a norm is called, what the oracle says it should give, and for which shapes its forward is defined."""

    name: str
    function: str
    call: Callable[..., partial]  # of inputs and further keywords: the call of its forward, not made yet
    oracle: Callable[[Inputs], reference.Norm | reference.Adaptive]
    defined: Callable[[tuple], bool] = lambda shape: True
    prepare: Callable[[Inputs], Inputs] = lambda i: i  # adds what only this norm asks for
    coverage: str = "rotated"  # how much of shapes x layouts x dtypes the table takes

    def forward(self, i, **kw):
        return self.call(i, **kw)()

    @property
    def backward(self):
        return getattr(nk, f"{self.function}_backward")

    @property
    def frozen(self):
        """By given statistics: one value per channel will do, and x may be overwritten."""
        return "frozen" in self.name


def several(shape):
    """More than one value per channel."""
    return np.prod(shape) > shape[1]


def options(i, activation=None):
    given = {"activation": activation, "residual": i.residual, "mask": i.mask}
    return {name: value for name, value in given.items() if value is not None}


def batch(i, *, activation=None, **kw):
    return partial(nk.batch_norm, i.x, i.weight, i.bias, eps=i.eps, axis=i.axis, **options(i, activation), **kw)


def batch_frozen(i, *, activation=None, **kw):
    statistics = i.running_mean, i.running_var
    how = {"training": False, "eps": i.eps, "axis": i.axis}
    return partial(nk.batch_norm, i.x, i.weight, i.bias, *statistics, **how, **options(i, activation), **kw)


def group(i, *, activation=None, **kw):
    return partial(
        nk.group_norm, i.x, i.groups, i.weight, i.bias, eps=i.eps, axis=i.axis, **options(i, activation), **kw
    )


def instance(i, *, activation=None, **kw):
    return partial(nk.instance_norm, i.x, i.weight, i.bias, eps=i.eps, axis=i.axis, **options(i, activation), **kw)


def layer(i, **kw):
    return partial(nk.layer_norm, i.x, i.weight, i.bias, axis=i.axes, eps=i.eps, **kw)


def rms(i, **kw):
    return partial(nk.rms_norm, i.x, i.weight, axis=i.axes, eps=i.eps, **kw)


def adaptive(i, *, ddof=0, **kw):
    return partial(nk.adaptive_instance_norm, i.x, i.style, eps=i.eps, ddof=ddof, axis=i.axis, **kw)


CLIPS = {"r_max": 1.5, "d_max": 0.5}  # some channels of `values` are beyond, some are not


def renorm(i, *, running_mean=None, running_var=None, **kw):
    """The caller's running statistics are left alone unless given here."""
    mean = i.running_mean.copy() if running_mean is None else running_mean
    var = i.running_var.copy() if running_var is None else running_var
    return partial(nk.batch_renorm, i.x, mean, var, i.weight, i.bias, eps=i.eps, axis=i.axis, **CLIPS, **kw)


def of_batch(i, activation=None):
    how = {"eps": i.eps, "axis": i.axis, "activation": activation, "residual": i.residual, "mask": i.mask}
    return reference.norm(i.x, i.weight, i.bias, **how)


def of_batch_frozen(i, activation=None):
    how = {"eps": i.eps, "axis": i.axis, "activation": activation, "residual": i.residual, "mask": i.mask}
    return reference.norm(i.x, i.weight, i.bias, mean=i.running_mean, var=i.running_var, **how)


def of_group(i, activation=None):
    how = {"eps": i.eps, "axis": i.axis, "activation": activation, "residual": i.residual}
    return reference.norm(i.x, i.weight, i.bias, groups=i.groups, **how)


def of_instance(i, activation=None):
    how = {"eps": i.eps, "axis": i.axis, "activation": activation, "residual": i.residual}
    return reference.instance_norm(i.x, i.weight, i.bias, **how)


def of_renorm(i):
    running = i.running_mean, i.running_var
    return reference.batch_renorm(i.x, *running, i.weight, i.bias, eps=i.eps, axis=i.axis, **CLIPS)


CHANNEL_NORMS = {  # those that fuse an activation and a residual
    "batch_norm": ("batch_norm", batch, of_batch, several),
    "batch_norm_frozen": ("batch_norm", batch_frozen, of_batch_frozen, lambda shape: True),
    "group_norm": ("group_norm", group, of_group, lambda shape: True),
    "instance_norm": ("instance_norm", instance, of_instance, lambda shape: True),
}
ACTIVATIONS = ("relu", "leaky_relu", "silu")
AXES: dict[str, Callable[[int], tuple[int, ...]]] = {  # of (N, C, *spatial)
    "channels": lambda ndim: (1,),
    "sample": lambda ndim: tuple(range(1, ndim)),
    "last": lambda ndim: (ndim - 1,),
    "but_channels": lambda ndim: (0, *range(2, ndim)),
}


def channel_rows():
    for name, (function, forward, oracle, defined) in CHANNEL_NORMS.items():
        coverage = "rotated" if function == "instance_norm" else "full"
        yield NormRow(name, function, forward, oracle, defined, coverage=coverage)


def fused_rows():
    """Every activation with and without a residual, and a residual alone."""
    for name, (function, forward, oracle, defined) in CHANNEL_NORMS.items():
        for activation in (None, *ACTIVATIONS):
            for residual in (False, True):
                if activation or residual:
                    yield NormRow(
                        "-".join(filter(None, (name, activation, "residual" * residual))),
                        function,
                        partial(forward, activation=activation),
                        partial(oracle, activation=activation),
                        defined,
                        with_residual if residual else lambda i: i,
                        "thin",
                    )


def masked_rows():
    for name in ("batch_norm", "batch_norm_frozen"):
        function, forward, oracle, defined = CHANNEL_NORMS[name]
        yield NormRow(f"{name}-mask", function, forward, oracle, defined, with_mask)
        for activation in ACTIVATIONS:
            yield NormRow(
                f"{name}-mask-{activation}-residual",
                function,
                partial(forward, activation=activation),
                partial(oracle, activation=activation),
                defined,
                lambda i: with_mask(with_residual(i)),
                "thin",
            )


def axes_rows():
    for name, axes in AXES.items():
        prepare = lambda i, axes=axes: with_axes(i, axes(i.x.ndim))  # noqa: E731
        yield NormRow(
            f"layer_norm-{name}", "layer_norm", layer,
            lambda i: reference.layer_norm(i.x, i.weight, i.bias, axis=i.axes, eps=i.eps), prepare=prepare,
        )  # fmt: skip
        yield NormRow(
            f"rms_norm-{name}", "rms_norm", rms,
            lambda i: reference.rms_norm(i.x, i.weight, axis=i.axes, eps=i.eps),
            prepare=lambda i, prepare=prepare: replace(prepare(i), bias=None),
        )  # fmt: skip


def adaptive_rows():
    for ddof in (0, 1):
        yield NormRow(
            f"adaptive_instance_norm-ddof_{ddof}",
            "adaptive_instance_norm",
            partial(adaptive, ddof=ddof),
            lambda i, ddof=ddof: reference.adaptive_instance_norm(i.x, i.style, axis=i.axis, eps=i.eps, ddof=ddof),
            lambda shape, ddof=ddof: np.prod(shape[2:]) > ddof,
            with_style,
        )


NORMS = (
    *channel_rows(),
    *axes_rows(),
    *adaptive_rows(),
    NormRow("batch_renorm", "batch_renorm", renorm, of_renorm, several),
    NormRow("batch_renorm_frozen", "batch_renorm", partial(renorm, training=False), of_batch_frozen),
    *fused_rows(),
    *masked_rows(),
)
BY_NAME = {row.name: row for row in NORMS}


def prepared(name, shape, dtype=np.float32, **kw):
    """What a norm is called with, in C order, channels on axis 1."""
    return BY_NAME[name].prepare(values(shape, np.dtype(dtype), **kw))


# --- cases -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    norm: str
    shape: tuple[int, ...]
    layout: str
    dtype: np.dtype

    def __str__(self):
        return f"{self.norm}-{'x'.join(map(str, self.shape))}-{self.layout}-{self.dtype.name}"

    def inputs(self):
        return lay_out(_prepared(self.norm, self.shape, self.dtype), self.layout)


@lru_cache(maxsize=2)
def _shared_values(shape, dtype):
    """Read-only: many cases see the same arrays."""
    return values(shape, dtype).read_only()


@lru_cache(maxsize=4)
def _prepared(norm, shape, dtype):
    return BY_NAME[norm].prepare(_shared_values(shape, dtype)).read_only()


def is_big(shape):
    return np.prod(shape) > 200_000


def all_of(rows, shapes, layouts, dtypes) -> Iterator[Case]:
    """Every combination, in an order that lets neighbours share their values and their oracle."""
    for shape in shapes:
        for dtype in dtypes:
            for row in rows:
                for layout in layouts:
                    if row.defined(shape) and not (is_big(shape) and layout not in DENSE) and exists(layout, dtype):
                        yield Case(row.name, shape, layout, dtype)


def rotated(rows, shapes, dtypes=ALL_DTYPES, *, start=0) -> Iterator[Case]:
    """Every row with every shape and dtype, each in one layout, another one for the next."""
    for s, shape in enumerate(shapes):
        layouts = DENSE if is_big(shape) else tuple(LAYOUTS)
        for d, dtype in enumerate(dtypes):
            for k, row in enumerate(rows):
                yield from all_of((row,), (shape,), (layouts[(s + 3 * d + k + start) % len(layouts)],), (dtype,))


def thin(rows, shapes, *, start=0) -> Iterator[Case]:
    """Every row with every shape, each in one layout and dtype, others for the next."""
    for s, shape in enumerate(shapes):
        for d, dtype in enumerate(ALL_DTYPES):
            for k, row in enumerate(rows):
                if (s + k - d) % 4 == 0:
                    yield from rotated((row,), (shape,), (dtype,), start=s + k + start)


def covered(coverage):
    return [row for row in NORMS if row.coverage == coverage]


def cases() -> Iterator[Case]:
    """The whole table, each row as thoroughly as it says. All layouts meet all norms, dtypes and shapes in pairs."""
    full, others = covered("full"), covered("rotated")
    small, big = [s for s in SHAPES if not is_big(s)], [s for s in SHAPES if is_big(s)]
    return chain(
        all_of(full, SHAPES, tuple(LAYOUTS), DTYPES),
        rotated(full, SHAPES, HALVES),
        all_of(others, small, ("c_order",), DTYPES),
        rotated(others, small, start=1),
        thin(others, big),
        thin(covered("thin"), small),
    )
