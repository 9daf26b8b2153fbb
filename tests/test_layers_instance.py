"""InstanceNorm and AdaptiveInstanceNorm: the functions behind the layers, and running statistics of instances."""

import copy
import pickle

import numpy as np
import pytest

import checks
import normkit as nk
from layer_cases import data, randomize
from test_gradients import TOLERANCE, numerical


@pytest.mark.parametrize("track_running_stats", [False, True])
def test_is_the_function(track_running_stats):
    layer = randomize(nk.InstanceNorm(6, eps=1e-3, track_running_stats=track_running_stats))
    x, dy = data()
    y, cache = nk.instance_norm(x, layer.weight, layer.bias, eps=1e-3)
    expected = nk.instance_norm_backward(dy, cache)
    assert checks.same_bits(layer(x), y)
    assert checks.same_bits(layer.backward(dy), expected.dx)
    assert checks.same_bits(layer.grads["weight"], expected.dweight)
    assert checks.same_bits(layer.grads["bias"], expected.dbias)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("momentum", [None, 0.25])
def test_running_statistics_move_by_the_average_over_samples(momentum, ddof):
    """float64: the variance comes back from rstd, a few roundings."""
    layer = nk.InstanceNorm(6, momentum=momentum, track_running_stats=True, running_var_ddof=ddof, dtype=np.float64)
    mean, var = np.zeros(6), np.ones(6)
    for step in range(3):
        x, _ = data(np.float64, seed=step)
        layer(x)
        share = 1 / (step + 1) if momentum is None else momentum
        mean = (1 - share) * mean + share * x.mean((2, 3)).mean(0)
        var = (1 - share) * var + share * x.var((2, 3), ddof=ddof).mean(0)
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(layer.running_var, var, rtol=1e-13)
        assert int(layer.num_batches_tracked) == step + 1
    x, _ = data(np.float64, seed=9)
    expected = nk.batch_norm_inference(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    np.testing.assert_allclose(layer.eval()(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("eps", [0.0, 0.25])
def test_running_statistics_of_a_constant(eps):
    layer = nk.InstanceNorm(2, eps=eps, momentum=1.0, track_running_stats=True)
    layer(np.full((3, 2, 4), 7, np.float32))
    assert layer.running_mean.tolist() == [7, 7]
    assert layer.running_var.tolist() == [0, 0]


@pytest.mark.parametrize("axis", [1, -1])
def test_one_position_has_no_unbiased_variance(axis):
    layer = nk.InstanceNorm(3, track_running_stats=True, axis=axis)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"^InstanceNorm: `x` must have more than one position"):
        layer(np.ones((3, 3, 1) if axis == 1 else (3, 1, 3), np.float32))
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, before[name])


def test_an_empty_batch_moves_nothing():
    layer = nk.InstanceNorm(3, track_running_stats=True)
    before = layer.state_dict()
    assert layer(np.empty((0, 3, 1), np.float32)).shape == (0, 3, 1)
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, before[name])


# --- adaptive --------------------------------------------------------------------------------------------------------


def content_and_style(dtype=np.float64):
    content, dy = data(dtype)
    return content, data(dtype, seed=3)[0][:, :, :4], dy


def test_adaptive_is_the_function_in_both_modes():
    layer = nk.AdaptiveInstanceNorm(eps=1e-3, ddof=1)
    content, style, dy = content_and_style(np.float32)
    y, cache = nk.adaptive_instance_norm(content, style, eps=1e-3, ddof=1)
    expected = nk.adaptive_instance_norm_backward(dy, cache)
    for mode in (True, False):
        layer.train(mode)
        out = np.empty_like(content)
        assert layer(content, style, out=out) is out
        assert checks.same_bits(out, y)
        dcontent, dstyle = layer.backward(dy)
        assert checks.same_bits(dcontent, expected.dcontent)
        assert checks.same_bits(dstyle, expected.dstyle)


@pytest.mark.parametrize("ddof", [0, 1])
def test_adaptive_gradients_by_finite_differences(ddof):
    layer = nk.AdaptiveInstanceNorm(ddof=ddof)
    content, style, dy = (a[:2, :2].copy() for a in content_and_style())
    layer(content, style)
    found = layer.backward(dy)
    for gradient, value in zip(found, (content, style), strict=True):
        expected = numerical(lambda: float((dy * layer(content, style)).sum()), value)
        np.testing.assert_allclose(gradient, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_adaptive_takes_the_statistics_of_style():
    """float64, averages of 12 values: a few roundings."""
    content, style, _ = content_and_style()
    y = nk.AdaptiveInstanceNorm(eps=0.0)(content, style)
    np.testing.assert_allclose(y.mean((2, 3)), style.mean((2, 3)), rtol=0, atol=1e-13)
    np.testing.assert_allclose(y.std((2, 3)), style.std((2, 3)), rtol=1e-13)


def test_adaptive_has_nothing_to_optimize_or_to_save():
    layer = nk.AdaptiveInstanceNorm()
    assert layer.params == layer.grads == layer.state_dict() == {}
    layer.zero_grad()
    layer.load_state_dict({})
    with pytest.raises(ValueError, match=r"^AdaptiveInstanceNorm: `state` does not fit: `weight` is unexpected"):
        layer.load_state_dict({"weight": np.ones(6)})
    assert repr(layer) == "AdaptiveInstanceNorm(eps=1e-05, ddof=0, axis=1)"


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_adaptive_copies(again):
    layer = nk.AdaptiveInstanceNorm(ddof=1)
    content, style, dy = content_and_style()
    y = layer(content, style)
    twin = again(layer)
    with pytest.raises(RuntimeError, match=r"^AdaptiveInstanceNorm: `backward`"):
        twin.backward(dy)
    assert checks.same_bits(twin(content, style), y)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"eps": -1.0}, ValueError), ({"ddof": 2}, ValueError), ({"ddof": "1"}, TypeError), ({"axis": None}, TypeError)],
    ids=str,
)
def test_adaptive_bad_constructor_arguments(arguments, error):
    (argument,) = arguments
    with pytest.raises(error, match=rf"^AdaptiveInstanceNorm: `{argument}` must"):
        nk.AdaptiveInstanceNorm(**arguments)
