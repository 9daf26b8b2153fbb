"""Hashes of everything the library computes, for comparing threads, instruction sets and runs.

`python bits.py` prints {case: hash} as JSON.
"""

import hashlib
import json

import numpy as np

import checks
import normkit as nk
from cases import BY_NAME, DTYPES, LARGE_SHAPES, SHAPES, Case, cases, values

# Every shape in two layouts, every layout in three shapes, and what is large enough to be cut for the threads.
LAYOUTS = ("c_order", "channels_last")
SOME = ((33, 17, 7, 7), (2, 3, 257), (256, 128))
LARGE = ((4, *LARGE_SHAPES[0][1:]), *LARGE_SHAPES[1:])


def all_cases(large_only=False):
    if not large_only:
        yield from cases(SHAPES, LAYOUTS)
        yield from cases(SOME)
    yield from cases(LARGE, LAYOUTS)


def digest(*arrays):
    h = hashlib.sha256()
    for a in arrays:
        h.update(b"none" if a is None else repr(np.shape(a)).encode() + checks.canonical(a))
    return h.hexdigest()[:16]


def of_case(case: Case):
    row, i = BY_NAME[case.norm], case.inputs()
    running = {}
    if case.norm == "batch_norm":
        running = {"running_mean": i.running_mean.copy(), "running_var": i.running_var.copy()}
    y, cache = row.forward(i, **running)
    return digest(y, cache.mean, cache.rstd, *row.backward(i.dy, cache), *running.values())


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


def hashes(large_only=False):
    return {str(case): of_case(case) for case in all_cases(large_only)} | dict(of_the_rest())


if __name__ == "__main__":
    print(json.dumps(hashes()))
