"""BatchNorm: running statistics, the function behind the layer, folding."""

import numpy as np
import pytest

import checks
import normkit as nk
import reference
from layer_cases import data, randomize


def test_is_the_function():
    layer = randomize(nk.BatchNorm(6, eps=1e-3, momentum=0.3))
    mean, var = np.zeros(6, np.float32), np.ones(6, np.float32)
    for seed in range(3):
        x, dy = data(seed=seed)
        weight, bias = layer.params["weight"], layer.params["bias"]
        y, cache = nk.batch_norm(x, weight, bias, mean, var, momentum=0.3, eps=1e-3)
        assert checks.same_bits(layer(x), y)
        dx, dweight, dbias = nk.batch_norm_backward(dy, cache)
        assert checks.same_bits(layer.backward(dy), dx)
        assert checks.same_bits(layer.grads["weight"], dweight)
        assert checks.same_bits(layer.grads["bias"], dbias)
        assert checks.same_bits(layer.running_mean, mean)
        assert checks.same_bits(layer.running_var, var)
        assert int(layer.num_batches_tracked) == seed + 1


def test_eval_is_the_function_by_running_statistics():
    layer = randomize(nk.BatchNorm(6))
    layer(data()[0])
    layer.eval()
    x, dy = data(seed=5)
    expected, cache = nk.batch_norm(
        x, layer.params["weight"], layer.params["bias"], layer.running_mean, layer.running_var, training=False
    )
    assert checks.same_bits(layer(x), expected)
    assert checks.same_bits(layer.backward(dy), nk.batch_norm_backward(dy, cache).dx)


@pytest.mark.parametrize("ddof", [0, 1])
def test_momentum_none_is_the_cumulative_average(ddof):
    """The mean over batches of their means and variances; float64, a few roundings."""
    layer = nk.BatchNorm(6, momentum=None, dtype=np.float64, running_var_ddof=ddof)
    means, variances = [], []
    for seed in range(4):
        x, _ = data(np.float64, seed)
        layer(x)
        means.append(x.mean((0, 2, 3)))
        variances.append(x.var((0, 2, 3), ddof=ddof))
        np.testing.assert_allclose(layer.running_mean, np.mean(means, 0), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(layer.running_var, np.mean(variances, 0), rtol=1e-12)


def test_one_value_per_channel_is_an_error_and_moves_nothing():
    layer = nk.BatchNorm(6)
    before = layer.state_dict()
    with pytest.raises(ValueError, match="`x`"):
        layer(np.ones((1, 6), np.float32))
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, before[name])


def test_an_empty_batch_moves_nothing():
    layer = nk.BatchNorm(6, momentum=None)
    before = layer.state_dict()
    assert layer(np.empty((0, 6, 2), np.float32)).shape == (0, 6, 2)
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, before[name])


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_fold_into(groups, transposed, with_bias):
    """The folded convolution equals convolution, then the layer in eval; float64, sums of 12 products."""
    rng = np.random.default_rng(0)
    layer = randomize(nk.BatchNorm(6, dtype=np.float64, eps=1e-3))
    layer(data(np.float64)[0])
    w = rng.standard_normal((4, 6 // groups, 3) if transposed else (6, 4 // groups, 3))
    b = rng.standard_normal(6) if with_bias else None
    x = rng.standard_normal((2, 4, 8))
    how = {"groups": groups, "transposed": transposed}
    folded = layer.fold_into(w, b, **how)
    expected = layer.eval()(np.asarray(reference.convolve(x, w, b, **how), np.float64))
    found = reference.convolve(x, *folded, **how)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=1e-12)


def test_fold_into_needs_running_statistics():
    with pytest.raises(ValueError, match="fold_into"):
        nk.BatchNorm(6, track_running_stats=False).fold_into(np.ones((6, 4)))


@pytest.mark.parametrize(
    ("arguments", "error", "argument"),
    [
        ({"num_features": 0}, ValueError, "num_features"),
        ({"num_features": "6"}, TypeError, "num_features"),
        ({"momentum": float("nan")}, ValueError, "momentum"),
        ({"momentum": 1.5}, ValueError, "momentum"),
        ({"momentum": "slow"}, TypeError, "momentum"),
        ({"running_var_ddof": 2}, ValueError, "running_var_ddof"),
        ({"running_var_ddof": 0.5}, TypeError, "running_var_ddof"),
    ],
    ids=str,
)
@pytest.mark.parametrize("layer", [nk.BatchNorm, nk.InstanceNorm, nk.BatchRenorm])
def test_bad_constructor_arguments(layer, arguments, error, argument):
    with pytest.raises(error, match=rf"^{layer.__name__}: `{argument}` must"):
        layer(**{"num_features": 6, **arguments})


def test_a_count_that_became_a_scalar_goes_on():
    """NumPy makes a scalar of a 0-d array plus 1: the next batch is counted, not refused when statistics have moved."""
    layer = nk.BatchNorm(3)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    layer(x)
    layer.num_batches_tracked = layer.num_batches_tracked + 1
    layer(x)
    assert layer.num_batches_tracked == 3
    assert isinstance(layer.num_batches_tracked, np.ndarray)
    assert layer.state_dict()["num_batches_tracked"] == 3


def test_the_largest_count_stays():
    layer = nk.BatchNorm(3, momentum=None)
    most = np.iinfo(np.int64).max
    layer.load_state_dict(layer.state_dict() | {"num_batches_tracked": np.array(most)})
    mean = layer.running_mean.copy()
    layer(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    assert layer.num_batches_tracked == most
    np.testing.assert_allclose(layer.running_mean, mean, atol=1e-15)  # its share is as small as can be
