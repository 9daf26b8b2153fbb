"""Layers: parameters, gradients, modes, state; their arithmetic is that of the functions."""

import copy
import pickle

import numpy as np
import pytest

import checks
import normkit as nk
import reference
from cases import DTYPES, values

LAYERS = {
    "BatchNorm": lambda **kw: nk.BatchNorm(6, **kw),
    "GroupNorm": lambda **kw: nk.GroupNorm(3, 6, **kw),
}


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


def data(dtype=np.float32, seed=0):
    i = values((4, 6, 5, 3), np.dtype(dtype), seed=seed)
    return i.x, i.dy


def randomize(layer, seed=1):
    rng = np.random.default_rng(seed)
    for p in layer.params.values():
        p[...] = rng.uniform(0.5, 2, p.shape)
    return layer


def test_starts_as_the_identity_affine(make):
    layer = make()
    assert set(layer.params) == set(layer.grads) == {"weight", "bias"}
    assert (layer.params["weight"] == 1).all()
    assert (layer.params["bias"] == 0).all()
    assert all((g == 0).all() for g in layer.grads.values())
    assert layer.training is True


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_of_parameters_and_state(make, dtype):
    layer = make(dtype=dtype)
    arrays = {**layer.params, **layer.state_dict()}
    assert {a.dtype for name, a in arrays.items() if name != "num_batches_tracked"} == {dtype}
    x, _ = data(np.float32)
    assert layer(x).dtype == np.float32


def test_without_affine_there_is_nothing_to_optimize(make):
    layer = make(affine=False)
    x, dy = data()
    layer(x)
    assert layer.backward(dy).shape == x.shape
    assert layer.params == layer.grads == {}


def test_batch_norm_layer_is_the_function():
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


def test_group_norm_layer_is_the_function_in_both_modes():
    layer = randomize(nk.GroupNorm(3, 6, eps=1e-3))
    x, dy = data()
    y, cache = nk.group_norm(x, 3, layer.params["weight"], layer.params["bias"], eps=1e-3)
    expected = nk.group_norm_backward(dy, cache)
    for mode in (True, False):
        layer.train(mode)
        assert checks.same_bits(layer(x), y)
        assert checks.same_bits(layer.backward(dy), expected.dx)
        assert checks.same_bits(layer.grads["weight"], expected.dweight)


def test_channels_last(make):
    layer, last = randomize(make()), randomize(make(axis=-1))
    x, dy = data()
    moved = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    # Another order of summation: a handful of roundings, of float32 values below 10.
    np.testing.assert_allclose(np.moveaxis(last(moved), -1, 1), layer(x), rtol=0, atol=1e-5)
    dx = last.backward(np.ascontiguousarray(np.moveaxis(dy, 1, -1)))
    np.testing.assert_allclose(np.moveaxis(dx, -1, 1), layer.backward(dy), rtol=0, atol=1e-5)


def test_eval_uses_running_statistics_and_leaves_them():
    layer = randomize(nk.BatchNorm(6))
    layer(data()[0])
    layer.eval()
    assert layer.training is False
    state = layer.state_dict()
    x, dy = data(seed=5)
    y = layer(x)
    expected, cache = nk.batch_norm(
        x, layer.params["weight"], layer.params["bias"], layer.running_mean, layer.running_var, training=False
    )
    assert checks.same_bits(y, expected)
    assert checks.same_bits(layer.backward(dy), nk.batch_norm_backward(dy, cache).dx)
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, state[name])
    layer.train()
    assert layer.training is True


def test_frozen_backward_is_an_affine_map():
    layer = nk.BatchNorm(6, dtype=np.float64, eps=0.0).eval()
    layer.running_var[...] = 4.0
    layer.params["weight"][...] = 3.0
    x, dy = data(np.float64)
    layer(x)
    np.testing.assert_allclose(layer.backward(dy), 1.5 * dy, rtol=1e-15)


def test_without_running_statistics_both_modes_use_the_batch():
    layer = nk.BatchNorm(6, track_running_stats=False)
    x, dy = data()
    y, dx = layer(x), layer.backward(dy)
    layer.eval()
    assert checks.same_bits(layer(x), y)
    assert checks.same_bits(layer.backward(dy), dx)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_momentum_none_is_the_cumulative_average():
    """The mean over batches of their means and unbiased variances; float64, a few roundings."""
    layer = nk.BatchNorm(6, momentum=None, dtype=np.float64)
    means, variances = [], []
    for seed in range(4):
        x, _ = data(np.float64, seed)
        layer(x)
        means.append(x.mean((0, 2, 3)))
        variances.append(x.var((0, 2, 3), ddof=1))
        np.testing.assert_allclose(layer.running_mean, np.mean(means, 0), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(layer.running_var, np.mean(variances, 0), rtol=1e-12)


def test_gradients_overwrite_accumulate_and_reset_in_the_same_arrays(make):
    layer = randomize(make(dtype=np.float64))
    grads = dict(layer.grads)
    x, dy = data(np.float64)
    layer(x)
    layer.backward(dy)
    once = {name: g.copy() for name, g in layer.grads.items()}
    assert all((g != 0).any() for g in once.values())
    layer.backward(dy)
    for name, g in once.items():
        assert (layer.grads[name] == g).all()
    layer.backward(dy, accumulate=True)
    for name, g in once.items():
        assert (layer.grads[name] == 2 * g).all()
    layer.zero_grad()
    for name, g in grads.items():
        assert layer.grads[name] is g
        assert (g == 0).all()


def test_an_optimizer_may_hold_on_to_the_parameters(make):
    """What is done to `params` in place is what the next forward uses, also after loading a state."""
    layer = make()
    weight, bias = layer.params["weight"], layer.params["bias"]
    x, _ = data()
    layer.load_state_dict(randomize(make(), 7).state_dict())
    assert layer.params["weight"] is weight
    assert layer.params["bias"] is bias
    weight[...] = 0
    bias[...] = 5
    assert (layer(x) == 5).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_backward_before_forward(make, reverse):
    with pytest.raises((RuntimeError, ValueError), match=r"backward"):
        make().train(not reverse).backward(data()[1])


def test_state_dict_has_pytorch_names():
    assert set(nk.BatchNorm(3).state_dict()) == {
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    assert set(nk.GroupNorm(1, 3).state_dict()) == {"weight", "bias"}
    assert set(nk.BatchNorm(3, affine=False).state_dict()) == {"running_mean", "running_var", "num_batches_tracked"}


def test_state_survives_a_round_trip(make):
    layer = randomize(make())
    for seed in range(3):
        layer(data(seed=seed)[0])
    state = layer.state_dict()
    other = make()
    other.load_state_dict(state)
    x, _ = data(seed=9)
    assert checks.same_bits(other.eval()(x), layer.eval()(x))
    assert set(other.state_dict()) == set(state)
    for name, value in other.state_dict().items():
        assert checks.same_bits(value, state[name])


def test_a_state_is_loaded_by_value(make):
    layer, other = make(), make()
    state = randomize(other).state_dict()
    layer.load_state_dict(state)
    before = layer.params["weight"].copy()
    state["weight"][...] = -1
    other.params["weight"][...] = -1
    assert (layer.params["weight"] == before).all()


def test_a_state_of_another_float_dtype_is_converted(make):
    layer = make(dtype=np.float32)
    layer.load_state_dict(randomize(make(dtype=np.float64)).state_dict())
    assert layer.params["weight"].dtype == np.float32
    assert (layer.params["weight"] != 1).any()


def test_a_bad_state_lists_every_problem_and_loads_nothing():
    layer = randomize(nk.BatchNorm(6))
    layer(data()[0])
    before = layer.state_dict()
    bad = nk.BatchNorm(6).state_dict()
    del bad["running_mean"]
    bad["weight"] = np.ones(5, np.float32)
    bad["scale"] = np.ones(6, np.float32)
    with pytest.raises(ValueError, match="BatchNorm") as error:
        layer.load_state_dict(bad)
    for name in ("`running_mean`", "`weight`", "`scale`", "(6,)", "(5,)"):
        assert name in str(error.value)
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, before[name])


def test_not_strict_ignores_names_but_not_shapes():
    layer = nk.BatchNorm(6)
    layer.load_state_dict({"weight": np.full(6, 2.0, np.float32), "other": np.ones(1)}, strict=False)
    assert (layer.params["weight"] == 2).all()
    with pytest.raises(ValueError, match="`bias`"):
        layer.load_state_dict({"weight": np.full(6, 3.0), "bias": np.ones(7)}, strict=False)
    assert (layer.params["weight"] == 2).all()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole_and_independent(make, again):
    layer = randomize(make())
    x, dy = data()
    layer(x)
    layer.backward(dy)
    twin = again(layer)
    assert checks.same_bits(twin.eval()(x), layer.eval()(x))
    for name, g in layer.grads.items():
        assert checks.same_bits(twin.grads[name], g)
    twin.params["weight"][...] = -1
    assert (layer.params["weight"] > 0).all()
    twin(x)
    assert twin.backward(dy).shape == x.shape
    assert set(twin.params) == set(twin.grads) == {"weight", "bias"}


def test_failed_forward_changes_no_state():
    layer = nk.BatchNorm(6)
    before = layer.state_dict()
    for bad in (np.ones((4, 5, 3), np.float32), np.ones((1, 6), np.float32), np.ones((4, 6), np.int64)):
        with pytest.raises((ValueError, TypeError), match="`x`"):
            layer(bad)
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
    ("build", "error", "argument"),
    [
        (lambda: nk.BatchNorm(0), ValueError, "num_features"),
        (lambda: nk.BatchNorm("6"), TypeError, "num_features"),
        (lambda: nk.BatchNorm(6, eps=-1.0), ValueError, "eps"),
        (lambda: nk.BatchNorm(6, eps="small"), TypeError, "eps"),
        (lambda: nk.BatchNorm(6, momentum=float("nan")), ValueError, "momentum"),
        (lambda: nk.BatchNorm(6, momentum=1.5), ValueError, "momentum"),
        (lambda: nk.BatchNorm(6, dtype=np.int32), TypeError, "dtype"),
        (lambda: nk.BatchNorm(6, axis=1.5), TypeError, "axis"),
        (lambda: nk.GroupNorm(0, 6), ValueError, "num_groups"),
        (lambda: nk.GroupNorm(4, 6), ValueError, "num_"),
        (lambda: nk.GroupNorm(3, 6, eps=float("inf")), ValueError, "eps"),
    ],
)
def test_bad_constructor_arguments(build, error, argument):
    with pytest.raises(error, match=rf"^(BatchNorm|GroupNorm): `{argument}"):
        build()
