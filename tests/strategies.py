"""Random inputs beyond the table: any small shape, layout, dtype, magnitude and spread."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from cases import DTYPES, LAYOUTS, Inputs, lay_out, values

SHAPE = st.tuples(
    st.integers(1, 6), st.integers(1, 12), st.lists(st.sampled_from((1, 2, 3, 5, 7, 8, 17, 33)), max_size=3)
).map(lambda s: (s[0], s[1], *s[2]))
PARAMETER_SHAPES = (
    lambda c, ndim: (c,),
    lambda c, ndim: (1, c),
    lambda c, ndim: (1, c, *(1 for _ in range(ndim - 2))),
)
SIGMA_EXPONENT = {4: 15, 8: 60}  # sigma² and 1/sigma² stay in range, with room; the extremes have tests of their own


@st.composite
def parameter(draw, p, ndim):
    """None, or `p` as (C,), (1, C), (1, C, 1, 1) of either dtype, sometimes strided."""
    kind = draw(st.sampled_from(("none", "plain", "plain", "strided")))
    if kind == "none":
        return None
    p = p.astype(draw(st.sampled_from(DTYPES)))
    if kind == "strided":
        p = np.repeat(p, 3)[::3][::-1]
    return p.reshape(draw(st.sampled_from(PARAMETER_SHAPES))(p.size, ndim)) if p.flags.c_contiguous else p


@st.composite
def inputs(draw) -> Inputs:
    shape, dtype = draw(SHAPE), draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 2**32 - 1))
    exponent = SIGMA_EXPONENT[dtype.itemsize]
    sigma = 10.0 ** draw(st.integers(-exponent, exponent))
    mean = sigma * draw(st.sampled_from((0.0, 1e-3, 1.0, -30.0, 1e3, -1e4, 1e5, 1e6)))
    i = values(shape, dtype, seed=seed, sigma=sigma, mean=mean)
    i = lay_out(i, draw(st.sampled_from(tuple(LAYOUTS))))
    dy_layout = draw(st.sampled_from(("as x", "as x", "negative", "broadcast")))
    dy = i.dy.astype(draw(st.sampled_from(DTYPES)))
    if dy_layout == "negative":
        dy = dy[..., ::-1]
    elif dy_layout == "broadcast":
        dy = np.broadcast_to(dy[:1], dy.shape)
    channels = i.x.shape[i.axis]
    running = draw(st.sampled_from((dtype, DTYPES[1])))
    return replace(
        i,
        dy=dy,
        weight=draw(parameter(i.weight, len(shape))),
        bias=draw(parameter(i.bias, len(shape))),
        running_mean=(i.running_mean.astype(np.float64) * sigma + mean).astype(running),
        running_var=(i.running_var.astype(np.float64) * sigma**2).astype(dtype),
        groups=draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0])),
        eps=draw(st.sampled_from((1e-5, 1.0, 1e-2))) * draw(st.sampled_from((1.0, sigma**2))),
    )
