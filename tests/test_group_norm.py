"""Group norm against the oracle: the whole table, then random shapes, strides, dtypes and magnitudes."""

import numpy as np
import pytest
from hypothesis import given

import checks
import normkit as nk
import reference
import tolerance
from cases import BY_NAME, cases
from strategies import inputs
from table import check_case

ROW = BY_NAME["group_norm"]
TABLE = [c for c in cases() if c.norm == "group_norm"]


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_table(case):
    check_case(case)


@given(inputs())
def test_any_input(i):
    result = ROW.oracle(i)
    y, cache = ROW.forward(i)
    checks.forward(y, cache, result, i)
    checks.gradients(ROW.backward(i.dy, cache), result, i)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_samples_are_independent(groups):
    x = np.random.default_rng(0).standard_normal((5, 6, 11)).astype(np.float32)
    together, cache = nk.group_norm(x, groups)
    assert cache.mean.shape == cache.rstd.shape == (5, groups)
    for n in range(5):
        alone, _ = nk.group_norm(x[n : n + 1], groups)
        assert checks.same_bits(alone, together[n : n + 1])


EXTREMES = [1e-36, 1e-30, 1e-20, 1e20, 1e30, 1e36]  # sigma² and 1/sigma² leave float32's range, the results do not
EXTREME_SHAPES = [(4, 6), (3, 6, 7, 7), (2, 6, 5000)]


def extreme(shape, scale):
    x, dy = np.random.default_rng(1).standard_normal((2, *shape))
    return checks.plain((x * scale).astype(np.float32), dy.astype(np.float32), eps=0.0, groups=2)


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("shape", EXTREME_SHAPES, ids=str)
def test_float32_extremes_forward(scale, shape):
    i = extreme(shape, scale)
    y, cache = ROW.forward(i)
    checks.forward(y, cache, ROW.oracle(i), i)


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("shape", EXTREME_SHAPES, ids=str)
def test_float32_extremes_backward(scale, shape):
    """dx is about 1/sigma and fits; the coefficient of x - mean is about 1/sigma² and does not."""
    i = extreme(shape, scale)
    _, cache = ROW.forward(i)
    checks.gradients(ROW.backward(i.dy, cache), ROW.oracle(i), i)


def test_subnormal_inputs_are_not_flushed():
    """As for batch norm: exact to a relative 1e-6 plus 2 of the smallest numbers."""
    x = (np.random.default_rng(2).integers(-700, 700, (3, 4, 9)) * np.float64(2.0**-149)).astype(np.float32)
    y, _ = nk.group_norm(x, 2)
    expected = reference.norm(x, groups=2).y
    assert (expected != 0).any()
    tolerance.assert_within(y, expected, 1e-6 * np.abs(expected) + tolerance.tiny(np.float32, 2), "y")
