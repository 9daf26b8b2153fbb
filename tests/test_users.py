"""What users of the peers run into (rows of USERS.md, by number), and the numeric cases that must hold.

Row 29 is in the tests of spectral norm, row 31 a benchmark: a timing is never a test.
"""

import math
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import checks
import normkit as nk
import reference
import tolerance
from cases import BY_NAME, DENSE, NORMS, lay_out, values
from subprocesses import output
from tolerance import assert_within

F32, F64 = np.float32, np.float64
UNFUSED = [row.name for row in NORMS if row.coverage != "thin"]


def prepared(name, shape, dtype=F32):
    return BY_NAME[name].prepare(values(shape, np.dtype(dtype)))


def within_contract(y, expected):
    """|Δy| <= 1e-6·max(1, |y|)."""
    assert_within(y, expected, 1e-6 * np.maximum(1, np.abs(expected)), "y")


# --- rows ------------------------------------------------------------------------------------------------------------


def test_row_01_float32_sums_do_not_stick():
    """A float32 counter sticks at 2^24; here the mean is exact."""
    m = nk.moments(np.ones((20_000_000, 2), F32), 0)
    assert (m.mean == 1.0).all()
    assert (m.m2 == 0.0).all()


def test_row_02_variance_is_never_negative():
    rng = np.random.default_rng(0)
    for mean in (1e3, 1e5, 1e7):
        x = (mean + rng.standard_normal((64, 8, 9)) * 1e-3).astype(F32)
        assert (nk.moments(x, (0, 2)).var() >= 0).all()
        y, cache = nk.batch_norm(x, eps=1e-12)
        assert np.isfinite(y).all()
        assert (cache.rstd <= 1e6).all()


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


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_row_04_folding_a_square_transposed_convolution_scales_the_output_axis(groups):
    """In and out have equal sizes: a wrong axis has no shape to stumble over. test_fold.py has all kinds."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 4 // groups, 3, 3)), rng.standard_normal((2, 4, 5, 5))
    mean, var, weight, bias = rng.uniform(0.5, 2, (4, 4))
    folded = nk.fold_conv_bn(w, None, mean, var, weight, bias, eps=1e-3, groups=groups, transposed=True)
    y = reference.convolve(x, w, groups=groups, transposed=True)
    expected = reference.norm(y, weight, bias, mean=mean, var=var, eps=1e-3).y
    found = reference.convolve(x, *folded, groups=groups, transposed=True)
    np.testing.assert_allclose(found.astype(F64), expected.astype(F64), rtol=0, atol=1e-12)


def test_row_05_eps_is_required_when_folding():
    with pytest.raises(TypeError, match="eps"):
        nk.fold_conv_bn(np.ones((3, 2)), None, np.zeros(3), np.ones(3))


def test_row_06_momentum_is_the_share_of_the_new_batch():
    mean, var = np.zeros(1), np.ones(1)
    nk.batch_norm(np.array([[9.0], [11.0]]), running_mean=mean, running_var=var, momentum=0.1)
    np.testing.assert_allclose(mean, [1.0], rtol=1e-15)


@pytest.mark.parametrize(("ddof", "expected"), [(0, 1.0), (1, 2.0)])
def test_row_07_running_variance_biased_or_unbiased(ddof, expected):
    mean, var = np.zeros(1), np.zeros(1)
    x = np.array([[9.0], [11.0]])
    y, _ = nk.batch_norm(x, running_mean=mean, running_var=var, momentum=1.0, running_var_ddof=ddof, eps=0.0)
    np.testing.assert_allclose(var, [expected], rtol=1e-15)
    assert y.ravel().tolist() == [-1.0, 1.0]  # normalized by the biased one, always


def test_row_08_a_forked_child_works():
    program = (
        "import os, warnings, numpy as np, normkit as nk\nnk.set_num_threads(2)\n"
        "x = np.ones((64, 64, 30, 30), np.float32)\nnk.batch_norm(x)\nwarnings.simplefilter('ignore')\n"
        "child = os.fork()\nnk.batch_norm(x)\n"
        "if child == 0: os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert output("-c", program, timeout=60) == "7\n"


def test_row_09_the_thread_count_can_change():
    for n in (1, 4, 2):
        nk.set_num_threads(n)
        assert nk.get_num_threads() == n
        nk.batch_norm(np.ones((64, 64, 30, 30), F32))


@pytest.mark.parametrize("name", [*BY_NAME])
def test_row_10_strided_gradients_equal_contiguous_ones(name):
    row, i = BY_NAME[name], prepared(name, (4, 6, 5, 7), F64)
    _, cache = row.forward(i)
    expected = row.backward(i.dy, cache)

    def check(dy, expected):
        for a, b in zip(row.backward(dy, cache), expected, strict=True):
            assert (a is b is None) or np.abs(a - b).max() <= 1e-12

    for strided in (i.dy[:, :, ::-1][:, :, ::-1], np.asfortranarray(i.dy), np.repeat(i.dy, 2, -1)[..., ::2]):
        check(strided, expected)
    # The gradient of y.sum().
    check(np.broadcast_to(F64(1), i.x.shape), row.backward(np.ones(i.x.shape), cache))


def test_row_11_the_result_does_not_depend_on_the_thread_count():
    """test_bits.py has all norms, shapes and layouts."""
    x = np.random.default_rng(0).standard_normal((64, 64, 28, 28)).astype(F32)
    with nk.num_threads(1):
        expected = nk.batch_norm(x)[0]
    for n in range(2, 9):
        with nk.num_threads(n):
            assert checks.same_bits(nk.batch_norm(x)[0], expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_row_12_half_precision_with_float32_parameters(dtype):
    """test_half.py says more. A float16 variance of this would be infinite, a bfloat16 sum stick at 2^8·300."""
    x = (300 + 100 * np.random.default_rng(0).standard_normal((4, 3, 5000))).astype(dtype)
    y, cache = nk.batch_norm(x, np.ones(3, F32), np.zeros(3, F32))
    np.testing.assert_allclose(cache.mean, x.astype(F64).mean((0, 2)), rtol=4 * np.finfo(F32).eps)
    assert y.dtype == dtype
    found = nk.batch_norm_backward(y.astype(F32), cache)
    assert (found.dx.dtype, found.dweight.dtype, found.dbias.dtype) == (dtype, F32, F32)


@pytest.mark.parametrize("function", ["batch_norm", "batch_renorm"])
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)], ids=str)
def test_row_13_one_value_per_channel_is_an_error_in_training(shape, function):
    mean, var, call = np.full(3, 0.5), np.full(3, 0.25), getattr(nk, function)
    for ddof in (0, 1):
        with pytest.raises(ValueError, match=rf"^{function}: `x` "):
            call(np.ones(shape), running_mean=mean, running_var=var, running_var_ddof=ddof)
    assert (mean == 0.5).all()
    assert (var == 0.25).all()
    y, _ = call(np.ones(shape), running_mean=mean, running_var=var, training=False, eps=0.0)
    assert (y == 1.0).all()


@pytest.mark.parametrize("shape", [(0, 5, 9), (0, 5), (3, 5, 0), (0, 5, 0, 4)], ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_row_14_empty_batch(shape, axis):
    x = np.empty(shape, F32) if axis == 1 else np.moveaxis(np.empty(shape, F32), 1, -1)
    mean, var, weight, bias = np.full(5, 0.5), np.full(5, 0.25), np.ones(5, F32), np.ones((1, 5))
    running = {"running_mean": mean, "running_var": var}
    for kw in ({}, running, running | {"training": False}):
        y, cache = nk.batch_norm(x, weight, bias, axis=axis, **kw)
        found = nk.batch_norm_backward(np.empty(x.shape), cache)
        assert (y.shape, y.dtype, found.dx.shape, found.dx.dtype) == (x.shape, F32, x.shape, F32)
        assert (found.dweight == 0).all()
        assert (found.dbias == 0).all()
        assert (found.dweight.shape, found.dbias.shape) == ((5,), (1, 5))
        assert cache.mean.shape == cache.rstd.shape == (5,)
    assert (mean == 0.5).all()
    assert (var == 0.25).all()
    assert nk.batch_norm_inference(x, mean, var, axis=axis).shape == x.shape
    y, cache = nk.group_norm(x, 5, weight, bias, axis=axis)
    found = nk.group_norm_backward(np.empty(x.shape), cache)
    assert y.shape == found.dx.shape == x.shape
    assert (found.dweight == 0).all()
    assert (found.dbias == 0).all()
    layer = nk.BatchNorm(5, axis=axis)
    layer(x)
    assert (layer.running_mean == 0).all()
    assert (layer.running_var == 1).all()


@pytest.mark.parametrize("name", [name for name in BY_NAME if "batch_norm" not in name])
@pytest.mark.parametrize("shape", [(0, 5, 9), (0, 5), (3, 5, 0), (0, 5, 0, 4)], ids=str)
def test_row_14_empty_batch_of_the_other_norms(shape, name):
    row, x = BY_NAME[name], np.empty(shape, F32)
    i = replace(row.prepare(checks.plain(x, x, groups=5)), style=x if "adaptive" in name else None)
    running = {}
    if name == "batch_renorm":
        running = {"running_mean": np.full(5, 0.5), "running_var": np.full(5, 0.25)}
    y, cache = row.forward(i, **running)
    found = row.backward(np.empty(shape), cache)
    assert (y.shape, y.dtype, found[0].shape, found[0].dtype) == (shape, F32, shape, F32)
    assert all(gradient is None or (gradient == 0).all() for gradient in found)
    if running:
        assert (running["running_mean"] == 0.5).all()
        assert (running["running_var"] == 0.25).all()


def test_row_14_moments_of_nothing():
    m = nk.moments(np.empty((0, 5), F32), 0)
    assert m.count == 0
    assert m.mean.shape == m.m2.shape == (5,)


def test_row_15_bad_arguments_are_errors():
    """test_bad_input.py has the table."""
    for bad in (np.ones(()), np.ones(3), np.ones((2, 3), int), None, "x", object()):
        with pytest.raises((ValueError, TypeError), match=r"^batch_norm: `(x|axis)` "):
            nk.batch_norm(bad)


def test_row_16_frozen_backward():
    """test_gradients.py has finite differences; here the numbers are exact."""
    x = np.array([[5.0, 3.0], [7.0, -3.0]])
    _, cache = nk.batch_norm(
        x, np.array([3.0, 1.0]), np.zeros(2), np.array([3.0, 0.0]), np.array([4.0, 9.0]), training=False, eps=0.0
    )
    dx, dweight, dbias = nk.batch_norm_backward(np.ones((2, 2)), cache)
    np.testing.assert_allclose(dx, [[1.5, 1 / 3]] * 2, rtol=1e-15)
    np.testing.assert_allclose(dweight, [3.0, 0.0], rtol=1e-15, atol=1e-15)
    assert dbias.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "name", ["batch_norm", "group_norm", "instance_norm", "batch_norm-silu-residual", "batch_norm-mask", "batch_renorm"]
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


def test_row_18_a_baseline_build_inside():
    program = "import numpy as np, normkit as nk; nk.show_config(); print(nk.batch_norm(np.eye(3))[0].sum())"
    assert "baseline" in output("-c", program, NORMKIT_ISA="baseline")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_row_19_no_copy_of_the_input_is_kept():
    """Peak memory of forward and backward into given outputs: far below one more tensor (64 MB)."""
    # Not getrusage: its maximum starts at that of the process that forked this one.
    program = """
import numpy as np, normkit as nk
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
nk.batch_norm_backward(np.ones((256, 64, 30)), nk.batch_norm(np.ones((256, 64, 30)))[1])
x, y, dx = (np.full((64, 64, 64, 64), k, np.float32) for k in range(3))
before = peak()
cache = nk.batch_norm(x, out=y)[1]
nk.batch_norm_backward(y, cache, out=dx)
cache = nk.group_norm(x, 32, out=y)[1]
nk.group_norm_backward(y, cache, out=dx)
cache = nk.instance_norm(x, out=y)[1]
nk.instance_norm_backward(y, cache, out=dx)
cache = nk.layer_norm(x, axis=(1, 2, 3), out=y)[1]
nk.layer_norm_backward(y, cache, out=dx)
cache = nk.rms_norm(x, axis=1, out=y)[1]
nk.rms_norm_backward(y, cache, out=dx)
print(peak() - before)
"""
    kilobytes = int(output("-c", program, NORMKIT_NUM_THREADS="2"))
    assert kilobytes < 16_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("residual", ["None", "r"])
def test_row_19_what_a_fused_activation_keeps(residual, activation):
    """Without a residual nothing, with one a bit per element: 2 MB of 64. Not a byte each, which would be 16 MB."""
    program = f"""
import numpy as np, normkit as nk
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
def run(x, r, y, dx, dr):
    for forward, backward in (
        (lambda: nk.batch_norm(x, activation="{activation}", residual={residual}, out=y), nk.batch_norm_backward),
        (lambda: nk.instance_norm(x, activation="{activation}", residual={residual}, out=y), nk.instance_norm_backward),
    ):
        before = peak()
        cache = forward()[1]
        print(peak() - before)
    return cache
run(*(np.ones((256, 64, 30), np.float32) for _ in range(5)))
x, r, y, dx, dr = (np.full((64, 64, 64, 64), k, np.float32) for k in range(5))
run(x, r, y, dx, dr)
"""
    kilobytes = [int(line) for line in output("-c", program, NORMKIT_NUM_THREADS="2").split()[2:]]
    assert max(kilobytes) < 8_000


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("name", [*BY_NAME])
def test_row_20_outputs_keep_the_layout(name, layout):
    row, i = BY_NAME[name], lay_out(prepared(name, (4, 6, 5, 7)), layout)
    y, cache = row.forward(i)
    assert y.strides == row.backward(i.dy, cache)[0].strides == i.x.strides


@pytest.mark.parametrize("axis", [1, (1,), -3, (1, 3), (0, 2), (3, 1), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_row_21_layer_norm_over_any_axes_needs_no_transpose(dtype, axis):
    """As if the axes had been moved to the end, normalized there and moved back. test_norms.py has random tuples."""
    i = values((4, 6, 5, 7), np.dtype(dtype))
    axes = tuple(sorted(a % 4 for a in (axis if isinstance(axis, tuple) else (axis,))))
    kept = tuple(a for a in range(4) if a not in axes)
    i = replace(BY_NAME["layer_norm-channels"].prepare(i), axes=axes)
    shape = tuple(i.x.shape[a] for a in axes)
    weight, bias = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    if axis == (3, 1):
        weight = bias = None  # the contract does not say in which order their axes are then
    there, back = (*kept, *axes), np.argsort((*kept, *axes))
    last = tuple(range(4 - len(axes), 4))
    for function, arguments in (("layer_norm", (weight, bias)), ("rms_norm", (weight,))):
        forward, backward = getattr(nk, function), getattr(nk, f"{function}_backward")
        y, cache = forward(i.x, *arguments, axis=axis)
        moved, moved_cache = forward(np.ascontiguousarray(i.x.transpose(there)), *arguments, axis=last)
        found = backward(i.dy, cache)
        expected = backward(np.ascontiguousarray(i.dy.transpose(there)), moved_cache)
        within = 64 * np.finfo(dtype).eps
        np.testing.assert_allclose(y, moved.transpose(back), rtol=within, atol=within)
        np.testing.assert_allclose(cache.rstd, moved_cache.rstd, rtol=within)
        np.testing.assert_allclose(found.dx, expected.dx.transpose(back), rtol=within, atol=8 * within)
        for a, b in zip(found[1:], expected[1:], strict=True):
            assert (a is b is None) or np.abs(a - b).max() <= 140 * within  # sums of at most 140 terms


def test_row_22_padding_does_not_pollute_statistics():
    """test_mask.py has the rest."""
    x = np.array([[[1.0, 3.0, 5.0, 99.0, np.nan]]])
    mask = np.array([[True, True, True, False, False]])
    y, cache = nk.batch_norm(x, mask=mask, eps=0.0)
    np.testing.assert_allclose(y[0, 0], [-math.sqrt(1.5), 0, math.sqrt(1.5), 0, 0], rtol=1e-15, atol=1e-15)
    assert float(cache.mean[0]) == 3.0
    dx = nk.batch_norm_backward(np.array([[[1.0, 0, 0, 7, np.nan]]]), cache).dx
    # rstd·(dy - mean - x̂·mean(dy·x̂)) with rstd = sqrt(3/8): 1 - 1/3 - 1/2, -1/3, -1/3 + 1/2
    np.testing.assert_allclose(dx[0, 0], np.sqrt(3 / 8) * np.array([1, -2, 1, 0, 0]) / 6, rtol=1e-14, atol=1e-16)


def test_row_23_moments_of_uneven_and_empty_shards_merge():
    x = np.random.default_rng(0).standard_normal((100, 4)) + 1e3
    parts = [nk.moments(part, 0) for part in np.split(x, [1, 1, 40, 41])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.count == 100
    np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(merged.var(1), x.var(0, ddof=1), rtol=1e-11)


def test_row_24_folding_twice_from_one_convolution():
    """A convolution used twice: the second fold starts from the original weights."""
    w = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(F32)
    before, statistics = w.copy(), (np.ones(3, F32), np.full(3, 4.0, F32))
    first, _ = nk.fold_conv_bn(w, None, *statistics, eps=0.0)
    second, _ = nk.fold_conv_bn(w, None, *statistics, eps=0.0)
    assert checks.same_bits(w, before)
    assert checks.same_bits(first, second)
    assert (first == w / 2).all()


@pytest.mark.parametrize("given", range(8))
def test_row_25_fold_with_anything_missing_and_mixed_dtypes(given):
    rng = np.random.default_rng(0)
    conv_bias, weight, bias = (
        rng.standard_normal(3).astype(t) if given >> k & 1 else None for k, t in enumerate((F32, F64, F32))
    )
    w = rng.standard_normal((3, 2)).astype(F32)
    mean, var = rng.standard_normal(3), rng.uniform(1, 2, 3).astype(F32)
    found = nk.fold_conv_bn(w, conv_bias, mean, var, weight, bias, eps=1e-5)
    assert found[0].dtype == F32
    for a, b in zip(found, reference.fold(w, conv_bias, mean, var, weight, bias, eps=1e-5), strict=True):
        assert_within(a, b, tolerance.ulp(b, F32) / 2 * (1 + 1e-6) + 1e-14, "folded")


def test_row_26_floating_point_mode_is_not_touched():
    """Neither by the import nor by a call, on any thread: subnormals survive arithmetic afterwards."""
    program = """
import threading
import numpy as np
import normkit as nk
def check():
    assert np.array([5e-324])[0] * 1.0 == 5e-324 != 0.0
    assert (np.full(64, 1e-310) / 2 != 0).all() and (np.full(64, 1e-40, np.float32) / 2 != 0).all()
check()
nk.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((64, 64, 30, 30)).astype(np.float32)
nk.batch_norm_backward(x, nk.batch_norm(x)[1])
check()
thread = threading.Thread(target=lambda: (nk.group_norm(x, 8), check()))
thread.start()
thread.join()
print("ok")
"""
    assert output("-c", program) == "ok\n"


def test_row_26_the_smallest_numbers_pass_through():
    for dtype in (F32, F64):
        tiny = np.finfo(dtype).smallest_subnormal
        x = np.full((2, 3), tiny, dtype)
        y = nk.batch_norm_inference(x, np.zeros(3), np.ones(3), eps=0.0)
        assert (y == tiny).all()
        y = nk.batch_norm(np.zeros((2, 3), dtype), None, np.full(3, tiny, dtype))[0]
        assert (y == tiny).all()


def test_row_27_group_norm_parameters_are_per_channel():
    with pytest.raises(ValueError, match=r"^group_norm: `weight` "):
        nk.group_norm(np.ones((2, 6, 4)), 3, np.ones(3))


def test_row_28_called_from_many_threads():
    """test_processes.py shows that the GIL is released."""
    program = """
import numpy as np, normkit as nk
from concurrent.futures import ThreadPoolExecutor
x = np.random.default_rng(0).standard_normal((32, 32, 30, 30)).astype(np.float32)
expected = nk.batch_norm(x)[0]
with ThreadPoolExecutor(8) as pool:
    print(all((y == expected).all() for y, _ in pool.map(nk.batch_norm, [x] * 40)))
"""
    assert output("-c", program, NORMKIT_NUM_THREADS="3", timeout=60) == "True\n"


@pytest.mark.parametrize("layout", ["misaligned", "byte_swapped", "read_only"])
@pytest.mark.parametrize("name", [*BY_NAME])
def test_row_30_misaligned_read_only_byte_swapped(name, layout):
    row, plain = BY_NAME[name], prepared(name, (4, 6, 5, 7))
    y, cache = row.forward(plain)
    i = lay_out(plain, layout)
    other, other_cache = row.forward(i)
    assert checks.same_bits(other, y)
    assert checks.same_bits(row.backward(i.dy, other_cache)[0], row.backward(plain.dy, cache)[0])


# --- numeric cases ---------------------------------------------------------------------------------------------------


def layer_norm(rows, weight=None, bias=None, **kw):
    return nk.layer_norm(np.atleast_2d(np.asarray(rows, F32)), weight, bias, **kw)


def test_layer_norm_of_large_neighbours():
    y, _ = layer_norm([40000, 40001, 40002, 40003], eps=1e-5)
    exact = np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25 + 1e-5)
    within_contract(y[0], exact)
    np.testing.assert_allclose(y[0], [-1.341635, -0.447212, 0.447212, 1.341635], rtol=0, atol=2e-6)


def test_layer_norm_of_constants_is_exactly_bias():
    bias = np.linspace(-3, 3, 256).astype(F32)
    y, _ = layer_norm(np.full((5, 256), 1234, F32), np.full(256, 2.5, F32), bias)
    assert (y == bias).all()


def test_channel_constants_of_scale_1e10_give_exactly_bias():
    scale = np.linspace(-1, 1, 7) * 1e10
    bias = np.linspace(-1, 1, 7).astype(F32)
    x = np.broadcast_to(scale.reshape(1, 7, 1, 1), (8, 7, 9, 9)).astype(F32)
    y, _ = nk.batch_norm(x, np.full(7, 3.0, F32), bias)
    assert (y == bias.reshape(1, 7, 1, 1)).all()


def test_small_variance_at_a_mean_of_100():
    """randn(1024, 32768)·0.01 + 100: the variance is 1e-4 up to sampling (sqrt(2/32768) = 0.8 %, here 6 sigmas)."""
    x = np.random.default_rng(0).standard_normal((1024, 32768), F32)
    x *= F32(0.01)
    x += F32(100)
    m = nk.moments(x, 1)
    assert (np.abs(m.var() / 1e-4 - 1) < 0.05).all()
    for row in (0, 1023):
        mean, m2 = reference.moments(x[row], 0)
        assert_within(m.mean[row], mean, 4 * tolerance.ulp(mean, F32), "mean")
        assert_within(m.m2[row], m2, 4 * np.finfo(F32).eps * m2, "m2")


def test_values_whose_variance_overflows_float32():
    exact = np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25)
    x = np.array([1, 2, 3, 4], F32) * F32(1e30)
    within_contract(layer_norm(x)[0][0], exact)
    within_contract(nk.batch_norm(x[:, None])[0][:, 0], exact)
    np.testing.assert_allclose(nk.moments(x, 0).var(), 1.25e60, rtol=4 * np.finfo(F32).eps)


def test_layer_norm_of_small_deviations():
    x = np.array([[1, 1.001, 0.999, 1]], F32)
    y, _ = layer_norm(x, eps=1e-7)
    within_contract(y, reference.layer_norm(x, eps=1e-7).y)
    # float32 holds 0.001 above 1 to a relative 6e-5.
    np.testing.assert_allclose(y[0], [0, 1.2910, -1.2910, 0], rtol=0, atol=2e-4)


def test_layer_norm_of_one_element():
    y, cache = layer_norm([[1e6]], np.array([2.0], F32), np.array([3.0], F32))
    assert y.tolist() == [[3.0]]
    dx, dweight, dbias = nk.layer_norm_backward(np.array([[5.0]], F32), cache)
    assert (dx.tolist(), dweight.tolist(), dbias.tolist()) == ([[0.0]], [0.0], [5.0])


def test_rms_norm_of_large_and_small_numbers():
    """Squares that leave float32 on either side; no mean is subtracted."""
    exact = np.array([1, 2, 3, 4]) / math.sqrt(7.5)
    for scale in (1e30, 1.0, 1e-30):
        x = np.array([[1, 2, 3, 4]], F32) * F32(scale)
        y, cache = nk.rms_norm(x, eps=0.0)
        within_contract(y[0], exact)
        np.testing.assert_allclose(cache.rstd, [1 / math.sqrt(7.5) / F64(F32(scale))], rtol=4 * np.finfo(F32).eps)
    y, _ = nk.rms_norm(np.zeros((2, 3), F32))
    assert (y == 0).all()


def test_the_default_eps_are_those_of_the_contract():
    """1e-5, but 1e-6 for RMS norm: they are not in a checkpoint."""
    x = np.array([[[-1e-3, 1e-3]]])
    for y in (
        nk.batch_norm(x)[0], nk.group_norm(x, 1)[0], nk.instance_norm(x)[0], nk.layer_norm(x)[0],
        nk.adaptive_instance_norm(x, x)[0] / np.sqrt(1e-6 + 1e-5) * 1,
    ):  # fmt: skip
        np.testing.assert_allclose(np.abs(y), 1e-3 / np.sqrt(1e-6 + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(np.abs(nk.rms_norm(x)[0]), 1e-3 / np.sqrt(1e-6 + 1e-6), rtol=1e-12)


def test_batch_renorm_defaults_are_batch_norm():
    """r_max = 1 and d_max = 0: the first 5000 steps of the paper's schedule."""
    i = values((6, 4, 5), np.dtype(F64))
    running = [p.copy() for p in (i.running_mean, i.running_var)]
    plain = [p.copy() for p in running]
    y, cache = nk.batch_renorm(i.x, *running, i.weight, i.bias)
    expected, other = nk.batch_norm(i.x, i.weight, i.bias, *plain)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)
    for a, b in zip(nk.batch_renorm_backward(i.dy, cache), nk.batch_norm_backward(i.dy, other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
    for a, b in zip(running, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)


def test_batch_renorm_takes_r_and_d_before_the_update():
    """By hand: sigma 2, mean 5; running 3 and 4²: r = 1/2, d = 1/2. Then the update with momentum 1/4."""
    x, mean, var = np.array([[3.0], [7.0]]), np.array([3.0]), np.array([16.0])
    y, cache = nk.batch_renorm(x, mean, var, np.array([2.0]), np.array([1.0]), r_max=9, d_max=9, momentum=0.25, eps=0)
    np.testing.assert_allclose(y, [[1.0], [3.0]], rtol=1e-15)  # 2·(∓1/2 + 1/2) + 1
    np.testing.assert_allclose((mean[0], var[0]), (3.5, 14.0), rtol=1e-15)  # 16·3/4 + 8/4: unbiased
    dx, dweight, dbias = nk.batch_renorm_backward(np.array([[3.0], [1.0]]), cache)
    np.testing.assert_allclose(dx, [[0.0], [0.0]], atol=1e-15)  # two values: x̂ = ∓1 whatever x
    np.testing.assert_allclose((dweight[0], dbias[0]), (0.5 * -2 + 0.5 * 4, 4.0), rtol=1e-15)


def test_adaptive_instance_norm_by_hand():
    """Content ∓1 after normalization; style of mean 4 and sigma 2 (ddof 0), sqrt(8) (ddof 1)."""
    content, style = np.array([[[1.0, 3.0]]]), np.array([[[2.0, 6.0]]])
    y, cache = nk.adaptive_instance_norm(content, style, eps=0.0)
    np.testing.assert_allclose(y, [[[2.0, 6.0]]], rtol=1e-15)
    dcontent, dstyle = nk.adaptive_instance_norm_backward(np.array([[[1.0, 0.0]]]), cache)
    np.testing.assert_allclose(dcontent, [[[0.0, 0.0]]], atol=1e-15)
    np.testing.assert_allclose(dstyle, [[[1.0, 0.0]]], atol=1e-15)  # 1/2 -1·∓2/(2·2)
    y, _ = nk.adaptive_instance_norm(content, style, eps=0.0, ddof=1)
    np.testing.assert_allclose(y, [[[2.0, 6.0]]], rtol=1e-15)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", [0, 0, 0.5, 2]),
        ("leaky_relu", [-0.2, -0.05, 0.5, 2]),
        ("silu", [-2 / (1 + math.e**2), -0.5 / (1 + math.e**0.5), 0.5 / (1 + math.e**-0.5), 2 / (1 + math.e**-2)]),
    ],
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_activations_by_hand_after_the_residual(dtype, activation, expected):
    """x̂ = x by these statistics; z = x + residual."""
    x = np.array([[-1], [-1], [1], [1]], dtype)
    residual = np.array([[-1], [0.5], [-0.5], [1]], dtype)
    how = {"activation": activation, "residual": residual, "eps": 0.0}
    for y in (
        nk.batch_norm(x, **how)[0],
        nk.batch_norm(x, None, None, np.zeros(1), np.ones(1), training=False, **how)[0],
        nk.batch_norm_inference(x, np.zeros(1), np.ones(1), **how),
        nk.group_norm(np.moveaxis(x, 0, 1).reshape(1, 1, 4), 1, **how | {"residual": residual.reshape(1, 1, 4)})[0],
    ):
        np.testing.assert_allclose(y.ravel(), expected, rtol=8 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [F32, F64, np.float16, ml_dtypes.bfloat16])
def test_silu_of_very_large_and_very_small_numbers(dtype):
    """exp(-z) overflows and underflows; the function does not: 0 on the left, z on the right, its slope 0 and 1.

    On the left as near to 0 as the contract says of any y; on the right exactly.
    """
    z = np.array([-3e4, -1000, -200, 200, 1000, 3e4]).astype(dtype)[:, None]
    y = nk.batch_norm_inference(z, np.zeros(1), np.ones(1), eps=0.0, activation="silu")
    within_contract(y[:3], np.zeros((3, 1)))
    assert (y[3:] == z[3:]).all()
    _, cache = nk.batch_norm(z, None, None, np.zeros(1), np.ones(1), training=False, eps=0.0, activation="silu")
    dx = nk.batch_norm_backward(np.ones_like(z), cache).dx
    within_contract(dx[:3], np.zeros((3, 1)))
    assert (dx[3:] == 1).all()


@pytest.mark.parametrize("dtype", [F32, F64])
def test_batch_norm_of_1_4_1_without_eps(dtype):
    y, _ = nk.batch_norm(np.array([[1], [4], [1]], dtype), eps=0)
    expected = np.array([-0.5, 1, -0.5]) * math.sqrt(2)
    np.testing.assert_allclose(y[:, 0], expected, rtol=2 * np.finfo(dtype).eps)


def test_negative_running_var_is_refused_where_it_normalizes():
    x, mean, var = np.eye(3), np.zeros(3), np.array([1.0, -1e-9, 1.0])
    with pytest.raises(ValueError, match=r"^batch_norm: `running_var` "):
        nk.batch_norm(x, running_mean=mean, running_var=var, training=False)
    with pytest.raises(ValueError, match=r"^batch_norm_inference: `var` "):
        nk.batch_norm_inference(x, mean, var)
    nk.batch_norm(x, running_mean=mean, running_var=var)  # it only moves here


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 7, 7), (2, 4, 300), (2, 32, 5, 5)], ids=str)
@pytest.mark.parametrize("layout", ["c_order", "channels_last"])
def test_nan_and_infinity_stay_in_their_channel_or_group(layout, shape, bad):
    i = values(shape, np.dtype(F32))
    clean = lay_out(i, layout)
    x = i.x.copy()
    x[(1, 2, *(0 for _ in shape[2:]))] = bad
    dirty = lay_out(checks.plain(x, i.dy), layout)
    axis, half = clean.axis, shape[1] // 2
    group = slice(2 // half * half, (2 // half + 1) * half)
    sample = tuple(a for a in range(len(shape)) if a != 0)
    last = len(shape) - 2 if axis == -1 and len(shape) > 2 else len(shape) - 1  # where the last spatial axis lies
    row = (1, 2, *(0 for _ in shape[3:]), slice(None)) if len(shape) > 2 else (1, slice(None))
    for spoiled, name, function in (
        (np.s_[:, 2], "batch_norm", lambda x: nk.batch_norm(x, axis=axis)),
        (np.s_[:, 2], "batch_norm", lambda x: nk.batch_norm(x, axis=axis, activation="relu", residual=clean.dy)),
        (np.s_[:, 2], "batch_norm", lambda x: nk.batch_norm(x, axis=axis, activation="leaky_relu")),
        (np.s_[:, 2], "batch_norm", lambda x: nk.batch_norm(x, axis=axis, activation="silu")),
        (np.s_[1, group], "group_norm", lambda x: nk.group_norm(x, 2, axis=axis)),
        (np.s_[1, group], "group_norm", lambda x: nk.group_norm(x, 2, axis=axis, activation="relu")),
        (np.s_[1, 2], "instance_norm", lambda x: nk.instance_norm(x, axis=axis)),
        (np.s_[1], "layer_norm", lambda x: nk.layer_norm(x, axis=sample)),
        (np.s_[1], "rms_norm", lambda x: nk.rms_norm(x, axis=sample)),
        (row, "layer_norm", lambda x: nk.layer_norm(x, axis=last)),
        (row, "rms_norm", lambda x: nk.rms_norm(x, axis=last)),
    ):
        if "rms" in name and not math.isnan(bad):
            continue  # 1/inf = 0: the others are 0, not NaN
        expected, (y, cache) = function(clean.x)[0], function(dirty.x)
        dx = getattr(nk, f"{name}_backward")(clean.dy, cache).dx
        inside = np.zeros(shape, bool)
        inside[spoiled] = True
        y, expected, dx = (np.moveaxis(a, axis, 1) for a in (y, expected, dx))
        assert np.isnan(y[1, 2]).any()
        assert np.isfinite(dx[~inside]).all()
        assert checks.same_bits(y[~inside], expected[~inside])
        if math.isnan(bad):
            assert np.isnan(y[inside]).all()
            assert np.isnan(dx[inside]).all()
