"""One case of the table, forward and backward, held to the oracle and to the layout of its input."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

import checks
import tolerance
from cases import BY_NAME, DENSE, Case


@lru_cache(maxsize=2)
def held_to(norm, shape, dtype, layout):
    """The oracle: its inputs, its forward and the tolerance of y, its gradients with theirs unless y decides them."""
    own = Case(norm, shape, layout, dtype).inputs()
    result = BY_NAME[norm].oracle(own)
    has_kink = checks.positive(result.y, result, dtype) is not None
    return own, result, tolerance.y(result, dtype), None if has_kink else checks.expected_gradients(result, own)


def check_case(case):
    row, i = BY_NAME[case.norm], case.inputs()
    # One oracle for all layouts, with the channels on axis 1; a norm that names axes itself has one for each.
    shared = "broadcast" if case.layout == "broadcast" else "c_order"
    own, result, of_y, of_gradients = held_to(case.norm, case.shape, case.dtype, case.layout if i.axes else shared)
    y, cache = row.forward(i)
    found = row.backward(i.dy, cache)
    if case.layout in DENSE:
        assert checks.stride_order(y) == checks.stride_order(i.x)
        assert checks.stride_order(found[0]) == checks.stride_order(i.x)
    to_own = lambda a: a if own.axes or a is None or a.ndim < 2 else np.moveaxis(a, i.axis, own.axis)  # noqa: E731
    y, found = to_own(y), type(found)(*map(to_own, found))
    checks.forward(y, cache, result, replace(own, x=to_own(i.x)), of_y)
    checks.gradients(found, result, own, y, of_gradients)
