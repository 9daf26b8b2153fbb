"""Rows of USERS.md about training: conventions, batches of one and none, frozen statistics, padding, shards."""

import math
from dataclasses import replace

import numpy as np
import pytest

import checks
import normkit as nk
from cases import BY_NAME

F32 = np.float32


def test_row_06_momentum_is_the_share_of_the_new_batch():
    mean, var = np.zeros(1), np.ones(1)
    nk.batch_norm(np.array([[9.0], [11.0]]), running_mean=mean, running_var=var, momentum=0.1)
    np.testing.assert_allclose(mean, [1.0], rtol=1e-15)
    mean, var = np.zeros(1), np.ones(1)
    nk.batch_renorm(np.array([[9.0], [11.0]]), mean, var, momentum=0.1)
    np.testing.assert_allclose((mean[0], var[0]), (1.0, 1.1), rtol=1e-15)


@pytest.mark.parametrize("layer", [nk.BatchNorm, nk.BatchRenorm, nk.InstanceNorm])
def test_row_06_momentum_of_the_layers(layer):
    kw = {"track_running_stats": True} if layer is nk.InstanceNorm else {}
    layer = layer(1, momentum=0.25, dtype=np.float64, **kw)
    layer(np.array([[[9.0, 11.0]]]))
    np.testing.assert_allclose(layer.running_mean, [2.5], rtol=1e-15)
    np.testing.assert_allclose(layer.running_var, [0.75 + 0.25 * 2], rtol=1e-15)


@pytest.mark.parametrize(("ddof", "expected"), [(0, 1.0), (1, 2.0)])
def test_row_07_running_variance_biased_or_unbiased(ddof, expected):
    mean, var = np.zeros(1), np.zeros(1)
    x = np.array([[9.0], [11.0]])
    y, _ = nk.batch_norm(x, running_mean=mean, running_var=var, momentum=1.0, running_var_ddof=ddof, eps=0.0)
    np.testing.assert_allclose(var, [expected], rtol=1e-15)
    assert y.ravel().tolist() == [-1.0, 1.0]  # normalized by the biased one, always
    mean, var = np.zeros(1), np.zeros(1)
    nk.batch_renorm(x, mean, var, momentum=1.0, running_var_ddof=ddof)
    np.testing.assert_allclose(var, [expected], rtol=1e-15)


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
