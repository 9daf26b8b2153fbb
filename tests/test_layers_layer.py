"""LayerNorm and RMSNorm: the functions behind the layers, and which axes they take."""

import numpy as np
import pytest

import checks
import normkit as nk
from layer_cases import data, randomize


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        (3, None),
        ((5, 3), None),
        ([6, 5, 3], None),
        (np.array([5, 3]), None),
        (6, 1),
        ((6, 3), (1, 3)),
        ((4, 5), (0, 2)),
    ],
    ids=str,
)
def test_are_the_functions(shape, axis):
    x, dy = data()
    layer, rms = randomize(nk.LayerNorm(shape, axis=axis, eps=1e-3)), randomize(nk.RMSNorm(shape, axis=axis, eps=1e-3))
    axes = tuple(range(-np.size(shape), 0)) if axis is None else axis
    y, cache = nk.layer_norm(x, layer.weight, layer.bias, axis=axes, eps=1e-3)
    expected = nk.layer_norm_backward(dy, cache)
    assert checks.same_bits(layer(x), y)
    assert checks.same_bits(layer.backward(dy), expected.dx)
    assert checks.same_bits(layer.grads["weight"], expected.dweight)
    assert checks.same_bits(layer.grads["bias"], expected.dbias)
    y, cache = nk.rms_norm(x, rms.weight, axis=axes, eps=1e-3)
    expected = nk.rms_norm_backward(dy, cache)
    assert checks.same_bits(rms(x), y)
    assert checks.same_bits(rms.backward(dy), expected.dx)
    assert checks.same_bits(rms.grads["weight"], expected.dweight)


@pytest.mark.parametrize("layer", [nk.LayerNorm, nk.RMSNorm])
def test_row_21_channels_without_a_transposition(layer):
    """USERS.md 21. Another order of summation: a few roundings of float64."""
    x, dy = data(np.float64)
    channels, last = randomize(layer(6, axis=1, dtype=np.float64)), randomize(layer(6, dtype=np.float64))
    y, dx = channels(x), channels.backward(dy)
    assert y.flags.c_contiguous
    np.testing.assert_allclose(np.moveaxis(last(np.moveaxis(x, 1, -1)), -1, 1), y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.moveaxis(last.backward(np.moveaxis(dy, 1, -1)), -1, 1), dx, rtol=0, atol=1e-13)
    for name, grad in channels.grads.items():
        np.testing.assert_allclose(last.grads[name], grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", [nk.LayerNorm, nk.RMSNorm])
def test_axes_count_from_both_ends(layer):
    x, _ = data()
    expected = randomize(layer((6, 3), axis=(1, 3)))(x)
    for axis in ((1, -1), (-3, -1)):
        assert checks.same_bits(randomize(layer((6, 3), axis=axis))(x), expected)
    for axis in ((1, -2), (2, -2)):  # of three axes: the same one twice, and the later one first
        with pytest.raises(ValueError, match=r"`x` must have such axes that .* different ones in ascending order"):
            layer((6, 6), axis=axis)(np.ones((4, 6, 6), np.float32))


def test_which_parameters():
    assert list(nk.LayerNorm(6).params) == ["weight", "bias"]
    assert list(nk.LayerNorm(6, bias=False).params) == ["weight"]
    assert list(nk.LayerNorm(6, affine=False).params) == []
    assert list(nk.RMSNorm(6).params) == ["weight"]
    assert nk.LayerNorm((5, 3)).params["bias"].shape == (5, 3)


@pytest.mark.parametrize("layer", [nk.LayerNorm, nk.RMSNorm])
@pytest.mark.parametrize("shape", [(4, 6, 5, 2), (4, 6, 5, 3, 1), (3,), (4, 6, 3, 5)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_another_shape_is_an_error(layer, shape, affine):
    with pytest.raises(ValueError, match=r"`(x|axis)`"):
        layer((5, 3), affine=affine)(np.ones(shape, np.float32))


@pytest.mark.parametrize("layer", [nk.LayerNorm, nk.RMSNorm])
@pytest.mark.parametrize(
    ("arguments", "error", "argument"),
    [
        ({"normalized_shape": 0}, ValueError, "normalized_shape"),
        ({"normalized_shape": ()}, ValueError, "normalized_shape"),
        ({"normalized_shape": (3, -1)}, ValueError, "normalized_shape"),
        ({"normalized_shape": "63"}, TypeError, "normalized_shape"),
        ({"normalized_shape": (3, 1.5)}, TypeError, "normalized_shape"),
        ({"normalized_shape": None}, TypeError, "normalized_shape"),
        ({"axis": (1, 2)}, ValueError, "axis"),
        ({"axis": (), "normalized_shape": 3}, ValueError, "axis"),
        ({"axis": (1, 1), "normalized_shape": (6, 6)}, ValueError, "axis"),
        ({"axis": (3, 1), "normalized_shape": (3, 6)}, ValueError, "axis"),
        ({"axis": (-1, 1), "normalized_shape": (3, 6)}, ValueError, "axis"),
        ({"axis": (1, "2"), "normalized_shape": (6, 5)}, TypeError, "axis"),
    ],
    ids=str,
)
def test_bad_constructor_arguments(layer, arguments, error, argument):
    with pytest.raises(error, match=rf"^{layer.__name__}: `{argument}` must"):
        layer(**{"normalized_shape": 6, **arguments})
