"""Layers: parameters, gradients, modes, state. What all of them promise, on every row of the table."""

import copy
import pickle

import numpy as np
import pytest

import checks
import normkit as nk
from cases import DTYPES
from layer_cases import LAYERS, SHAPE, data, randomize
from test_gradients import TOLERANCE, numerical


@pytest.fixture(params=LAYERS)
def row(request):
    return LAYERS[request.param]


@pytest.fixture
def make(row):
    return row.build


def same_state(layer, state):
    found = layer.state_dict()
    assert list(found) == list(state)
    for name, value in found.items():
        assert checks.same_bits(value, state[name]), name


# --- parameters and state --------------------------------------------------------------------------------------------


def test_starts_as_the_identity_affine(row):
    layer = row.build()
    assert tuple(layer.params) == tuple(layer.grads) == row.parameters
    assert (layer.params["weight"] == 1).all()
    assert (layer.params.get("bias", np.zeros(1)) == 0).all()
    assert all((g == 0).all() for g in layer.grads.values())
    assert layer.weight is layer.params["weight"]
    assert layer.bias is layer.params.get("bias")
    assert layer.training is True


def test_state_dict_has_pytorch_names(row):
    assert tuple(row.build().state_dict()) == row.parameters + row.buffers
    assert tuple(row.build(affine=False).state_dict()) == row.buffers


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


def test_repr_is_a_call_of_the_constructor(row):
    """With the dtype's name as NumPy knows it, and constants that print as they are written."""
    layer = row.build(eps=1e-3, dtype=np.float64)
    twin = eval(repr(layer).replace("dtype=float64", "dtype='float64'"), vars(nk))
    assert repr(twin) == repr(layer)
    assert {n: p.shape for n, p in twin.state_dict().items()} == {n: p.shape for n, p in layer.state_dict().items()}
    for x in (data(np.float64, seed)[0] for seed in range(2)):
        assert checks.same_bits(twin(x), layer(x))


# --- forward and backward --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in LAYERS.items() if row.takes_axis])
def test_channels_last(name):
    build = LAYERS[name].build
    layer, last = randomize(build()), randomize(build(axis=-1))
    x, dy = data()
    moved = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    # Another order of summation: a handful of roundings, of float32 values below 10.
    np.testing.assert_allclose(np.moveaxis(last(moved), -1, 1), layer(x), rtol=0, atol=1e-5)
    dx = last.backward(np.ascontiguousarray(np.moveaxis(dy, 1, -1)))
    np.testing.assert_allclose(np.moveaxis(dx, -1, 1), layer.backward(dy), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "BatchRenorm loose"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_by_finite_differences(name, training):
    """Loose batch renorm is left out: no gradient flows through r and d, so it is not the derivative of y."""
    layer = randomize(LAYERS[name].build(dtype=np.float64))
    layer(data(np.float64, seed=1)[0])
    layer.train(training)
    x, dy = (a[:2] for a in data(np.float64))
    layer(x)
    found = {"x": layer.backward(dy)} | {name: grad.copy() for name, grad in layer.grads.items()}
    for what, value in {"x": x, **layer.params}.items():
        expected = numerical(lambda: float((dy * layer(x)).sum()), value)
        np.testing.assert_allclose(found[what], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


def test_train_and_eval(row):
    """Eval leaves the state; without running statistics it computes what training does."""
    layer = randomize(row.build())
    for seed in range(2):
        layer(data(seed=seed)[0])
    x, dy = data(seed=5)
    assert layer.eval() is layer
    assert layer.training is False
    state = layer.state_dict()
    y, dx = layer(x), layer.backward(dy)
    same_state(layer, state)
    assert layer.train() is layer
    assert layer.training is True
    again = layer(x)
    assert checks.same_bits(layer.backward(dy), dx) == (not row.buffers)
    assert row.buffers or checks.same_bits(again, y)
    moved = {n for n, v in layer.state_dict().items() if not checks.same_bits(v, state[n])}
    assert moved == set(row.buffers)


@pytest.mark.parametrize("name", [name for name, row in LAYERS.items() if row.buffers])
def test_frozen_backward_is_an_affine_map(name):
    layer = LAYERS[name].build(dtype=np.float64, eps=0.0).eval()
    layer.running_var[...] = 4.0
    layer.params["weight"][...] = 3.0
    x, dy = data(np.float64)
    layer(x)
    np.testing.assert_allclose(layer.backward(dy), 1.5 * dy, rtol=1e-15)


def test_out_is_written_to(make):
    layer = randomize(make(), 2)
    x, dy = data()
    y, dx = layer(x), layer.backward(dy)
    twin, out = randomize(make(), 2), np.empty_like(x)
    assert twin(x, out=out) is out
    assert checks.same_bits(out, y)
    gradient = dy.copy()
    assert twin.backward(gradient, out=gradient) is gradient
    assert checks.same_bits(gradient, dx)


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


def test_an_optimizer_may_hold_on_to_the_arrays(make):
    """Gradient descent on arrays taken before the first step: the loss falls, and the arrays stay the layer's own."""
    layer = make(dtype=np.float64)
    held = [(layer.params[name], layer.grads[name]) for name in layer.params]
    x, target = data(np.float64)
    losses = []
    for _ in range(20):
        error = layer(x) - target
        losses.append(float(np.mean(error**2)))
        layer.backward(2 * error / x[0, 0].size)
        for parameter, gradient in held:
            parameter -= 0.01 * gradient
    assert losses[-1] < 0.99 * losses[0]
    for name, (parameter, gradient) in zip(layer.params, held, strict=True):
        assert layer.params[name] is parameter
        assert layer.grads[name] is gradient


def test_loading_a_state_keeps_the_arrays(make):
    """What is done to `params` in place is what the next forward uses, also after loading a state."""
    layer = make()
    held = dict(layer.params)
    layer.load_state_dict(randomize(make(), 7).state_dict())
    for name, parameter in held.items():
        assert layer.params[name] is parameter
        assert (parameter != (name == "weight")).all()
        parameter[...] = 5 if name == "bias" else 0
    assert (layer(data()[0]) == (5 if "bias" in held else 0)).all()


def test_a_replaced_parameter_is_used(make):
    layer = make()
    layer.weight = np.full(layer.params["weight"].shape, 0.0)
    x, dy = data()
    assert (layer(x) == 0).all()
    layer.backward(dy)
    assert layer.grads["weight"].dtype == np.float64
    assert (layer.grads["weight"] != 0).any()


@pytest.mark.parametrize("training", [True, False])
def test_backward_before_forward(make, training):
    with pytest.raises(RuntimeError, match=r"backward"):
        make().train(training).backward(data()[1])


# --- state -----------------------------------------------------------------------------------------------------------


def test_state_survives_a_round_trip(make):
    layer = randomize(make())
    for seed in range(3):
        layer(data(seed=seed)[0])
    state = layer.state_dict()
    other = make()
    other.load_state_dict(state)
    x, _ = data(seed=9)
    assert checks.same_bits(other.eval()(x), layer.eval()(x))
    same_state(other, state)


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


def test_a_bad_state_lists_every_problem_and_loads_nothing(row):
    layer = randomize(row.build())
    layer(data()[0])
    before = layer.state_dict()
    bad = {name: value + 1 for name, value in before.items()}
    del bad[(row.parameters + row.buffers)[-1]]
    shape = layer.params["weight"].shape
    bad["weight"] = np.ones((*shape, 1), np.float32)
    bad["scale"] = np.ones(6, np.float32)
    with pytest.raises(ValueError, match=f"^{type(layer).__name__}: `state`") as error:
        layer.load_state_dict(bad)
    expected = [f"`weight` must have shape {shape}, found shape {(*shape, 1)}", "`scale` is unexpected"]
    if len(before) > 1:
        expected.append(f"`{(row.parameters + row.buffers)[-1]}` is missing")
    else:
        expected[0] = "`weight`"
    for part in expected:
        assert part in str(error.value)
    same_state(layer, before)


def test_not_strict_ignores_names_but_not_shapes(make):
    layer = make()
    shape = layer.params["weight"].shape
    layer.load_state_dict({"weight": np.full(shape, 2.0, np.float32), "other": np.ones(1)}, strict=False)
    assert (layer.params["weight"] == 2).all()
    with pytest.raises(ValueError, match="`weight`"):
        layer.load_state_dict({"weight": np.full((7, 7), 3.0)}, strict=False)
    assert (layer.params["weight"] == 2).all()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole_and_start_without_a_pass(row, again):
    layer = randomize(row.build())
    x, dy = data()
    layer(x)
    layer.backward(dy)
    twin = again(layer)
    with pytest.raises(RuntimeError, match="backward"):
        twin.backward(dy)
    assert checks.same_bits(twin.eval()(x), layer.eval()(x))
    for name, g in layer.grads.items():
        assert checks.same_bits(twin.grads[name], g)
    assert tuple(twin.params) == tuple(twin.grads) == row.parameters
    assert twin.backward(dy).shape == x.shape
    twin.params["weight"][...] = -1
    assert (layer.params["weight"] > 0).all() == (again is not copy.copy)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [np.ones((4, 7, 5, 4), np.float32), np.ones(SHAPE, np.int64), np.ones(SHAPE, bool), np.float32(1), "text", None],
    ids=["channels", "integers", "booleans", "scalar", "text", "none"],
)
@pytest.mark.parametrize("affine", [True, False])
def test_a_failed_forward_changes_nothing(make, bad, affine):
    layer = make(affine=affine)
    x, dy = data()
    layer(x)
    dx, state = layer.backward(dy), layer.state_dict()
    with pytest.raises((ValueError, TypeError), match="`x`"):
        layer(bad)
    same_state(layer, state)
    assert checks.same_bits(layer.backward(dy), dx)


def test_a_failed_backward_changes_no_gradient(make):
    layer = randomize(make())
    x, dy = data()
    layer(x)
    layer.backward(dy)
    grads = {name: g.copy() for name, g in layer.grads.items()}
    for bad in (dy[:, :, 1:], dy.astype(np.int64), None):
        for accumulate in (False, True):
            with pytest.raises((ValueError, TypeError), match="`dy`"):
                layer.backward(bad, accumulate=accumulate)
    for bad in (1, "no", None, np.ones(2, bool)):
        with pytest.raises(TypeError, match="`accumulate` must be True or False"):
            layer.backward(dy, accumulate=bad)
    for name, g in grads.items():
        assert checks.same_bits(layer.grads[name], g)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"eps": -1.0}, ValueError),
        ({"eps": float("nan")}, ValueError),
        ({"eps": float("inf")}, ValueError),
        ({"eps": "small"}, TypeError),
        ({"dtype": np.int32}, TypeError),
        ({"dtype": "no dtype"}, TypeError),
        ({"axis": 1.5}, TypeError),
        ({"axis": "1"}, TypeError),
    ],
    ids=str,
)
def test_bad_constructor_arguments(make, arguments, error):
    (argument,) = arguments
    with pytest.raises(error, match=rf"^\w+: `{argument}` must"):
        make(**arguments)


def test_a_parameter_without_a_gradient_leaves_the_others_as_they_are():
    layer, x = nk.BatchNorm(3), np.arange(12, dtype=np.float32).reshape(4, 3)
    layer.backward(layer(x))
    before = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.params["scale"] = np.ones(3, np.float32)
    with pytest.raises(AttributeError, match="dscale"):
        layer.backward(x, accumulate=True)
    assert all(np.array_equal(layer.grads[name], grad) for name, grad in before.items())


def test_a_subclass_may_say_what_its_weight_is():
    class ZeroCentred(nk.BatchNorm):
        @property
        def weight(self):
            return self.params["weight"] + 1

    layer, x = ZeroCentred(3), np.random.default_rng(0).standard_normal((64, 3), dtype=np.float32)
    layer.params["weight"][...] = 0
    assert np.allclose(layer(x).std(0), 1, atol=1e-3)
