"""Batch norm against the oracle: the whole table, then random shapes, strides, dtypes and magnitudes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import checks
import normkit as nk
import reference
import tolerance
from cases import BY_NAME, cases
from strategies import inputs
from table import check_case

TABLE = [c for c in cases() if c.norm.startswith("batch_norm")]


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_table(case):
    check_case(case)


@given(inputs(), st.sampled_from(("batch_norm", "batch_norm_frozen")))
def test_any_input(i, name):
    row = BY_NAME[name]
    if name == "batch_norm" and i.x.size == i.x.shape[i.axis]:
        with pytest.raises(ValueError, match=r"^batch_norm: `x` "):
            row.forward(i)
        return
    result = row.oracle(i)
    y, cache = row.forward(i)
    checks.forward(y, cache, result, i)
    checks.gradients(row.backward(i.dy, cache), result, i)


@given(inputs())
def test_inference_equals_frozen_forward(i):
    frozen, _ = BY_NAME["batch_norm_frozen"].forward(i)
    y = nk.batch_norm_inference(i.x, i.running_mean, i.running_var, i.weight, i.bias, eps=i.eps, axis=i.axis)
    assert checks.same_bits(y, frozen)


@given(
    inputs(),
    st.sampled_from((0.0, 0.1, 0.25, 1.0)),
    st.sampled_from((0, 1)),
    st.booleans(),
    st.sampled_from(("plain", "strided", "row")),
)
def test_running_statistics(i, momentum, ddof, as_x, form):
    """running = (1 - momentum)·running + momentum·batch, in place; the variance with `running_var_ddof`."""
    channels = i.x.shape[i.axis]
    count = i.x.size // channels
    if count == 1:
        return
    dtype = checks.native(i.x.dtype) if as_x else np.dtype(np.float64)
    before = [r.astype(dtype) for r in (i.running_mean, i.running_var)]
    buffers = [np.full(3 * channels, -7, dtype) for _ in before]
    views = [b[1::3] if form == "strided" else b[:channels] for b in buffers]
    for view, value in zip(views, before, strict=True):
        view[...] = value
    shaped = [v[None] if form == "row" else v for v in views]
    nk.batch_norm(
        i.x, running_mean=shaped[0], running_var=shaped[1], momentum=momentum, running_var_ddof=ddof, eps=i.eps,
        axis=i.axis,
    )  # fmt: skip
    result = reference.norm(i.x, axis=i.axis, eps=i.eps)
    batch = result.mean, result.var * count / (count - ddof)
    # The statistic's own tolerance (the variance: 4 ulp of float32 for κ <= 1e6), and 3 roundings to `dtype`.
    own = checks.native(i.x.dtype)
    spread = tolerance.STATISTIC[own.itemsize] * tolerance.eps_of(own) * tolerance.kappa_of_spread(result)
    errors = tolerance.statistics(result, own)[0], spread * batch[1]
    for what, view, old, new, error in zip(("mean", "var"), views, before, batch, errors, strict=True):
        old = old.astype(new.dtype)
        expected = (1 - np.longdouble(momentum)) * old + np.longdouble(momentum) * new
        rounding = 3 * tolerance.eps_of(dtype) * (np.abs(old) + np.abs(new)) + tolerance.tiny(dtype)
        tolerance.assert_within(view, expected, momentum * error + rounding, f"running_{what}")
    gaps = np.ones(3 * channels, bool)
    gaps[1::3] = False
    if form == "strided":
        assert (buffers[0][gaps] == -7).all()
        assert (buffers[1][gaps] == -7).all()


def test_momentum_zero_leaves_running_statistics_and_one_replaces_them():
    x = np.random.default_rng(0).standard_normal((8, 3, 5))
    mean, var = np.full(3, 7.0), np.full(3, 9.0)
    nk.batch_norm(x, running_mean=mean, running_var=var, momentum=0.0)
    assert (mean == 7).all()
    assert (var == 9).all()
    nk.batch_norm(x, running_mean=mean, running_var=var, momentum=1.0)
    np.testing.assert_allclose(mean, x.mean((0, 2)), rtol=0, atol=1e-15)
    np.testing.assert_allclose(var, x.var((0, 2), ddof=1), rtol=1e-14)


def test_frozen_forward_leaves_running_statistics():
    x = np.random.default_rng(0).standard_normal((8, 3, 5)).astype(np.float32)
    mean, var = np.full(3, 7.0, np.float32), np.full(3, 9.0, np.float32)
    mean.flags.writeable = var.flags.writeable = False
    nk.batch_norm(x, running_mean=mean, running_var=var, training=False)
    assert (mean == 7).all()
    assert (var == 9).all()


EXTREMES = [1e-36, 1e-30, 1e-20, 1e20, 1e30, 1e36]  # sigma² and 1/sigma² leave float32's range, the results do not
EXTREME_SHAPES = [(4, 3), (8, 3, 7, 7), (2, 3, 5000)]


def extreme(shape, scale):
    x, dy = np.random.default_rng(1).standard_normal((2, *shape))
    return checks.plain((x * scale).astype(np.float32), dy.astype(np.float32), eps=0.0)


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("shape", EXTREME_SHAPES, ids=str)
def test_float32_extremes_forward(scale, shape):
    i = extreme(shape, scale)
    y, cache = BY_NAME["batch_norm"].forward(i)
    checks.forward(y, cache, BY_NAME["batch_norm"].oracle(i), i)


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("shape", EXTREME_SHAPES, ids=str)
def test_float32_extremes_backward(scale, shape):
    """dx is about 1/sigma and fits; the coefficient of x - mean is about 1/sigma² and does not."""
    i = extreme(shape, scale)
    _, cache = BY_NAME["batch_norm"].forward(i)
    checks.gradients(BY_NAME["batch_norm"].backward(i.dy, cache), BY_NAME["batch_norm"].oracle(i), i)


def test_subnormal_inputs_are_not_flushed():
    """eps = 1e-5 dominates: y = (x - mean)·316, itself subnormal, hence exact to a relative 1e-6 plus 2 of the
    smallest numbers (rounding of the mean's low part and of the product)."""
    x = (np.random.default_rng(2).integers(-700, 700, (6, 3, 9)) * np.float64(2.0**-149)).astype(np.float32)
    y, _ = nk.batch_norm(x)
    expected = reference.norm(x).y
    assert (expected != 0).any()
    tolerance.assert_within(y, expected, 1e-6 * np.abs(expected) + tolerance.tiny(np.float32, 2), "y")
