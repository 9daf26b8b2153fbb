"""Precise statistics: those of all values that reached a layer, whatever the batches; all or nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import checks
import normkit as nk
import reference
import tolerance
from cases import DTYPES
from tolerance import assert_within


def pieces(x, sizes):
    return np.split(x, np.cumsum(sizes)[:-1])


@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=5),
    st.sampled_from(DTYPES),
    st.sampled_from((1, -1)),
    st.sampled_from((0, 1)),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_whole(sizes, dtype, axis, ddof, seed):
    """Uneven batches, either layout. A merge adds a few roundings in float64, as in test_moments.py."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((sum(sizes), 3, 5)) * 2 + 100).astype(dtype)
    x = np.ascontiguousarray(np.moveaxis(x, 1, axis))
    layer = nk.BatchNorm(3, axis=axis, running_var_ddof=ddof, dtype=np.float64)
    (of,) = nk.precise_statistics([layer], layer, iter(pieces(x, sizes)))
    mean, m2 = reference.moments(np.moveaxis(x, axis, 1), (0, 2))
    n, eps = tolerance.STATISTIC[dtype.itemsize], tolerance.eps_of(dtype)
    error = n * tolerance.ulp(np.abs(mean), dtype)
    sigma = np.sqrt(m2 / of.count)
    within = n * eps * m2 + 2 * of.count * (sigma + error) * error
    assert of.count == 5 * len(x)
    assert_within(of.mean, mean, error, "mean")
    assert_within(of.m2, m2, within, "m2")
    assert checks.same_bits(layer.running_mean, of.mean)
    assert checks.same_bits(layer.running_var, of.var(ddof))


def test_one_batch_is_one_step_with_momentum_1():
    x = np.random.default_rng(0).normal(3, 2, (8, 4, 5)).astype(np.float32)
    precise, moving = nk.BatchNorm(4), nk.BatchNorm(4, momentum=1.0)
    nk.precise_statistics([precise], precise, [x])
    moving(x)
    for name in ("running_mean", "running_var"):
        # The same statistics; the unbiased variance is m2 / (n - 1) here and var·(n / (n - 1)) there, then rounded.
        np.testing.assert_allclose(getattr(precise, name), getattr(moving, name), rtol=np.finfo(np.float32).eps)


def test_variance_between_batches_counts():
    """Batches that differ in nothing but their means: the mean of the batches' variances would be 0.25."""
    layer = nk.BatchNorm(1, running_var_ddof=0)
    nk.precise_statistics([layer], layer, [np.array([[m], [m + 1]], np.float32) for m in (0, 10)])
    assert layer.running_mean.tolist() == [5.5]
    assert layer.running_var.tolist() == [25.25]


@pytest.mark.parametrize("axis", [1, -1])
def test_masked_values_do_not_count(axis):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(2, 3, (2, 6, 4, 5)), rng.random((2, 6, 1)) < 0.6  # two batches (N, S, C), (N, 1)
    x[~np.broadcast_to(mask, (2, 6, 4))] = np.nan
    layer = nk.BatchNorm(5, axis=axis, dtype=np.float64)
    nk.precise_statistics([layer], lambda b: layer(np.moveaxis(x[b], -1, axis), mask=mask[b]), range(len(x)))
    values = x[np.broadcast_to(mask, (2, 6, 4))]
    np.testing.assert_allclose(layer.running_mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, values.var(0, ddof=1), rtol=1e-13)


class Network:
    """Two batch norms with something between; the second is used twice."""

    def __init__(self):
        self.first, self.second = nk.BatchNorm(3, dtype=np.float64), nk.BatchNorm(3, dtype=np.float64)
        self.layers = [self.first, self.second]

    def __call__(self, x):
        return self.second(self.second(np.maximum(self.first(x), 0)) * 3)


def test_layers_normalize_by_the_batch_meanwhile_and_see_all_their_inputs():
    network = Network()
    batches = np.random.default_rng(0).normal(2, 3, (4, 10, 3))
    population = nk.precise_statistics(network.layers, network, batches)
    seen = []
    for batch in batches:
        hidden = np.maximum(nk.batch_norm(batch)[0], 0)
        seen += [hidden, nk.batch_norm(hidden)[0] * 3]
    for layer, of, inputs in zip(
        network.layers, population, (np.concatenate(batches), np.concatenate(seen)), strict=True
    ):
        assert of.count == len(inputs)
        np.testing.assert_allclose(layer.running_mean, inputs.mean(0), rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(layer.running_var, inputs.var(0, ddof=1), rtol=1e-13)


def test_layer_named_twice_and_update_false():
    layer = nk.BatchNorm(3)
    before = layer.state_dict()
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    first, second = nk.precise_statistics([layer, layer], layer, [x], update=False)
    assert first is second
    assert first.count == 5
    assert all(checks.same_bits(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_leaves_everything_else(training):
    """Also the arrays themselves: an optimizer or a checkpoint may hold on to them."""
    layer = nk.BatchNorm(3).train(training)
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    layer(x)
    before = dict(vars(layer))
    tracked = int(layer.num_batches_tracked)
    nk.precise_statistics([layer], layer, [x + 5])
    assert vars(layer).keys() == before.keys()
    assert all(vars(layer)[name] is value for name, value in before.items())
    assert layer.training is training
    assert layer.num_batches_tracked == tracked
    layer.backward(x)


class StoppedError(Exception):
    pass


def test_all_or_nothing():
    network = Network()
    batches = np.random.default_rng(0).normal(2, 3, (4, 10, 3))
    before = [(dict(vars(layer)), layer.state_dict()) for layer in network.layers]

    def interrupted():
        yield batches[0]
        raise StoppedError

    def unused(x):
        network.first(x)

    for forward, data, error in (
        (network, interrupted(), StoppedError),
        (network, [batches[0], batches[1, :, :2]], ValueError),  # two channels
        (network, [batches[0], batches[1].astype(int)], TypeError),
        (network, [], ValueError),
        (network, [batches[0, :0]], ValueError),  # no values
        (unused, batches, ValueError),
    ):
        with pytest.raises(error):
            nk.precise_statistics(network.layers, forward, data)
        for layer, (attributes, state) in zip(network.layers, before, strict=True):
            assert vars(layer).keys() == attributes.keys()
            assert all(vars(layer)[name] is value for name, value in attributes.items())
            assert all(checks.same_bits(value, state[name]) for name, value in layer.state_dict().items())


def test_bad_layers():
    x = np.eye(3)
    read_only = nk.BatchNorm(3)
    read_only.running_var.flags.writeable = False
    for layers, error, text in (
        ([], ValueError, "at least one layer, found none"),
        ([nk.GroupNorm(1, 3)], TypeError, r"must be BatchNorm layers, found GroupNorm"),
        ([nk.BatchNorm(3, track_running_stats=False)], ValueError, "must have running statistics"),
        ([nk.BatchNorm(3), read_only], ValueError, "writeable"),
    ):
        with pytest.raises(error, match=rf"^precise_statistics: `layers` .*{text}"):
            nk.precise_statistics(layers, lambda x: None, [x])
