"""Numbers at the ends: means of up to 1e7 deviations, squares that overflow, subnormals, one element."""

import math
from dataclasses import replace

import numpy as np
import pytest

import checks
import normkit as nk
import tolerance
from cases import ACTIVATIONS, BY_NAME, CHANNEL_NORMS, DTYPES, NORMS, lay_out, prepared

F32 = np.float32
# Every function that computes statistics, plain; fused and masked ones share their kernels and are in the table.
COMPUTING = [row.name for row in NORMS if row.coverage != "thin" and not row.frozen and "-mask" not in row.name]
SHAPES = ((300, 4), (8, 4, 7, 7), (2, 4, 5003))


def scaled(name, shape, make, dtype=F32, layout="c_order"):
    """Inputs whose x and style are `make` of normal numbers; without parameters, which would hide them."""
    i = prepared(name, shape)
    rng = np.random.default_rng(0)
    like = lambda a: None if a is None else make(rng.standard_normal(a.shape)).astype(dtype)  # noqa: E731
    i = replace(i, x=like(i.x), style=like(i.style), dy=i.dy.astype(dtype), weight=None, bias=None)
    return lay_out(i, layout)


def hold_to_the_oracle(name, i):
    row = BY_NAME[name]
    result = row.oracle(i)
    y, cache = row.forward(i)
    checks.forward(y, cache, result, i)
    checks.gradients(row.backward(i.dy, cache), result, i, y)


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6, 3e6, 1e7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", COMPUTING)
def test_means_of_up_to_1e7_deviations(name, shape, kappa):
    """|mean|/sigma = kappa, of either sign and with sigma far from 1, too; float64 beside float32.

    At 1e7 float32 holds whole deviations only: they are what is normalized, to the contract's precision.
    """
    if not BY_NAME[name].defined(shape):
        return
    for sigma, sign, dtype, layout in (
        *((1.0, 1, F32, "c_order"), (3e-12, -1, F32, "channels_last_memory")),
        *((2e9, 1, F32, "sliced"), (1.0, -1, np.float64, "c_order")),
    ):
        i = scaled(name, shape, lambda z, s=sigma, k=sign * kappa: s * (z + k), dtype, layout)
        hold_to_the_oracle(name, replace(i, eps=1e-5 * sigma**2))


@pytest.mark.parametrize("unit", [1e30, -1e37, 1e-30])
@pytest.mark.parametrize("layout", ["c_order", "channels_last_memory"])
@pytest.mark.parametrize("name", COMPUTING)
def test_one_two_three_four_whose_squares_leave_float32(name, layout, unit):
    """[1, 2, 3, 4]·unit along whatever shares a statistic: the same y as of [1, 2, 3, 4], without eps."""
    row, shape = BY_NAME[name], (4, 4, 4)
    i = prepared(name, shape)
    axis = {"layer_norm-channels": 1, "rms_norm-channels": 1, "batch_norm": 0, "batch_renorm": 0}.get(name, 2)
    if "but_channels" in name:
        axis = 0
    ramp = np.broadcast_to(np.arange(1, 5).reshape([4 if a == axis else 1 for a in range(3)]), shape)
    x = (ramp * unit).astype(F32)
    i = lay_out(replace(i, x=x, style=None if i.style is None else x, weight=None, bias=None, eps=0.0), layout)
    own = replace(i, running_mean=np.full(4, 2.5 * unit), running_var=np.full(4, 1.25 * unit**2))
    y, cache = row.forward(own)
    exact = ramp / math.sqrt(7.5) if row.function == "rms_norm" else (ramp - 2.5) / math.sqrt(1.25)
    if row.function == "adaptive_instance_norm":
        exact, y = ramp, y / F32(unit)
    checks.within_contract(y, exact * (np.sign(unit) if row.function != "adaptive_instance_norm" else 1))
    for gradient in row.backward(own.dy, cache):
        assert gradient is None or np.isfinite(gradient).all()


@pytest.mark.parametrize("layout", ["c_order", "channels_last_memory", "reversed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in COMPUTING if "adaptive" not in name and "renorm" not in name])
def test_subnormal_numbers_on_every_path(name, shape, layout):
    """eps dominates: y = (x - mean)·316 is subnormal itself. Exact to 1e-6 and 2 of the smallest numbers."""
    if not BY_NAME[name].defined(shape):
        return
    if len(shape) == 2 and name == "instance_norm":
        return  # one value: y = 0
    i = scaled(name, shape, lambda z: np.rint(300 * z) * 2.0**-149, layout=layout)
    y, _ = BY_NAME[name].forward(i)
    expected = BY_NAME[name].oracle(i).y
    assert (expected != 0).any()
    tolerance.assert_within(y, expected, 1e-6 * np.abs(expected) + tolerance.tiny(F32, 2), "y")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0.0, 1e6, -3e-41, 1e30])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("name", ["group_norm", "instance_norm"])
def test_one_element_is_the_bias(name, activation, value, dtype):
    """One value has no deviation: y = act(bias) and dweight = 0, exactly; dbias = dy·act'(bias).

    dx = rstd·weight·(dy - dy) by two products and a difference: 0 but for three roundings of their size.
    """
    x, dy, weight, bias = (np.full(s, v, dtype) for s, v in (((2, 3, 1), value), ((2, 3, 1), 5.0), (3, 2.5), (3, 3.0)))
    i = replace(checks.plain(x, dy, groups=3), weight=weight, bias=bias)
    row = BY_NAME[name]
    y, cache = row.call(i, activation=activation)()
    sigmoid = 1 / (1 + math.exp(-3.0))
    expected = {"silu": 3.0 * sigmoid}.get(activation, 3.0)
    slope = {"silu": sigmoid * (1 + 3.0 * (1 - sigmoid))}.get(activation, 1.0)
    np.testing.assert_allclose(y, np.full(x.shape, expected), rtol=4 * np.finfo(dtype).eps * (activation == "silu"))
    dx, dweight, dbias = row.backward(dy, cache)
    assert np.abs(dx).max() <= 3 * np.finfo(dtype).eps * cache.rstd.max() * 2.5 * 5 * 1.1
    assert (dweight == 0).all()
    np.testing.assert_allclose(dbias, np.full(3, 10 * slope), rtol=8 * np.finfo(dtype).eps * (activation == "silu"))


@pytest.mark.parametrize("value", [3.0, -1e6, 1e30, 1e-30])
def test_one_element_of_the_other_norms(value):
    """Layer norm: the bias. RMS norm: the sign. Adaptive: the style's mean. A batch of one is an error."""
    one, weight = np.full((1, 1), value, F32), np.array([2.0], F32)
    y, cache = nk.layer_norm(one, weight, np.array([7.0], F32), eps=0.0)
    assert (y.item(), nk.layer_norm_backward(one, cache)[:2]) == (7.0, (0.0, 0.0))
    y, cache = nk.rms_norm(one, weight, eps=0.0)
    np.testing.assert_allclose(y, [[2.0 * np.sign(value)]], rtol=1e-6)
    found = nk.rms_norm_backward(np.ones((1, 1), F32), cache)
    np.testing.assert_allclose(found.dweight, [np.sign(value)], rtol=1e-6)
    np.testing.assert_allclose(found.dx * F32(value), [[0]], atol=1e-6)
    y, _ = nk.adaptive_instance_norm(one[..., None], np.full((1, 1, 1), 9.0, F32))
    assert y.item() == 9.0
    m = nk.moments(one, (0, 1))
    assert (m.count, m.mean.item(), m.m2.item()) == (1, F32(value), 0.0)
    with pytest.raises(ValueError, match="batch_norm: `x` "):
        nk.batch_norm(one)


def test_every_function_that_normalizes_meets_these_edges():
    covered = {BY_NAME[name].function for name in COMPUTING}
    assert covered == {row.function for row in NORMS}
    assert set(CHANNEL_NORMS) <= BY_NAME.keys()
