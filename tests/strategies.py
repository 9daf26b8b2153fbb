"""Random inputs beyond the table: any small shape, layout, dtype, magnitude and spread."""

from dataclasses import replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import layouts
from cases import ALL_DTYPES, BY_NAME, DTYPES, HALVES, LAYOUTS, Inputs, NormRow, lay_out, values
from data import with_axes

SHAPE = st.tuples(
    st.integers(1, 6), st.integers(1, 12), st.lists(st.sampled_from((1, 2, 3, 5, 7, 8, 17, 33)), max_size=3)
).map(lambda s: (s[0], s[1], *s[2]))
PARAMETER_SHAPES = (
    lambda c, ndim: (c,),
    lambda c, ndim: (1, c),
    lambda c, ndim: (1, c, *(1 for _ in range(ndim - 2))),
)
# sigma² and 1/sigma² stay in float32's (float64's) range, with room; float16 holds x, y and dx. The extremes have tests
# of their own.
SIGMA_EXPONENTS = {"float32": (-15, 15), "float64": (-60, 60), "float16": (-2, 1), "bfloat16": (-15, 15)}
MEANS = (0.0, 1e-3, 1.0, -30.0, 1e3, -1e4, 1e5, 1e6)  # in sigmas
HALF_MEANS = (0.0, 1e-3, 1.0, -30.0, 250.0)


@st.composite
def parameter(draw, p, ndim, dtypes=ALL_DTYPES):
    """None, or `p` of any of the dtypes, sometimes strided; one value per channel as (C,), (1, C), (1, C, 1, 1)."""
    kind = draw(st.sampled_from(("none", "plain", "plain", "strided")))
    if p is None or kind == "none":
        return None
    p = p.astype(draw(st.sampled_from(dtypes)))
    if kind == "strided":
        return np.repeat(p, 3, -1)[..., ::3][..., ::-1]
    return p.reshape(draw(st.sampled_from(PARAMETER_SHAPES))(p.size, ndim)) if ndim else p


def rearranged(draw, a):
    """The values of `a` in other memory; sometimes other values and another dtype, too."""
    a = a.astype(draw(st.sampled_from(ALL_DTYPES)))
    how = draw(st.sampled_from(("as x", "as x", "negative", "broadcast")))
    if how == "negative":
        return a[..., ::-1]
    return np.broadcast_to(a[:1], a.shape) if how == "broadcast" else a


@st.composite
def calls(draw, names) -> tuple[NormRow, Inputs]:
    """A norm of those and arguments for it."""
    row = BY_NAME[draw(st.sampled_from(names))]
    shape, dtype = draw(SHAPE), draw(st.sampled_from((*DTYPES, *DTYPES, *HALVES)))
    seed = draw(st.integers(0, 2**32 - 1))
    sigma = 10.0 ** draw(st.integers(*SIGMA_EXPONENTS[dtype.name]))
    mean = sigma * draw(st.sampled_from(HALF_MEANS if dtype in HALVES else MEANS))
    i = row.prepare(values(shape, dtype, seed=seed, sigma=sigma, mean=mean))
    if i.axes is not None:  # any of them, not only those of the row
        i = replace(
            with_axes(i, draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))),
            **({} if row.function == "layer_norm" else {"bias": None}),
        )
    layout = draw(st.sampled_from(tuple(LAYOUTS)))
    assume(layouts.exists(layout, dtype))
    masked = i.mask is not None
    i = lay_out(i, layout)
    # What is behind a mask may not be moved in front of it.
    dy = i.dy.astype(draw(st.sampled_from(ALL_DTYPES))) if masked else rearranged(draw, i.dy)
    channels = i.x.shape[i.axis]
    running = draw(st.sampled_from((i.running_mean.dtype, DTYPES[1])))
    ndim = 0 if i.axes is not None else len(shape)
    scale = draw(st.sampled_from((1.0, 1.0 if dtype == np.float16 else sigma**2)))
    # Sums of many leave float16's range, and so do those of x̂ by statistics of something else.
    dtypes = ALL_DTYPES if i.x.size < 20_000 and not row.frozen else (*DTYPES, HALVES[1])
    return row, replace(
        i,
        dy=dy,
        weight=draw(parameter(i.weight, ndim, dtypes)),
        bias=draw(parameter(i.bias, ndim, dtypes)),
        running_mean=(i.running_mean.astype(np.float64) * sigma + mean).astype(running),
        running_var=(i.running_var.astype(np.float64) * sigma**2).astype(i.running_var.dtype),
        groups=draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0])),
        eps=draw(st.sampled_from((1e-5, 1.0, 1e-2))) * scale,
    )


def inputs(names=("batch_norm",)):
    """Arguments alone."""
    return calls(names).map(lambda call: call[1])
