"""One case of the table, forward and backward, held to the oracle and to the layout of its input."""

from dataclasses import replace

import numpy as np

import checks
import tolerance
from cases import BY_NAME, DENSE


def check_case(case):
    row, i = BY_NAME[case.norm], case.inputs()
    result, (dx, dweight, dbias), dy = case.expected()
    y, cache = row.forward(i)
    found = row.backward(i.dy, cache)
    if case.layout in DENSE:
        assert checks.stride_order(y) == checks.stride_order(i.x)
        assert checks.stride_order(found.dx) == checks.stride_order(i.x)
    y, found_dx = (np.moveaxis(a, i.axis, 1) for a in (y, found.dx))
    checks.forward(y, cache, result, replace(i, x=np.moveaxis(i.x, i.axis, 1)))
    tolerances = tolerance.gradients(result, dy, case.dtype, case.dtype, case.dtype)
    for what, a, b, within in zip(
        ("dx", "dweight", "dbias"), (found_dx, *found[1:]), (dx, dweight, dbias), tolerances, strict=True
    ):
        tolerance.assert_within(a, b, within, what)
