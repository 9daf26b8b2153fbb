"""Gradients by central finite differences in float64: independent of every closed form.

f(v) = Σ dy·y has |f'''|·h²/6 truncation and u·|f|/h rounding; with values of order 1 and h = 1e-5 that is 1e-10 and
1e-10. The tolerance of 1e-7 leaves room for third derivatives up to 1e3 (the smallest variances here are 0.1).
"""

import numpy as np
import pytest

import normkit as nk

STEP, TOLERANCE = 1e-5, 1e-7


def numerical(f, v):
    """df/dv element by element, changing v in place and back."""
    gradient = np.empty_like(v)
    for index in np.ndindex(v.shape):
        value = v[index]
        v[index] = value + STEP
        above = f()
        v[index] = value - STEP
        gradient[index] = (above - f()) / (2 * STEP)
        v[index] = value
    return gradient


def problem(shape, axis):
    rng = np.random.default_rng([*shape, axis % len(shape)])
    channels = shape[axis]
    x, dy = rng.standard_normal((2, *shape))
    weight, bias, mean = rng.uniform(-2, 2, (3, channels))
    return x, dy, weight, bias, mean, rng.uniform(0.5, 2, channels)


def check(forward, backward, dy, arrays):
    found = backward(dy, forward()[1])
    for what, value, gradient in zip(("x", "weight", "bias"), arrays, found, strict=True):
        expected = numerical(lambda: float((dy * forward()[0]).sum()), value)
        np.testing.assert_allclose(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


SHAPES = [((5, 3), 1), ((3, 4, 5), 1), ((3, 4, 5), -1), ((2, 4, 3, 2), 1), ((2, 3, 2, 4), -1), ((2, 2, 2, 3, 2), 1)]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_batch_norm_training(shape, axis):
    x, dy, weight, bias, *_ = problem(shape, axis)
    check(lambda: nk.batch_norm(x, weight, bias, axis=axis), nk.batch_norm_backward, dy, (x, weight, bias))


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_batch_norm_frozen(shape, axis):
    x, dy, weight, bias, mean, var = problem(shape, axis)
    check(
        lambda: nk.batch_norm(x, weight, bias, mean, var, training=False, axis=axis),
        nk.batch_norm_backward,
        dy,
        (x, weight, bias),
    )


@pytest.mark.parametrize(
    ("shape", "axis", "groups"),
    [((3, 6, 4), 1, 1), ((3, 6, 4), 1, 2), ((3, 6, 4), 1, 6), ((4, 8), 1, 2), ((2, 3, 2, 4), -1, 2), ((1, 6, 5), 1, 3)],
)
def test_group_norm(shape, axis, groups):
    x, dy, weight, bias, *_ = problem(shape, axis)
    check(lambda: nk.group_norm(x, groups, weight, bias, axis=axis), nk.group_norm_backward, dy, (x, weight, bias))
