"""Hashes of everything the library computes, for comparing threads, instruction sets and runs.

`python bits.py` prints {case: hash} as JSON.
"""

import json
import zlib

import numpy as np

import checks
import normkit as nk
from cases import (
    ALL_DTYPES,
    BY_NAME,
    DTYPES,
    HALVES,
    LARGE_SHAPES,
    LAYOUTS,
    SHAPES,
    Case,
    all_of,
    covered,
    rotated,
    thin,
    values,
)

# Every shape in two layouts, every layout in three shapes, and what is large enough to be cut for the threads.
TWO = ("c_order", "channels_last")
SOME = ((33, 17, 7, 7), (2, 3, 257), (256, 128))
LARGE = ((4, *LARGE_SHAPES[0][1:]), *LARGE_SHAPES[1:])
# The other norms: just large enough for several tasks in every dtype, short and long rows, columns, one channel.
CUT = ((8, 64, 33, 33), (40, 130, 9, 9), (3001, 128), (2, 3, 70_001), (1, 1, 300_001))


def all_cases(large_only=False):
    full, others, fused = covered("full"), covered("rotated"), covered("thin")
    if not large_only:
        yield from all_of(full, SHAPES, TWO, DTYPES)
        yield from all_of(full, SOME, tuple(LAYOUTS), DTYPES)
        small = [shape for shape in SHAPES if np.prod(shape) < 200_000]
        yield from rotated(others, small, DTYPES[:1])
        yield from thin((*full, *others, *fused), small, start=1)
    yield from all_of(full, LARGE, TWO, DTYPES)
    yield from rotated(full, CUT[:2], HALVES)
    for s, shape in enumerate(CUT):
        for d, dtype in enumerate(ALL_DTYPES):
            for k, row in enumerate((*others, *fused)):  # each meets two of the shapes, float32 or float64 and a half
                if (k + 2 * (d // 2)) % len(CUT) == s and (k // len(CUT) - d) % 2 == 0:
                    yield from rotated((row,), (shape,), (dtype,), start=k + d)


def digest(*arrays):
    """Nobody forges results here, and a checksum takes an eighth of the time."""
    h = 0
    for a in arrays:
        h = zlib.crc32(b"none" if a is None else repr(np.shape(a)).encode(), h)
        if a is not None:
            h = zlib.crc32(checks.canonical(a), h)
    return f"{h:08x}"


def of_case(case: Case):
    row, i = BY_NAME[case.norm], case.inputs()
    running = {}
    if row.function in ("batch_norm", "batch_renorm") and not row.frozen:
        running = {"running_mean": i.running_mean.copy(), "running_var": i.running_var.copy()}
    y, cache = row.forward(i, **running)
    statistics = () if i.style is not None else (cache.rstd,) if "rms" in case.norm else (cache.mean, cache.rstd)
    return digest(y, *statistics, *row.backward(i.dy, cache), *running.values())


def of_the_rest():
    """What the table has no rows for."""
    for dtype in DTYPES:
        i = values((64, 32, 3, 3), dtype)
        yield f"fold-{dtype}", digest(*nk.fold_conv_bn(
            i.x, None, *(np.resize(p, 64) for p in (i.running_mean, i.running_var, i.weight, i.bias)), eps=1e-5
        ))  # fmt: skip
        for shape in ((300, 5000), (500_001, 2), (3, 400_000)):
            x = values(shape, dtype).x
            for axis in (0, 1, (0, 1)):
                m = nk.moments(x, axis)
                yield f"moments-{shape}-{axis}-{dtype}", digest(m.mean, m.m2, m.var(1))
        y = nk.batch_norm_inference(i.x, i.running_mean, i.running_var, i.weight, i.bias)
        yield f"inference-{dtype}", digest(y)
    i = values((64, 64, 17, 17), DTYPES[0])
    for dtype in ALL_DTYPES:
        for activation in (None, "relu", "leaky_relu", "silu"):
            how = {"activation": activation, "residual": i.dy.astype(dtype)}
            y = nk.batch_norm_inference(i.x.astype(dtype), i.running_mean, i.running_var, i.weight, i.bias, **how)
            yield f"inference-{activation}-residual-{dtype}", digest(y)


def hashes(large_only=False):
    return {str(case): of_case(case) for case in all_cases(large_only)} | dict(of_the_rest())


if __name__ == "__main__":
    print(json.dumps(hashes()))
