"""WeightNorm, SpectralNorm, ScaledWeightStandardization: the functions behind them, gradients, state."""

import copy
import pickle

import numpy as np
import pytest

import checks
import normkit as nk
from test_gradients import TOLERANCE, numerical

WEIGHTS = {
    "WeightNorm": (nk.WeightNorm, ("weight_g", "weight_v"), ()),
    "WeightNorm on axis 1": (lambda w: nk.WeightNorm(w, dim=1), ("weight_g", "weight_v"), ()),
    "WeightNorm of the whole": (lambda w: nk.WeightNorm(w, dim=None), ("weight_g", "weight_v"), ()),
    "SpectralNorm": (nk.SpectralNorm, ("weight_orig",), ("weight_u", "weight_v")),
    "SpectralNorm on axis 1": (lambda w: nk.SpectralNorm(w, dim=1), ("weight_orig",), ("weight_u", "weight_v")),
    "Standardization": (nk.ScaledWeightStandardization, ("weight", "gain"), ()),
    "Standardization without gain": (lambda w: nk.ScaledWeightStandardization(w, gain=False), ("weight",), ()),
}


@pytest.fixture(params=WEIGHTS)
def row(request):
    return WEIGHTS[request.param]


def start(dtype=np.float64, seed=0):
    """(weight, dw): a convolution's, 5 outputs, 4 inputs, kernel 3."""
    return np.random.default_rng(seed).standard_normal((2, 5, 4, 3)).astype(dtype)


def perturbed(module, seed=1):
    rng = np.random.default_rng(seed)
    for p in module.params.values():
        p += 0.1 * rng.standard_normal(p.shape).astype(p.dtype)
    return module


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_and_state(row, dtype):
    build, parameters, buffers = row
    w, _ = start(dtype)
    module = build(w)
    assert tuple(module.params) == tuple(module.grads) == parameters
    assert tuple(module.state_dict()) == parameters + buffers
    assert {a.dtype for a in module.state_dict().values()} == {np.dtype(dtype)}
    assert module().dtype == dtype
    before = w.copy()
    for p in module.params.values():
        p[...] = 7
    assert (w == before).all()


def test_weight_norm_is_the_function_and_starts_as_the_weight():
    w, dw = start()
    for dim in (0, 1, -1, None):
        module = nk.WeightNorm(w, dim=dim)
        np.testing.assert_allclose(module(), w, rtol=1e-15)
        perturbed(module)
        y, cache = nk.weight_norm(module.params["weight_v"], module.params["weight_g"], dim=module.dim)
        assert checks.same_bits(module(), y)
        module.backward(dw)
        expected = nk.weight_norm_backward(dw, cache)
        assert checks.same_bits(module.grads["weight_v"], expected[0])
        assert checks.same_bits(module.grads["weight_g"], expected[1])


def test_standardization_is_the_function():
    w, dw = start()
    module = perturbed(nk.ScaledWeightStandardization(w, eps=30.0))
    y, cache = nk.scaled_weight_standardization(module.params["weight"], module.params["gain"], eps=30.0)
    assert checks.same_bits(module(), y)
    module.backward(dw)
    dweight, dgain = nk.scaled_weight_standardization_backward(dw, cache)
    assert checks.same_bits(module.grads["weight"], dweight)
    assert checks.same_bits(module.grads["gain"], dgain)


def test_spectral_norm_is_the_function_and_iterates_in_training_only():
    w, dw = start()
    module = nk.SpectralNorm(w, n_power_iterations=2)
    for _ in range(2):
        u, v = module.weight_u.copy(), module.weight_v.copy()
        y, cache = nk.spectral_norm(w, u, v, n_power_iterations=2)
        assert checks.same_bits(module(), y)
        assert checks.same_bits(module.weight_u, cache.u)
        assert checks.same_bits(module.weight_v, cache.v)
        module.backward(dw)
        assert checks.same_bits(module.grads["weight_orig"], nk.spectral_norm_backward(dw, cache))
    module.eval()
    u, v = module.weight_u.copy(), module.weight_v.copy()
    assert checks.same_bits(module(), nk.spectral_norm(w, u, v, n_power_iterations=0)[0])
    assert checks.same_bits(module.weight_u, u)
    assert checks.same_bits(module.weight_v, v)


def test_spectral_norm_keeps_its_directions():
    """A weight of zeros, or one below eps, whose u and v are zeros in float32, leaves directions to go on from."""
    w = start()[0].astype(np.float32)
    sigma = nk.SpectralNorm(w, n_power_iterations=300)._forward()[1].sigma
    for factor in (0, 1e-16):
        module = nk.SpectralNorm(w * np.float32(factor))
        for _ in range(3):
            assert module.weight_u.any()
            assert module.weight_v.any()
            weak = module()
        assert factor or not weak.any()
        module.params["weight_orig"][...] = w
        for _ in range(300):
            strong = module()
        np.testing.assert_allclose(strong, w / sigma, rtol=1e-5)


def test_spectral_norm_refuses_directions_of_zeros():
    w, _ = start()
    for name in ("weight_u", "weight_v"):
        module = nk.SpectralNorm(w)
        state = module.state_dict()
        module.load_state_dict({**state, name: 0 * state[name]})
        before = module.state_dict()
        for mode in (True, False):
            with pytest.raises(ValueError, match=rf"^spectral_norm: `{name[-1]}` must be a vector that is not all z"):
                module.train(mode)()
            for key, value in module.state_dict().items():
                assert checks.same_bits(value, before[key])


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_spectral_norm_finds_the_largest_singular_value(dim):
    """The error falls by (s2/s1)² an iteration: 300 of them leave rounding alone for gaps above 10 %."""
    w, _ = start(seed=2)
    module = nk.SpectralNorm(w, dim=dim, n_power_iterations=300)
    values = np.linalg.svd(np.moveaxis(w, dim, 0).reshape(w.shape[dim], -1), compute_uv=False)
    assert values[1] < 0.9 * values[0]
    np.testing.assert_allclose(module(), w / values[0], rtol=1e-12)


def test_gradients_by_finite_differences(row):
    """In eval mode, where u and v stand still, as the gradient takes them to."""
    build, _, _ = row
    w, dw = start()
    module = perturbed(build(w)).eval()
    module()
    module.backward(dw)
    found = {name: grad.copy() for name, grad in module.grads.items()}
    for what, value in module.params.items():
        expected = numerical(lambda: float((dw * module()).sum()), value)
        np.testing.assert_allclose(found[what], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


def test_accumulate_zero_grad_and_identities(row):
    build, _, _ = row
    w, dw = start()
    module = build(w)
    held = [*module.params.values(), *module.grads.values()]
    module()
    module.backward(dw)
    once = {name: grad.copy() for name, grad in module.grads.items()}
    module.backward(dw, accumulate=True)
    for name, grad in once.items():
        assert (module.grads[name] == 2 * grad).all()
    module.zero_grad()
    assert all((grad == 0).all() for grad in module.grads.values())
    module.load_state_dict(perturbed(build(w)).state_dict())
    module()
    for array, still in zip(held, [*module.params.values(), *module.grads.values()], strict=True):
        assert array is still


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_state_and_copies(row, again):
    build, _, _ = row
    w, dw = start()
    module = perturbed(build(w))
    module()
    twin, loaded = again(module), build(start(seed=5)[0])
    loaded.load_state_dict(module.state_dict())
    with pytest.raises(RuntimeError, match="backward"):
        twin.backward(dw)
    expected = module.eval()()
    assert checks.same_bits(twin.eval()(), expected)
    assert checks.same_bits(loaded.eval()(), expected)
    before = loaded.state_dict()
    with pytest.raises(ValueError, match="`other` is unexpected"):
        loaded.load_state_dict({**perturbed(module).state_dict(), "other": np.ones(1)})
    for name, value in loaded.state_dict().items():
        assert checks.same_bits(value, before[name])


def test_a_bad_gradient_changes_nothing(row):
    build, _, _ = row
    w, dw = start()
    module = build(w)
    module()
    for bad in (dw[:, :2], dw.astype(int), None):
        with pytest.raises((ValueError, TypeError), match="`dw`"):
            module.backward(bad)
    assert all((grad == 0).all() for grad in module.grads.values())


@pytest.mark.parametrize(
    ("build", "error", "argument"),
    [
        (lambda: nk.WeightNorm(np.ones((3, 2), int)), TypeError, "weight"),
        (lambda: nk.WeightNorm("text"), TypeError, "weight"),
        (lambda: nk.WeightNorm(np.ones((3, 2)), dim=2), ValueError, "dim"),
        (lambda: nk.WeightNorm(np.ones((3, 2)), dim=0.5), TypeError, "dim"),
        (lambda: nk.SpectralNorm(np.ones((3, 2)), dim=-3), ValueError, "dim"),
        (lambda: nk.SpectralNorm(np.ones((3, 2)), n_power_iterations=0), ValueError, "n_power_iterations"),
        (lambda: nk.SpectralNorm(np.ones((3, 2)), eps=-1), ValueError, "eps"),
        (lambda: nk.ScaledWeightStandardization(np.ones(3)), ValueError, "weight"),
        (lambda: nk.ScaledWeightStandardization(np.ones((3, 2)), eps=float("nan")), ValueError, "eps"),
    ],
)
def test_bad_constructor_arguments(build, error, argument):
    with pytest.raises(error, match=rf"^\w+: `{argument}` must"):
        build()


PARAMETRIZED = {
    "WeightNorm": {"original0": "weight_g", "original1": "weight_v"},
    "SpectralNorm": {"original": "weight_orig", "0._u": "weight_u", "0._v": "weight_v"},
}


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_states_of_torch_parametrizations_load(name):
    build, _, _ = WEIGHTS[name]
    source, target = perturbed(build(start()[0])), build(start(seed=1)[0])
    state = source.state_dict()
    theirs = {f"parametrizations.weight.{key}": state.pop(own) for key, own in PARAMETRIZED[name].items()}
    assert not state
    target.load_state_dict(theirs)
    for key, value in source.state_dict().items():
        assert checks.same_bits(target.state_dict()[key], value)
    with pytest.raises(ValueError, match=r"`weight_[a-z]+` is missing"):
        target.load_state_dict(dict(list(theirs.items())[1:]))
    with pytest.raises(ValueError, match=r"`parametrizations\.weight\.original0?` is unexpected"):
        target.load_state_dict(theirs | source.state_dict())
