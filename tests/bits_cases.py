"""Which cases of the table are compared bit for bit. From the table's rows, so that no norm can be left out."""

import numpy as np

from cases import (
    ALL_DTYPES,
    DTYPES,
    HALVES,
    LARGE_SHAPES,
    LAYOUTS,
    NORMS,
    SHAPES,
    Case,
    all_of,
    covered,
    rotated,
    thin,
)
from layouts import exists

TWO = ("c_order", "channels_last")
SOME = ((33, 17, 7, 7), (2, 3, 257), (256, 128))
# Just large enough for several chunks, and for more threads than two (plan.rs): long rows, short lines, columns,
# few and one statistic. So both schedules are met: with two threads the first three are fused, the last split.
CUT = ((4, 16, 51, 49), (26, 130, 7, 7), (1303, 129), (2, 3, 27_001), (1, 1, 160_001))
LARGE = ((4, *LARGE_SHAPES[0][1:]), *LARGE_SHAPES[1:])


def cut(dtype):
    """Half the bytes, twice the samples (positions where there is one sample)."""
    if dtype not in HALVES:
        return CUT
    return tuple((2 * s[0], *s[1:]) if s[0] > 1 else (*s[:-1], 2 * s[-1]) for s in CUT)


def small_cases():
    """Mostly too small for a second thread: every shape and layout of the table."""
    full, others, fused = covered("full"), covered("rotated"), covered("thin")
    yield from all_of(full, SHAPES, TWO, DTYPES)
    yield from all_of(full, SOME, tuple(LAYOUTS), DTYPES)
    small = [shape for shape in SHAPES if np.prod(shape) < 200_000]
    yield from rotated(others, small, DTYPES[:1])
    yield from thin((*full, *others, *fused), small, start=1)


def cut_cases():
    """Cut for threads: every row in every layout, and in every dtype, each time in another shape."""
    for shape in LARGE:
        yield from all_of(covered("full"), (shape,), TWO[:1], DTYPES[:1])
    found: dict[tuple[int, int], list[Case]] = {}  # neighbours share their values: those of a shape and dtype
    for r, row in enumerate(NORMS):
        for k, layout in enumerate(LAYOUTS):
            d, s = (r + k) % len(ALL_DTYPES), (r + 2 * k + k // 4) % len(CUT)
            while not row.defined(CUT[s]):
                s = (s + 1) % len(CUT)
            while not exists(layout, ALL_DTYPES[d]):
                d = (d + 1) % len(ALL_DTYPES)
            dtype = ALL_DTYPES[d]
            found.setdefault((s, d), []).extend(one(row, cut(dtype)[s], layout, dtype))
    for key in sorted(found):
        yield from found[key]


def one(row, shape, layout, dtype):
    """The case, if the norm is defined there."""
    if row.defined(shape):
        yield Case(row.name, shape, layout, dtype)


def product():
    """(name, cases) of the whole product of rows, layouts, dtypes and shapes that are cut for threads, in parts."""
    for dtype in ALL_DTYPES:
        layouts = [layout for layout in LAYOUTS if exists(layout, dtype)]
        for shape in cut(dtype):
            part = [case for row in NORMS for layout in layouts for case in one(row, shape, layout, dtype)]
            yield f"{dtype.name} {'x'.join(map(str, shape))}", part


def in_pairs(cases: list[Case]):
    """What meets what: {(row, layout)}, {(row, dtype)}, {(layout, dtype)}."""
    return (
        {(c.norm, c.layout) for c in cases},
        {(c.norm, c.dtype.name) for c in cases},
        {(c.layout, c.dtype.name) for c in cases},
    )
