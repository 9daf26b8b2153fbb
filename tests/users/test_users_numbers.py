"""The numeric cases of USERS.md that must hold, and others that can be done by hand."""

import math

import ml_dtypes
import numpy as np
import pytest

import normkit as nk
import reference
import tolerance
from cases import values
from checks import within_contract
from tolerance import assert_within

F32, F64 = np.float32, np.float64


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
