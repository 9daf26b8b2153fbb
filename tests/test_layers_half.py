"""float16 and bfloat16 through the layers: inputs beside float32 parameters, and parameters of their own.

Rounding to half precision costs u = eps / 2 of the value; what is computed before it, in float32, is held to 1e-6 of
max(1, |y|), twice, because both sides are computed. Sums of the backward: 24 eps·Σ|dy|·max(1, |x̂|), twice, as
tolerance.py derives it; |x̂| < 4 here.
"""

import numpy as np
import pytest

import normkit as nk
from layer_cases import LAYERS, data, randomize

ml_dtypes = pytest.importorskip("ml_dtypes")
HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
EPS = np.finfo(np.float32).eps


def assert_rounded(found, expected, half, atol):
    error = np.abs(found.astype(np.float64) - expected)
    assert (error <= ml_dtypes.finfo(half).eps / 2 * np.abs(expected.astype(np.float64)) + atol).all()


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_row_12_half_inputs_float32_parameters(name, half, training):
    """USERS.md 12: as float32 computes them from the same inputs, rounded once."""
    layer, wide = (randomize(LAYERS[name].build()) for _ in range(2))
    for seed in range(2):
        x, dy = (a.astype(half) for a in data(seed=seed))
        for part in (layer, wide):
            part.train(training or seed == 0)
        y, expected = layer(x), wide(x.astype(np.float32))
        dx, dexpected = layer.backward(dy), wide.backward(dy.astype(np.float32))
    assert y.dtype == dx.dtype == half
    assert_rounded(y, expected, half, 2e-6 * np.maximum(1, np.abs(expected)))
    terms = 4 * np.abs(dy.astype(np.float64)).sum()
    assert_rounded(dx, dexpected, half, 48 * EPS * np.abs(dexpected).max() * 4)
    for key, grad in wide.grads.items():
        assert layer.grads[key].dtype == np.float32
        np.testing.assert_allclose(layer.grads[key], grad, rtol=0, atol=48 * EPS * terms)
    for key, value in wide.state_dict().items():
        np.testing.assert_allclose(layer.state_dict()[key], value, rtol=8 * EPS, atol=8 * EPS)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_half_parameters_and_wide_running_statistics(name, half):
    row = LAYERS[name]
    layer = randomize(row.build(dtype=half))
    held = dict(layer.grads)
    x, dy = data()
    layer(x)
    assert layer.backward(dy).dtype == np.float32
    state = layer.state_dict()
    assert {state[key].dtype for key in row.parameters} == {grad.dtype for grad in layer.grads.values()} == {half}
    assert {state[key].dtype for key in row.buffers[:2]} <= {np.dtype(np.float32)}
    wide = row.build()
    wide.load_state_dict(state)
    layer.load_state_dict(wide.state_dict())
    for key, value in layer.state_dict().items():
        assert (value == state[key]).all()
    assert layer.grads.keys() == held.keys()
    assert all(held[key] is grad for key, grad in layer.grads.items())


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_content_and_style(half):
    layer, wide = nk.AdaptiveInstanceNorm(), nk.AdaptiveInstanceNorm()
    (content, dy), (style, _) = ((a.astype(half) for a in data(seed=seed)) for seed in (0, 1))
    expected = wide(content.astype(np.float32), style.astype(np.float32))
    y, found = layer(content, style), layer.backward(dy)
    assert y.dtype == half
    assert_rounded(y, expected, half, 2e-6 * np.maximum(1, np.abs(expected)))
    for gradient, other in zip(found, wide.backward(dy.astype(np.float32)), strict=True):
        assert gradient.dtype == half
        assert_rounded(gradient, other, half, 48 * EPS * np.abs(other).max() * 4)


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_weights(half):
    w = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(half)
    for module in (nk.WeightNorm(w), nk.SpectralNorm(w), nk.ScaledWeightStandardization(w)):
        assert module().dtype == half
        module.backward(w)
        assert {p.dtype for p in module.params.values()} == {g.dtype for g in module.grads.values()} == {half}
    assert nk.SpectralNorm(w).weight_u.dtype == np.float32
