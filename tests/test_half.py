"""float16 and bfloat16 (row 12 of USERS.md): read exactly, computed in float32 and wider, rounded once.

The table of cases.py holds every norm in both to the oracle; here is what can be said exactly.
"""

import sys

import ml_dtypes
import numpy as np
import pytest

import normkit as nk
from cases import ALL_DTYPES, BY_NAME, HALVES, NORMS, values
from subprocesses import output

F16, BF16 = HALVES


def every_number(dtype):
    """All 65536 of them, infinities and NaN too, as (N, 1)."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)[:, None]


def beyond(x):
    """1 for infinities, 2 for NaN, else 0: by the bits, since arithmetic on signalling NaN warns."""
    bits, infinity = x.view(np.uint16) & 0x7FFF, np.array(np.inf, x.dtype).view(np.uint16)
    return np.where(bits > infinity, 2, bits == infinity)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_every_number_passes_unchanged(layout, dtype):
    """y = (x - 0)·1 + 0, subnormals included; only the sign of zero and what a NaN carries are open."""
    x = every_number(dtype)
    x = x.reshape(1, 1, -1) if layout == "rows" else x.reshape(-1, 64)
    c = x.shape[1]
    y = nk.batch_norm_inference(x, np.zeros(c), np.ones(c), eps=0.0)
    assert y.dtype == dtype
    nan = beyond(x) == 2
    assert nan.sum() == 2 * (2**10 - 1 if dtype == F16 else 2**7 - 1)
    assert (beyond(y[nan]) == 2).all()
    assert (y[~nan] == x[~nan]).all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("factor", [1.5, 0.625, 3.0, 2.0**-10, 1 + 2.0**-9])
def test_y_is_rounded_to_nearest_even_once(factor, dtype):
    """The products are exact in float32, so that the conversion is all there is to see: ties, subnormals, overflow."""
    x = every_number(dtype)
    x = x[beyond(x)[:, 0] == 0]
    with np.errstate(over="ignore"):
        exact = x.astype(np.float32) * np.float32(factor)
        expected = exact.astype(dtype)
    keep = (np.abs(exact) >= np.finfo(np.float32).tiny) | (exact == 0)  # exact in float32
    y = nk.batch_norm_inference(x, np.zeros(1), np.ones(1), np.full(1, factor, np.float32), eps=0.0)
    assert (y[keep] == expected[keep]).all()


def test_bfloat16_batch_norm_of_two_numbers():
    x = np.array([[1.3047], [0.8789]], BF16)
    for kw in ({}, {"weight": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}):
        y, _ = nk.batch_norm(x, **kw)
        assert y.dtype == BF16
        assert y.ravel().tolist() == [1.0, -1.0]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm", "layer_norm-sample", "rms_norm-sample"])
def test_row_12_statistics_are_wide(name, dtype):
    """70,000 numbers near 300: their sum and each square leave float16's range, and a bfloat16 sum sticks at 2^8."""
    rng = np.random.default_rng(0)
    x = (300 + 8 * rng.standard_normal((2, 1, 70_000))).astype(dtype)
    i = BY_NAME[name].prepare(values(x.shape, dtype))
    i = type(i)(**{**vars(i), "x": x, "weight": None, "bias": None})
    y, cache = BY_NAME[name].forward(i)
    assert np.isfinite(y.astype(np.float32)).all()
    wide = x.astype(np.float64)
    axes = {"batch_norm": (0, 2)}.get(name, (2,))
    if not name.startswith("rms"):
        np.testing.assert_allclose(cache.mean.ravel(), wide.mean(axes).ravel(), rtol=4 * np.finfo(np.float32).eps)
        spread = wide.var(axes)
    else:
        spread = np.square(wide).mean(axes)
    np.testing.assert_allclose(cache.rstd.ravel(), 1 / np.sqrt(spread + i.eps).ravel(), rtol=4 * 2.0**-23)


@pytest.mark.parametrize("x_dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("dy_dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("parameter_dtype", ALL_DTYPES, ids=str)
def test_row_12_dtypes_may_be_mixed(x_dtype, dy_dtype, parameter_dtype):
    for row in NORMS:
        if row.coverage == "thin":
            continue
        i = row.prepare(values((4, 6, 5), x_dtype))
        given = {name: None if (p := getattr(i, name)) is None else p.astype(parameter_dtype) for name in PARAMETERS}
        i = type(i)(**{**vars(i), **given})
        y, cache = row.forward(i)
        found = row.backward(i.dy.astype(dy_dtype), cache)
        assert y.dtype == found[0].dtype == x_dtype
        for name, gradient in found._asdict().items():
            if name in ("dweight", "dbias") and gradient is not None:
                assert gradient.dtype == parameter_dtype


PARAMETERS = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_running_statistics_of_half_batches_are_float32(dtype):
    """Kept in float32 they take up steps that a float16 average would lose."""
    x = (np.random.default_rng(0).standard_normal((64, 3)) + 5).astype(dtype)
    mean, var = np.full(3, 5, np.float32), np.ones(3, np.float32)
    nk.batch_norm(x, running_mean=mean, running_var=var, momentum=1e-3)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, 0.999 * 5 + 1e-3 * wide.mean(0), rtol=2.0**-23)
    np.testing.assert_allclose(var, 0.999 + 1e-3 * wide.var(0, ddof=1), rtol=2.0**-23)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_a_half_zero_dimensional_or_wrong_array_is_refused_like_any(dtype):
    for bad in (np.ones((), dtype), np.ones(3, dtype)):
        with pytest.raises(ValueError, match=r"^batch_norm: `(x|axis)` "):
            nk.batch_norm(bad)


@pytest.mark.parametrize("other", [ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.longdouble])
def test_other_dtypes_are_refused(other):
    with pytest.raises(TypeError, match=r"^batch_norm: `x` .*found"):
        nk.batch_norm(np.ones((4, 3), other))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("dtype", ["np.float16", "ml_dtypes.bfloat16"])
def test_no_wide_copy_of_the_tensor(dtype):
    """Peak memory of forward and backward into given outputs: far below a float32 copy (64 MB)."""
    program = f"""
import ml_dtypes, numpy as np, normkit as nk
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
small = np.ones((256, 64, 30), {dtype})
nk.batch_norm_backward(small, nk.batch_norm(small)[1])
x, y, dx = (np.full((64, 64, 64, 64), k, {dtype}) for k in range(3))
before = peak()
for forward, backward in (
    (lambda: nk.batch_norm(x, out=y), nk.batch_norm_backward),
    (lambda: nk.group_norm(x, 32, out=y), nk.group_norm_backward),
    (lambda: nk.layer_norm(x, out=y), nk.layer_norm_backward),
    (lambda: nk.layer_norm(x, axis=1, out=y), nk.layer_norm_backward),
):
    backward(y, forward()[1], out=dx)
print(peak() - before)
"""
    assert int(output("-c", program, NORMKIT_NUM_THREADS="2")) < 16_000
