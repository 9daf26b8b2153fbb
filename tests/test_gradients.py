"""Gradients by central finite differences in float64: independent of every closed form.

f(v) = Σ dy·y has |f'''|·h²/6 truncation and u·|f|/h rounding; with values of order 1 and h = 1e-5 that is 1e-10 and
1e-10. The tolerance of 1e-7 leaves room for third derivatives up to 1e3: eps = 0.1 bounds 1/sigma³ by 32.
"""

from dataclasses import replace

import numpy as np
import pytest

import normkit as nk
from cases import BY_NAME, NORMS, lay_out, values
from checks import OWNERS

STEP, TOLERANCE = 1e-5, 1e-7
KINK = 1e-3  # how far every z has to be from 0, so that no step crosses it
SHAPES = [(5, 3), (3, 4, 5), (2, 4, 3, 2), (2, 2, 2, 3, 2)]


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


def problem(row, shape, layout):
    """Of order 1, and no z at a kink."""
    for seed in range(100):
        i = row.prepare(values(shape, np.dtype(np.float64), seed=seed, mean=1.0, sigma=1.0))
        if i.mask is not None:  # a NaN has no derivative
            i = replace(i, x=np.nan_to_num(i.x), dy=np.nan_to_num(i.dy))
            i = i if i.residual is None else replace(i, residual=np.nan_to_num(i.residual))
        i = replace(lay_out(i, layout), eps=0.1)
        result = row.oracle(i)
        z = getattr(result, "z", result.y)
        if (np.abs(z if i.mask is None else z[np.broadcast_to(result.mask, z.shape)]) > KINK).all():
            return i
    raise AssertionError("no such problem")


def check(forward, found, i, parameters):
    for name in parameters:
        value = getattr(i, OWNERS[name])
        expected = numerical(lambda: float((i.dy * forward(i)).sum()), value)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def is_renorm(row):
    """Its r and d are constants for backward only, see below."""
    return row.name == "batch_renorm"


@pytest.mark.parametrize("layout", ["c_order", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [row.name for row in NORMS if not is_renorm(row)])
def test_every_norm(name, shape, layout):
    row = BY_NAME[name]
    if not row.defined(shape):
        return
    i = problem(row, shape, layout)
    found = row.backward(i.dy, row.forward(i)[1])
    check(lambda i: row.forward(i)[0], found, i, found._fields)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(groups):
    row = BY_NAME["group_norm"]
    i = replace(problem(row, (3, 6, 4), "c_order"), groups=groups)
    found = row.backward(i.dy, row.forward(i)[1])
    check(lambda i: row.forward(i)[0], found, i, found._fields)


def renorm(i, r, d):
    """The definition, with r and d given."""
    c = (1, -1, *(1 for _ in i.x.shape[2:]))
    axes = tuple(a for a in range(i.x.ndim) if a != 1)
    x_hat = (i.x - i.x.mean(axes, keepdims=True)) / np.sqrt(i.x.var(axes, keepdims=True) + i.eps)
    return i.weight.reshape(c) * (x_hat * r + d) + i.bias.reshape(c)


@pytest.mark.parametrize("clips", [(1.0, 0.0), (1.2, 0.1), (1.5, 0.5), (100.0, 100.0)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_renorm_takes_r_and_d_for_constants(shape, clips):
    r_max, d_max = clips
    i = problem(BY_NAME["batch_renorm"], shape, "c_order")
    running = i.running_mean, i.running_var
    how = {"r_max": r_max, "d_max": d_max, "eps": i.eps}
    y, cache = nk.batch_renorm(i.x, *(p.copy() for p in running), i.weight, i.bias, **how)
    axes, c = tuple(a for a in range(i.x.ndim) if a != 1), (1, -1, *(1 for _ in shape[2:]))
    sigma = np.sqrt(running[1] + i.eps)
    r = np.clip(np.sqrt(i.x.var(axes) + i.eps) / sigma, 1 / r_max, r_max).reshape(c)
    d = np.clip((i.x.mean(axes) - running[0]) / sigma, -d_max, d_max).reshape(c)
    np.testing.assert_allclose(y, renorm(i, r, d), rtol=0, atol=1e-13)
    found = nk.batch_renorm_backward(i.dy, cache)
    check(lambda i: renorm(i, r, d), found, i, found._fields)


def test_batch_renorm_that_is_clipped_everywhere_by_its_own_forward():
    """Far from the running statistics r and d are constants in truth, too: no definition of ours is needed."""
    i = problem(BY_NAME["batch_renorm"], (3, 4, 5), "c_order")
    i = replace(i, running_mean=np.array([30.0, -30, 30, -30]), running_var=np.array([1e-2, 1e-2, 1e2, 1e2]))
    found = BY_NAME["batch_renorm"].backward(i.dy, BY_NAME["batch_renorm"].forward(i)[1])
    check(lambda i: BY_NAME["batch_renorm"].forward(i)[0], found, i, found._fields)


@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "instance_norm"])
@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.1)])
def test_at_zero_the_slope_is_that_of_negative_numbers(name, activation, slope):
    """As in PyTorch. A constant gives exactly the bias, which is 0."""
    x = np.broadcast_to(np.array([1.0, 2.0])[:, None], (3, 2, 4)).copy()
    i = replace(values(x.shape, x.dtype), x=x, weight=np.ones(2), bias=np.zeros(2), groups=2)
    y, cache = BY_NAME[name].forward(i, activation=activation)
    assert (y == 0).all()
    found = BY_NAME[name].backward(np.ones_like(x), cache)
    np.testing.assert_allclose(found.dbias, slope * 12, rtol=1e-15)
