"""Rows of USERS.md about wrong numbers: sums that stick, cancellation, large means, narrow dtypes."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import checks
import normkit as nk
import reference
from cases import BY_NAME, DENSE, NORMS, lay_out, prepared, values
from checks import within_contract
from tolerance import assert_within

F32, F64 = np.float32, np.float64
COMPUTING = [row.name for row in NORMS if row.coverage != "thin" and not row.frozen and "mask" not in row.name]
BEYOND = 2**24 + 2**21  # a float32 counter has long stuck


def test_row_01_float32_sums_do_not_stick():
    """A float32 counter sticks at 2^24; here the mean is exact."""
    m = nk.moments(np.ones((20_000_000, 2), F32), 0)
    assert (m.mean == 1.0).all()
    assert (m.m2 == 0.0).all()


def zeros_and_twos(shape, axis):
    """0, 2, 0, 2, ... along an axis: mean and variance are 1, exactly."""
    x = np.zeros(shape, F32)
    np.moveaxis(x, axis, 0)[1::2] = 2
    return x


def sums_of(row, i, shape):
    """Whether a statistic of the norm is a sum along the longest axis, and of nothing else."""
    columns = shape[1] > 1
    if i.axes is not None:
        return i.axes == ((0,) if columns else (2,))
    return row.function.startswith("batch") if columns else row.name != "adaptive_instance_norm-ddof_1"


@pytest.mark.parametrize("shape", [(1, 1, BEYOND), (BEYOND, 2)], ids=["rows", "columns"])
@pytest.mark.parametrize("name", COMPUTING)
def test_row_01_no_sum_of_any_norm_sticks(name, shape):
    """2²⁴ + 2²¹ terms: the statistics, and Σ dy and Σ dy·x̂ with dy = x. All are exact."""
    row, tiny = BY_NAME[name], np.zeros(shape[:1] + shape[1:2] + (1,) * (len(shape) - 2), F32)[:1]
    axes = row.prepare(checks.plain(tiny, tiny)).axes
    if axes == (0, 2) and shape[1] == 1:
        axes = (2,)  # of one sample
    i = replace(checks.plain(tiny, tiny, eps=0.0), axes=axes)
    if not sums_of(row, i, shape):
        return
    x = zeros_and_twos(shape, int(np.argmax(shape)))
    i = replace(i, x=x, dy=x, style=x if "adaptive" in name else None)
    if axes is None and i.style is None:
        i = replace(i, weight=np.ones(shape[1], F32), bias=np.zeros(shape[1], F32))
    centred = row.function != "rms_norm"
    y, cache = row.forward(i)
    np.testing.assert_allclose(cache.rstd, 1 if centred else np.sqrt(0.5), rtol=2e-16 * (not centred))
    assert (cache.mean == 1).all() or not centred
    found = row.backward(x, cache)
    if row.function == "batch_renorm":  # clipped r and d
        return
    assert (y == (x if i.style is not None else (x - centred) * F32(cache.rstd.flat[0]))).all()
    if i.weight is not None:
        assert (found.dweight == F32(BEYOND)).all()
        assert (found.dbias == F32(BEYOND)).all()


def test_row_02_variance_is_never_negative():
    rng = np.random.default_rng(0)
    for mean in (1e3, 1e5, 1e7):
        x = (mean + rng.standard_normal((64, 8, 9)) * 1e-3).astype(F32)
        assert (nk.moments(x, (0, 2)).var() >= 0).all()
        y, cache = nk.batch_norm(x, eps=1e-12)
        assert np.isfinite(y).all()
        assert (cache.rstd <= 1e6).all()


@pytest.mark.parametrize("mean", [1e3, 1e5, 1e7, 3e30])
@pytest.mark.parametrize("name", COMPUTING)
def test_row_02_no_norm_takes_the_root_of_a_negative_number(name, mean):
    """Deviations of rounding errors, whose E[x²] - E[x]² would have either sign. Running variances, too."""
    rng = np.random.default_rng(0)
    for shape in ((64, 8, 9), (300, 8), (2, 8, 5000)):
        if not BY_NAME[name].defined(shape):
            continue
        x = (mean * (1 + 3e-8 * rng.standard_normal(shape))).astype(F32)
        i = replace(prepared(name, shape), x=x, eps=1e-12)
        i = replace(i, style=None if i.style is None else x)
        running = {}
        if row_has_running(name):
            running = {"running_mean": np.zeros(8), "running_var": np.zeros(8)}
        y, cache = BY_NAME[name].forward(i, **running)
        assert np.isfinite(y).all()
        assert (cache.rstd > 0).all()
        assert (cache.rstd <= 1e6).all()
        for gradient in BY_NAME[name].backward(i.dy, cache):
            assert gradient is None or np.isfinite(gradient).all()
        if running:
            assert (running["running_var"] >= 0).all()


def row_has_running(name):
    return BY_NAME[name].function in ("batch_norm", "batch_renorm")


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("shape", [(4, 3), (3, 3, 1), (4, 3, 7, 7), (2, 3, 5001), (1, 3, 70001), (500, 3)], ids=str)
@pytest.mark.parametrize("layout", DENSE)
def test_row_03_constants_give_exactly_bias(layout, shape, dtype):
    bias = np.array([0.1, -7.3, 1e-3], dtype)
    i = values(shape, np.dtype(dtype))
    c = (1, 3, *(1 for _ in shape[2:]))
    for scale in (0.1, 1e10, 3.3e-5, 16_777_217.0):
        x = np.broadcast_to((np.array([1.1, -2.7, 3.9]) * scale).reshape(c), shape).astype(dtype)
        laid, axis = lay_out(checks.plain(x, i.dy), layout).x, -1 if layout == "channels_last" else 1
        axis = 0 if layout == "channels_first" else axis
        for y in (
            nk.batch_norm(laid, i.weight, bias, axis=axis)[0],
            nk.group_norm(laid, 3, i.weight, bias, axis=axis)[0],
            nk.instance_norm(laid, i.weight, bias, axis=axis)[0],
        ):
            assert (np.moveaxis(y, axis, 1) == bias.reshape(c)).all()


@pytest.mark.parametrize("dtype", [F32, F64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "silu"])
def test_row_03_constants_give_exactly_bias_with_anything_fused(activation, dtype):
    """relu(bias), and bias + residual rounded once."""
    x = np.broadcast_to(np.array([1.1, -2.7, 3.9])[:, None], (4, 3, 50)).astype(dtype)
    bias, weight = np.array([0.125, -7.25, 0.5], F32), np.array([1.5, -2.5, 1.1], F32)
    residual = np.full((4, 3, 50), 2.0, dtype)
    expected = reference.activate((bias[:, None] + 2.0).astype(F64), activation)
    mask = np.ones((4, 50), bool)
    how = {"activation": activation, "residual": residual}
    for y in (
        nk.batch_norm(x, weight, bias, **how)[0],
        nk.batch_norm(x, weight, bias, **how, mask=mask)[0],
        nk.group_norm(x, 3, weight, bias, **how)[0],
        nk.instance_norm(x, weight, bias, **how)[0],
    ):
        assert (y == y[:1, :, :1]).all()
        within = {None: 0, "relu": 0, "leaky_relu": 2, "silu": 4}[activation]  # roundings, see tolerance.py
        eps = float(ml_dtypes.finfo(dtype).eps)
        assert_within(y[0], np.broadcast_to(expected, (3, 50)), within * eps * np.abs(expected), "y")


@pytest.mark.parametrize("dtype", [F32, F64, np.float16, ml_dtypes.bfloat16])
def test_row_03_constants_of_the_other_norms(dtype):
    content = np.full((2, 3, 7, 9), 1234.567).astype(dtype)
    style = np.full((2, 3, 5), 7.7).astype(dtype).reshape(2, 3, 5, 1)
    y, _ = nk.adaptive_instance_norm(content, style)
    assert (y == style[0, 0, 0, 0]).all()
    bias = np.linspace(-3, 3, 9).astype(dtype)
    y, cache = nk.layer_norm(content, np.full(9, 2.5, F32), bias)
    assert (y == bias).all()
    assert (nk.layer_norm_backward(content, cache).dweight == 0).all()
    for axis in (1, (1, 2), (0, 2, 3)):
        assert (nk.layer_norm(content, axis=axis)[0] == 0).all()
    # r·0 + d with d clipped: y = weight·d_max + bias
    y, _ = nk.batch_renorm(content, np.zeros(3), np.ones(3), np.full(3, 2.0), np.full(3, -1.0), d_max=0.75)
    assert (y == 0.5).all()


@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("shape", [(256, 4), (32, 4, 7, 7), (4, 4, 5003), (1, 2, 70001)], ids=str)
@pytest.mark.parametrize("layout", ["c_order", "channels_last"])
def test_row_03_large_means(layout, shape, mean):
    x = (np.random.default_rng(0).standard_normal(shape) + mean).astype(F32)
    plain = checks.plain(x, x, eps=1e-5)
    for name in ("batch_norm", "group_norm", "instance_norm", "layer_norm-sample", "layer_norm-but_channels"):
        if name == "instance_norm" and len(shape) == 2:
            continue  # one value: a constant
        i = replace(lay_out(BY_NAME[name].prepare(plain), layout), weight=None, bias=None)
        result = BY_NAME[name].oracle(i)
        y, cache = BY_NAME[name].forward(i)
        checks.statistics(cache, result, i.x)
        within_contract(y, result.y)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_row_12_half_precision_with_float32_parameters(dtype):
    """test_half.py says more. A float16 variance of this would be infinite, a bfloat16 sum stick at 2^8·300."""
    x = (300 + 100 * np.random.default_rng(0).standard_normal((4, 3, 5000))).astype(dtype)
    y, cache = nk.batch_norm(x, np.ones(3, F32), np.zeros(3, F32))
    np.testing.assert_allclose(cache.mean, x.astype(F64).mean((0, 2)), rtol=4 * np.finfo(F32).eps)
    assert y.dtype == dtype
    found = nk.batch_norm_backward(y.astype(F32), cache)
    assert (found.dx.dtype, found.dweight.dtype, found.dbias.dtype) == (dtype, F32, F32)


@pytest.mark.parametrize(
    "name",
    [
        "batch_norm",
        "group_norm",
        "instance_norm",
        "batch_norm-silu-residual",
        "batch_norm-mask",
        "batch_renorm",
        "layer_norm-but_channels",
        "layer_norm-channels",
    ],
)
@pytest.mark.parametrize("shape", [(4096, 8), (64, 8, 28, 28), (2, 8, 20_000)], ids=str)
def test_row_17_weight_gradient_at_a_large_mean(name, shape):
    """An uncentred sum cancels |mean|·sum(dy) against itself; centred, the error is that of the terms."""
    rng = np.random.default_rng(0)
    i = values(shape, np.dtype(F32), mean=3e4, sigma=1.0)
    dy = (1 + 1e-3 * rng.standard_normal(shape)).astype(F32)
    i = replace(i, dy=dy, weight=np.ones(8, F32), bias=np.zeros(8, F32), groups=1)
    row = BY_NAME[name]
    i = row.prepare(i)
    result = row.oracle(i)
    y, cache = row.forward(i)
    checks.forward(y, cache, result, i)
    checks.gradients(row.backward(i.dy, cache), result, i, y)
