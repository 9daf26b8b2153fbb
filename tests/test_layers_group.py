"""GroupNorm: the function behind the layer."""

import pytest

import checks
import normkit as nk
from layer_cases import data, randomize


def test_is_the_function_in_both_modes():
    layer = randomize(nk.GroupNorm(3, 6, eps=1e-3))
    x, dy = data()
    y, cache = nk.group_norm(x, 3, layer.params["weight"], layer.params["bias"], eps=1e-3)
    expected = nk.group_norm_backward(dy, cache)
    for mode in (True, False):
        layer.train(mode)
        assert checks.same_bits(layer(x), y)
        assert checks.same_bits(layer.backward(dy), expected.dx)
        assert checks.same_bits(layer.grads["weight"], expected.dweight)


@pytest.mark.parametrize(
    ("arguments", "error", "argument"),
    [
        ((0, 6), ValueError, "num_groups"),
        ((1.5, 6), TypeError, "num_groups"),
        ((1, 0), ValueError, "num_channels"),
        ((4, 6), ValueError, "num_channels"),
    ],
)
def test_bad_constructor_arguments(arguments, error, argument):
    with pytest.raises(error, match=rf"^GroupNorm: `{argument}` must"):
        nk.GroupNorm(*arguments)
