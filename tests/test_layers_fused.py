"""`activation=`, `residual=` and `mask=` of the layers that take them."""

import copy
import pickle

import numpy as np
import pytest

import checks
import normkit as nk
from layer_cases import SHAPE, data, randomize
from test_gradients import TOLERANCE, numerical

ACTIVATIONS = (None, "relu", "leaky_relu", "silu")
FUSED = {
    "BatchNorm": lambda **kw: nk.BatchNorm(6, **kw),
    "BatchNorm of batches": lambda **kw: nk.BatchNorm(6, track_running_stats=False, **kw),
    "GroupNorm": lambda **kw: nk.GroupNorm(3, 6, **kw),
    "InstanceNorm": lambda **kw: nk.InstanceNorm(6, **kw),
    "InstanceNorm tracking": lambda **kw: nk.InstanceNorm(6, track_running_stats=True, **kw),
}


@pytest.fixture(params=FUSED)
def make(request):
    return FUSED[request.param]


def residual_for(x, seed=7):
    return np.random.default_rng(seed).standard_normal(x.shape).astype(x.dtype)


def masked(x, seed=3):
    return np.random.default_rng(seed).random((x.shape[0], *x.shape[2:])) < 0.6


def activate(z, activation):
    return {
        None: lambda: z,
        "relu": lambda: np.maximum(z, 0),
        "leaky_relu": lambda: np.where(z > 0, z, 0.1 * z),
        "silu": lambda: z / (1 + np.exp(-z)),
    }[activation]()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_fused_equals_one_after_the_other(make, activation, with_residual, training):
    """float64, values below 10: a few roundings."""
    plain, fused = (randomize(make(dtype=np.float64, **kw)) for kw in ({}, {"activation": activation}))
    x, _ = data(np.float64)
    residual = residual_for(x) if with_residual else None
    for layer in (plain, fused):
        layer(x)
        layer.train(training)
    expected = activate(plain(x) + (residual if with_residual else 0), activation)
    np.testing.assert_allclose(fused(x, residual=residual), expected, rtol=0, atol=1e-13)
    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(fused.state_dict()[name], value, rtol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_by_finite_differences(make, activation, with_residual, training):
    layer = randomize(make(activation=activation, dtype=np.float64))
    layer(data(np.float64, seed=1)[0])
    layer.train(training)
    x, dy = (a[:2, :, :3] for a in data(np.float64))
    given = {"residual": residual_for(x)} if with_residual else {}
    layer(x, **given)
    found = {"x": layer.backward(dy)} | {name: grad.copy() for name, grad in layer.grads.items()}
    if with_residual:
        found["residual"] = layer.dresidual
    for what, value in {"x": x, **layer.params, **given}.items():
        expected = numerical(lambda: float((dy * layer(x, **given)).sum()), value)
        np.testing.assert_allclose(found[what], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


def test_dresidual_lives_from_backward_to_the_next_forward(make):
    layer = make(activation="relu")
    x, dy = data()
    assert layer.dresidual is None
    layer(x, residual=residual_for(x))
    assert layer.dresidual is None
    layer.backward(dy)
    assert layer.dresidual.shape == x.shape
    assert layer.dresidual.dtype == x.dtype
    for again in (copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        assert again(layer).dresidual is None
    layer(x)
    assert layer.dresidual is None
    layer.backward(dy)
    assert layer.dresidual is None


def test_accumulate_adds_parameters_gradients_and_not_the_residuals(make):
    layer = randomize(make(activation="silu", dtype=np.float64))
    x, dy = data(np.float64)
    layer(x, residual=residual_for(x))
    layer.backward(dy)
    once, dresidual = {name: g.copy() for name, g in layer.grads.items()}, layer.dresidual.copy()
    layer.backward(dy, accumulate=True)
    for name, g in once.items():
        assert (layer.grads[name] == 2 * g).all()
    assert checks.same_bits(layer.dresidual, dresidual)


def test_the_activation_is_shown(make):
    assert "activation='relu'" in repr(make(activation="relu"))
    assert "activation=None" in repr(make())


@pytest.mark.parametrize(("activation", "error"), [("gelu", ValueError), ("", ValueError), (1, TypeError)])
def test_an_unknown_activation(make, activation, error):
    with pytest.raises(error, match=r"^\w+: `activation` must be None, 'relu', 'leaky_relu' or 'silu', found"):
        make(activation=activation)


@pytest.mark.parametrize(
    ("residual", "error"),
    [(np.ones((4, 6, 5, 4), np.float32), ValueError), (np.ones(SHAPE, np.int64), TypeError), ("text", TypeError)],
    ids=["shape", "dtype", "type"],
)
def test_a_bad_residual_changes_nothing(make, residual, error):
    layer = make()
    x, _ = data()
    state = layer.state_dict()
    with pytest.raises(error, match="`residual`"):
        layer(x, residual=residual)
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, state[name])


# --- mask, of BatchNorm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_row_22_masked_equals_compacted(activation, training):
    """USERS.md 22, with NaN in what does not count. float64, a few roundings."""
    layer, compact = (randomize(nk.BatchNorm(6, activation=activation, dtype=np.float64)) for _ in range(2))
    x, dy = data(np.float64)
    mask = masked(x)
    padded = np.where(mask[:, None], x, np.nan)
    dense, ddense = (np.moveaxis(a, 1, -1)[mask] for a in (x, dy))
    for part in (layer, compact):
        part.running_mean[...] = 0.5
        part.train(training)
    y, expected = layer(padded, mask=mask), compact(dense)
    np.testing.assert_allclose(np.moveaxis(y, 1, -1)[mask], expected, rtol=0, atol=1e-13)
    dx, dexpected = layer.backward(dy), compact.backward(ddense)
    np.testing.assert_allclose(np.moveaxis(dx, 1, -1)[mask], dexpected, rtol=0, atol=1e-13)
    for a in (y, dx):
        assert (np.moveaxis(a, 1, -1)[~mask] == 0).all()
    for name, grad in compact.grads.items():
        np.testing.assert_allclose(layer.grads[name], grad, rtol=0, atol=1e-12)
    for name, value in compact.state_dict().items():
        np.testing.assert_allclose(layer.state_dict()[name], value, rtol=1e-13, atol=1e-14)
    assert int(layer.num_batches_tracked) == training


def test_mask_and_residual_together():
    layer = randomize(nk.BatchNorm(6, activation="silu", dtype=np.float64))
    x, dy = (a[:2].copy() for a in data(np.float64))
    mask, residual = masked(x), residual_for(x)
    layer(x, residual=residual, mask=mask)
    found = {"x": layer.backward(dy), "residual": layer.dresidual, **layer.grads}
    for what, value in {"x": x, "residual": residual, **layer.params}.items():
        expected = numerical(lambda: float((dy * layer(x, residual=residual, mask=mask)).sum()), value)
        np.testing.assert_allclose(found[what], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)
    assert (np.moveaxis(found["residual"], 1, -1)[~mask] == 0).all()


@pytest.mark.parametrize(
    ("mask", "error"),
    [(np.ones((4, 5, 4), bool), ValueError), (np.ones((4, 5, 3), np.int64), TypeError), ("text", TypeError)],
    ids=["shape", "dtype", "type"],
)
def test_a_bad_mask_changes_nothing(mask, error):
    layer = nk.BatchNorm(6)
    state = layer.state_dict()
    with pytest.raises(error, match="`mask`"):
        layer(data()[0], mask=mask)
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, state[name])


def test_a_mask_that_counts_nothing_moves_nothing():
    layer = nk.BatchNorm(6, momentum=None)
    state = layer.state_dict()
    y = layer(data()[0], mask=np.zeros((4, 5, 3), bool))
    assert (y == 0).all()
    assert (layer.backward(data()[1]) == 0).all()
    for name, value in layer.state_dict().items():
        assert checks.same_bits(value, state[name])
