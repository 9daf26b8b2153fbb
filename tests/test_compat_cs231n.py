"""The course's notebooks (assignment 2), replayed on `normkit.compat.cs231n`, and what they do not look at.

Expected ranges of gradient errors are those that the notebooks print beside each check.
"""

import numpy as np
import pytest

import checks
from normkit.compat import cs231n
from normkit.compat.cs231n import (
    batchnorm_backward,
    batchnorm_backward_alt,
    batchnorm_forward,
    layernorm_backward,
    layernorm_forward,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
    spatial_groupnorm_backward,
    spatial_groupnorm_forward,
)
from tolerance import assert_within

EPS = np.finfo(np.float64).eps


def numeric_gradient(f, x, dout, h=1e-5):
    """Central differences, changing x in place and back, as the course does."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        old = x[index]
        x[index] = old + h
        above = f().copy()
        x[index] = old - h
        below = f().copy()
        x[index] = old
        gradient[index] = np.sum((above - below) * dout) / (2 * h)
    return gradient


def relative_error(a, b):
    assert a.shape == b.shape
    return np.max(np.abs(a - b) / np.maximum(1e-8, np.abs(a) + np.abs(b)))


def assert_gradients(forward, backward, x, parameters, dout, at_most):
    gamma, beta = parameters
    numeric = [numeric_gradient(lambda: forward(x, gamma, beta)[0], a, dout) for a in (x, gamma, beta)]
    _, cache = forward(x, gamma, beta)
    for found, expected in zip(backward(dout, cache), numeric, strict=True):
        assert relative_error(found, expected) <= at_most


def hidden(rng, n, d1=50, d2=60, d3=3):
    """The notebook's activations: a two-layer network on random data."""
    w1, w2 = rng.randn(d1, d2), rng.randn(d2, d3)
    return lambda: np.maximum(0, rng.randn(n, d1).dot(w1)).dot(w2)


def assert_normalized(out, gamma, beta, x, axes, eps=1e-5):
    """Means are beta, deviations gamma·sqrt(var / (var + eps)): each a sum in float64 of numbers below |gamma|·5."""
    shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
    scale = np.sqrt(x.var(axes) / (x.var(axes) + eps)).reshape(shape)
    tolerance = 100 * EPS * (np.abs(gamma).max() * 5 + np.abs(beta).max())
    np.testing.assert_allclose(out.mean(axes).reshape(shape), np.broadcast_to(beta, shape), rtol=0, atol=tolerance)
    np.testing.assert_allclose(out.std(axes).reshape(shape), np.abs(gamma * scale), rtol=0, atol=tolerance)


# --- BatchNormalization.ipynb ----------------------------------------------------------------------------------------


def test_batchnorm_means_and_deviations_in_training():
    a = hidden(np.random.RandomState(231), 200)()
    for gamma, beta in (
        (np.ones((3,)), np.zeros((3,))),
        (np.asarray([1.0, 2.0, 3.0]), np.asarray([11.0, 12.0, 13.0])),
    ):
        a_norm, _ = batchnorm_forward(a, gamma, beta, {"mode": "train"})
        assert_normalized(a_norm, gamma, beta, a, (0,))


def test_batchnorm_running_averages_at_test_time():
    batch = hidden(np.random.RandomState(231), 200)
    bn_param = {"mode": "train"}
    mean = var = np.zeros(3)
    for _ in range(50):
        a = batch()
        batchnorm_forward(a, np.ones(3), np.zeros(3), bn_param)
        mean, var = 0.9 * mean + 0.1 * a.mean(0), 0.9 * var + 0.1 * a.var(0)
    # 50 steps of three roundings, and the sums of 200 terms on both sides.
    assert_within(bn_param["running_var"], var, 1000 * EPS * var, "running_var")
    assert_within(bn_param["running_mean"], mean, 1000 * EPS * (np.abs(mean) + np.sqrt(var)), "running_mean")
    bn_param["mode"] = "test"
    a = batch()
    a_norm, _ = batchnorm_forward(a, np.ones(3), np.zeros(3), bn_param)
    expected = (a - mean) / np.sqrt(var + 1e-5)
    assert_within(a_norm, expected, 1e4 * EPS * np.maximum(1, np.abs(expected)), "a_norm")
    # "close to zero and one, but noisier": 200 samples, and the average of 50 steps lacks 0.9^50 = 0.5 %.
    assert (np.abs(a_norm.mean(0)) < 0.4).all()
    assert (np.abs(a_norm.std(0) - 1) < 0.25).all()


@pytest.mark.parametrize("backward", [batchnorm_backward, batchnorm_backward_alt])
def test_batchnorm_gradients(backward):
    rng = np.random.RandomState(231)
    x, gamma, beta, dout = 5 * rng.randn(4, 5) + 12, rng.randn(5), rng.randn(5), rng.randn(4, 5)
    bn_param = {"mode": "train"}
    assert_gradients(lambda *a: batchnorm_forward(*a, bn_param), backward, x, (gamma, beta), dout, at_most=1e-8)


def test_batchnorm_backward_and_alt_agree():
    rng = np.random.RandomState(231)
    x, gamma, beta, dout = 5 * rng.randn(100, 500) + 12, rng.randn(500), rng.randn(500), rng.randn(100, 500)
    _, cache = batchnorm_forward(x, gamma, beta, {"mode": "train"})
    for a, b in zip(batchnorm_backward(dout, cache), batchnorm_backward_alt(dout, cache), strict=True):
        assert checks.same_bits(a, b)


def test_layernorm_means_and_deviations():
    a = hidden(np.random.RandomState(231), 4)()
    for gamma, beta in ((np.ones(3), np.zeros(3)), (np.asarray([3.0, 3.0, 3.0]), np.asarray([5.0, 5.0, 5.0]))):
        a_norm, _ = layernorm_forward(a, gamma, beta, {"mode": "train"})  # the notebook passes a mode
        assert_normalized(a_norm, gamma[:1], beta[:1], a, (1,))


def test_layernorm_gradients():
    rng = np.random.RandomState(231)
    x, gamma, beta, dout = 5 * rng.randn(4, 5) + 12, rng.randn(5), rng.randn(5), rng.randn(4, 5)
    assert_gradients(lambda *a: layernorm_forward(*a, {}), layernorm_backward, x, (gamma, beta), dout, at_most=1e-8)


def test_layernorm_takes_integers_and_has_the_course_s_words():
    x = np.array([[1, 3], [10, 30]])
    out, cache = layernorm_forward(x, np.array([1, 2]), np.array([0, 1]), {"eps": 0.0})
    np.testing.assert_allclose(out, [[-1, 3], [-1, 3]], rtol=64 * EPS)
    assert layernorm_backward(x, cache)[0].dtype == np.float64
    for args, kind, message in (
        ((x, np.ones(3), np.ones(2), {}), ValueError, "`gamma` must have "),
        ((x, np.ones(2), np.ones(3), {}), ValueError, "`beta` must have "),
        ((x, np.ones(2), np.ones(2), {"eps": -1.0}), ValueError, r"`ln_param\['eps'\]` must be finite and >= 0"),
        ((x[0], np.ones(2), np.ones(2), {}), ValueError, r"`x` must have 2 axes, \(N, D\), found shape \(2,\)"),
        ((x, np.ones(2), np.ones(2), None), TypeError, "`ln_param` must be a dictionary"),
    ):
        with pytest.raises(kind, match=f"^layernorm_forward: {message}"):
            layernorm_forward(*args)
    with pytest.raises(ValueError, match=r"^layernorm_backward: `dout` must have the shape of x"):
        layernorm_backward(x[:1], cache)


# --- ConvolutionalNetworks.ipynb -------------------------------------------------------------------------------------


def test_spatial_batchnorm_means_and_deviations_with_integer_parameters():
    """The notebook's `np.asarray([3, 4, 5])` holds integers."""
    x = 4 * np.random.RandomState(231).randn(2, 3, 4, 5) + 10
    bn_param = {"mode": "train"}
    for gamma, beta in ((np.ones(3), np.zeros(3)), (np.asarray([3, 4, 5]), np.asarray([6, 7, 8]))):
        out, cache = spatial_batchnorm_forward(x, gamma, beta, bn_param)
        assert out.shape == x.shape
        assert_normalized(out, gamma.reshape(1, 3, 1, 1), beta.reshape(1, 3, 1, 1), x, (0, 2, 3))
    _, dgamma, dbeta = spatial_batchnorm_backward(np.ones_like(x), cache)
    assert dgamma.dtype == dbeta.dtype == np.float64
    np.testing.assert_allclose(dbeta, [40.0] * 3, rtol=64 * EPS)


def test_spatial_batchnorm_at_test_time():
    rng = np.random.RandomState(231)
    bn_param = {"mode": "train"}
    for _ in range(50):
        spatial_batchnorm_forward(2.3 * rng.randn(10, 4, 11, 12) + 13, np.ones(4), np.zeros(4), bn_param)
    bn_param["mode"] = "test"
    a_norm, _ = spatial_batchnorm_forward(2.3 * rng.randn(10, 4, 11, 12) + 13, np.ones(4), np.zeros(4), bn_param)
    # The average lacks 0.9^50 = 0.5 % of the mean, 13, which is 0.03 sigma; 1320 samples add 0.03 more.
    assert (np.abs(a_norm.mean((0, 2, 3))) < 0.15).all()
    assert (np.abs(a_norm.std((0, 2, 3)) - 1) < 0.1).all()


def test_spatial_batchnorm_gradients():
    rng = np.random.RandomState(231)
    x, gamma, beta, dout = 5 * rng.randn(2, 3, 4, 5) + 12, rng.randn(3), rng.randn(3), rng.randn(2, 3, 4, 5)
    bn_param = {"mode": "train"}
    assert_gradients(
        lambda *a: spatial_batchnorm_forward(*a, bn_param),
        spatial_batchnorm_backward,
        x,
        (gamma, beta),
        dout,
        at_most=1e-6,
    )


def test_spatial_groupnorm_means_and_deviations():
    n, c, h, w, groups = 2, 6, 4, 5, 2
    x = 4 * np.random.RandomState(231).randn(n, c, h, w) + 10
    gamma, beta = np.ones((1, c, 1, 1)), np.zeros((1, c, 1, 1))
    out, _ = spatial_groupnorm_forward(x, gamma, beta, groups, {"mode": "train"})  # the notebook passes bn_param here
    assert out.shape == x.shape
    x_g, out_g = x.reshape(n * groups, -1), out.reshape(n * groups, -1)
    assert_normalized(out_g, np.ones(1), np.zeros(1), x_g, (1,))


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (6,)], ids=str)
def test_spatial_groupnorm_gradients(shape):
    rng = np.random.RandomState(231)
    x = 5 * rng.randn(2, 6, 4, 5) + 12
    gamma, beta, dout = rng.randn(*shape), rng.randn(*shape), rng.randn(2, 6, 4, 5)
    assert_gradients(
        lambda *a: spatial_groupnorm_forward(*a, 2, {}),
        spatial_groupnorm_backward,
        x,
        (gamma, beta),
        dout,
        at_most=1e-7,
    )


# --- bn_param --------------------------------------------------------------------------------------------------------


def test_momentum_is_the_share_of_the_old():
    """Row 6 of USERS.md: cs231n#180."""
    x = np.array([[9.0], [11.0]])
    old_mean, old_var = np.array([1.0]), np.array([4.0])
    bn_param = {"mode": "train", "momentum": 0.75, "running_mean": old_mean, "running_var": old_var}
    batchnorm_forward(x, np.ones(1), np.zeros(1), bn_param)
    np.testing.assert_allclose(bn_param["running_mean"], [0.75 * 1 + 0.25 * 10], rtol=8 * EPS)
    np.testing.assert_allclose(bn_param["running_var"], [0.75 * 4 + 0.25 * 1], rtol=8 * EPS)  # biased
    assert (old_mean[0], old_var[0]) == (1.0, 4.0)  # replaced, as the course's code does, not overwritten


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_test_mode_starts_from_zeros(dtype):
    bn_param = {"mode": "test", "eps": 0.25}
    x = np.array([[1.0, 2.0]], dtype)
    out, _ = batchnorm_forward(x, np.ones(2), np.zeros(2), bn_param)
    np.testing.assert_allclose(out, 2 * x, rtol=4 * np.finfo(dtype).eps)
    assert out.dtype == bn_param["running_mean"].dtype == bn_param["running_var"].dtype == dtype
    assert (bn_param["running_mean"] == 0).all()
    assert (bn_param["running_var"] == 0).all()


def test_backward_after_test_mode_takes_the_statistics_as_constants():
    bn_param = {"mode": "test", "eps": 0.0, "running_mean": np.array([3.0]), "running_var": np.array([4.0])}
    _, cache = batchnorm_forward(np.array([[5.0], [7.0]]), np.array([3.0]), np.zeros(1), bn_param)
    dx, dgamma, dbeta = batchnorm_backward(np.ones((2, 1)), cache)
    np.testing.assert_allclose(dx, [[1.5], [1.5]], rtol=4 * EPS)
    np.testing.assert_allclose(dgamma, [3.0], rtol=4 * EPS)
    assert dbeta.tolist() == [2.0]


def test_integers_are_floats():
    """As NumPy's own arithmetic would have it."""
    x = np.array([[1, 2], [3, 6]])
    bn_param = {"mode": "train"}
    out, cache = batchnorm_forward(x, np.array([1, 2]), np.array([0, 1]), bn_param)
    expected, _ = batchnorm_forward(x.astype(float), np.array([1.0, 2]), np.array([0.0, 1]), {"mode": "train"})
    assert checks.same_bits(out, expected)
    assert bn_param["running_mean"].dtype == np.float64
    assert batchnorm_backward(np.ones_like(x), cache)[0].dtype == np.float64


def test_a_float32_network_stays_float32():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 5, 5)).astype(np.float32)
    gamma, beta = np.ones(3, np.float32), np.zeros(3, np.float32)
    bn_param = {"mode": "train"}
    out, cache = spatial_batchnorm_forward(x, gamma, beta, bn_param)
    arrays = (out, *spatial_batchnorm_backward(out, cache), bn_param["running_mean"], bn_param["running_var"])
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}


# --- errors ----------------------------------------------------------------------------------------------------------

ONES, TRAIN = np.ones(3), {"mode": "train"}
MOMENTUM, RUNNING = r"`bn_param\['momentum'\]`", r"`bn_param\['running_(mean|var)'\]`"
BAD = {
    "mode": ({"mode": "eval"}, {}, ValueError, r"`bn_param\['mode'\]` must be 'train' or 'test', found 'eval'"),
    "no mode": ({}, {}, ValueError, r"`bn_param\['mode'\]` must be 'train' or 'test', found None"),
    "momentum": (TRAIN | {"momentum": 1.5}, {}, ValueError, MOMENTUM + " must be from 0 to 1, found 1.5"),
    "momentum's type": (TRAIN | {"momentum": "0.9"}, {}, TypeError, MOMENTUM + " must be a number, found '0.9'"),
    "eps": (TRAIN | {"eps": -1.0}, {}, ValueError, r"`bn_param\['eps'\]` must be finite and >= 0, found -1"),
    "running": (TRAIN | {"running_mean": np.ones(2)}, {}, ValueError, RUNNING + r" must have 3 elements .* \(2,\)"),
    "running's type": ({"mode": "test", "running_var": [1]}, {}, TypeError, RUNNING + " must be a NumPy array"),
    "gamma": (TRAIN, {"gamma": np.ones(2)}, ValueError, r"`gamma` must have 3 elements .* found shape \(2,\)"),
    "beta": (TRAIN, {"beta": np.ones(4)}, ValueError, r"`beta` must have 3 elements .* found shape \(4,\)"),
    "axes": (TRAIN, {"x": np.ones((2, 3, 4, 4))}, ValueError, r"`x` must have 2 axes, \(N, D\), found shape \(2, 3"),
    "x's type": (TRAIN, {"x": [[1.0]]}, TypeError, "`x` must be a NumPy array, found list"),
    "one sample": (TRAIN, {"x": np.ones((1, 3))}, ValueError, "`x` must have more than one value per channel in"),
    "no dictionary": (None, {}, TypeError, "`bn_param` must be a dictionary, found NoneType"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_are_in_the_course_s_words_and_change_nothing(case):
    bn_param, arrays, kind, message = BAD[case]
    arrays = {"x": np.arange(12.0).reshape(4, 3), "gamma": ONES, "beta": ONES} | arrays
    before = None if bn_param is None else {k: np.array(v) for k, v in bn_param.items()}
    with pytest.raises(kind, match=rf"^batchnorm_forward: {message}"):
        batchnorm_forward(**arrays, bn_param=bn_param)
    if bn_param is not None:
        assert bn_param.keys() == before.keys()
        assert all(np.array_equal(bn_param[k], v) for k, v in before.items())


def test_errors_of_backward_and_groups():
    x = np.arange(48.0).reshape(2, 6, 2, 2)
    _, batch = spatial_batchnorm_forward(x, np.ones(6), np.ones(6), {"mode": "train"})
    with pytest.raises(ValueError, match=r"^spatial_batchnorm_backward: `dout` must have the shape of x, "):
        spatial_batchnorm_backward(x[:1], batch)
    with pytest.raises(TypeError, match=r"^spatial_groupnorm_backward: `cache` must be the cache of spatial_gro"):
        spatial_groupnorm_backward(x, batch)
    with pytest.raises(TypeError, match=r"^batchnorm_backward_alt: `cache` must be .*, found tuple$"):
        batchnorm_backward_alt(x, (1, 2))
    with pytest.raises(ValueError, match=r"^spatial_groupnorm_forward: `G` must be .* divide 6 .* found 4$"):
        spatial_groupnorm_forward(x, np.ones(6), np.ones(6), 4, {})
    with pytest.raises(ValueError, match=r"^spatial_groupnorm_forward: `gn_param\['eps'\]` must be finite "):
        spatial_groupnorm_forward(x, np.ones(6), np.ones(6), 2, {"eps": -1.0})


def test_star_import_brings_the_course_s_names_and_no_others():
    names: dict[str, object] = {}
    exec("from normkit.compat.cs231n import *", names)
    assert {name for name in names if not name.startswith("__")} == set(cs231n.__all__)
    assert all("norm_" in name for name in cs231n.__all__)
