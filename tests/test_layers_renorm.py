"""BatchRenorm: the function behind the layer, and the schedule of its limits."""

import numpy as np
import pytest

import checks
import normkit as nk
from layer_cases import data, randomize
from test_gradients import TOLERANCE, numerical


@pytest.mark.parametrize("step", [0, 5_000, 10_000, 25_000, 30_000, 40_000, 10**9])
def test_the_schedule_of_the_paper(step):
    """r_max 1 until 5k, linearly to 3 at 40k; d_max 0 until 5k, linearly to 5 at 25k (Ioffe 2017, section 4)."""
    layer = nk.BatchRenorm(6)
    layer.num_batches_tracked[...] = step
    expected = {
        0: (1, 0),
        5_000: (1, 0),
        10_000: (1 + 2 / 7, 1.25),
        25_000: (1 + 8 / 7, 5),
        30_000: (1 + 10 / 7, 5),
        40_000: (3, 5),
        10**9: (3, 5),
    }[step]
    np.testing.assert_allclose(layer.limits(), expected, rtol=1e-15)


def test_the_step_is_the_number_of_training_batches():
    seen = []
    layer = nk.BatchRenorm(6, r_max=lambda step: seen.append(step) or 2.0, d_max=1)
    x, _ = data()
    for _ in range(3):
        layer(x)
    layer.eval()(x)
    layer.train()(np.empty((0, 6, 2), np.float32))
    assert int(layer.num_batches_tracked) == 3
    assert seen[:3] == [0, 1, 2]
    assert set(seen[3:]) <= {3}
    other = nk.BatchRenorm(6)
    other.load_state_dict(layer.state_dict() | {"num_batches_tracked": 30_000})
    assert other.limits()[1] == 5


def test_is_the_function():
    layer = randomize(nk.BatchRenorm(6, eps=1e-3, momentum=0.3, r_max=1.5, d_max=0.5))
    mean, var = np.zeros(6, np.float32), np.ones(6, np.float32)
    for seed in range(3):
        x, dy = data(seed=seed)
        y, cache = nk.batch_renorm(x, mean, var, layer.weight, layer.bias, r_max=1.5, d_max=0.5, momentum=0.3, eps=1e-3)
        expected = nk.batch_renorm_backward(dy, cache)
        assert checks.same_bits(layer(x), y)
        assert checks.same_bits(layer.backward(dy), expected.dx)
        assert checks.same_bits(layer.grads["weight"], expected.dweight)
        assert checks.same_bits(layer.grads["bias"], expected.dbias)
        assert checks.same_bits(layer.running_mean, mean)
        assert checks.same_bits(layer.running_var, var)


def test_starts_as_batch_norm():
    """Until step 5000 r is 1 and d is 0; the same sums, a few roundings of float64."""
    renorm, plain = (randomize(layer(6, dtype=np.float64)) for layer in (nk.BatchRenorm, nk.BatchNorm))
    for seed in range(3):
        x, dy = data(np.float64, seed=seed)
        np.testing.assert_allclose(renorm(x), plain(x), rtol=0, atol=1e-13)
        np.testing.assert_allclose(renorm.backward(dy), plain.backward(dy), rtol=0, atol=1e-13)
    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(renorm.state_dict()[name], value, rtol=1e-14)


def test_with_wide_limits_training_is_evaluation():
    """r and d then undo the batch's statistics: y is that of the running ones, before they move."""
    layer = randomize(nk.BatchRenorm(6, r_max=1e6, d_max=1e6, dtype=np.float64))
    layer(data(np.float64)[0])
    x, _ = data(np.float64, seed=1)
    expected = layer.eval()(x)
    np.testing.assert_allclose(layer.train()(x), expected, rtol=0, atol=1e-12)


def test_gradients_by_finite_differences_at_the_limits():
    """Where both corrections are clipped they are constants, and the backward is the derivative."""
    layer = randomize(nk.BatchRenorm(6, r_max=1.1, d_max=0.2, momentum=0.0, dtype=np.float64))
    layer.running_mean[...] = -10
    layer.running_var[...] = 0.01
    x, dy = (a[:2].copy() for a in data(np.float64))
    layer(x)
    found = {"x": layer.backward(dy)} | {name: grad.copy() for name, grad in layer.grads.items()}
    for what, value in {"x": x, **layer.params}.items():
        expected = numerical(lambda: float((dy * layer(x)).sum()), value)
        np.testing.assert_allclose(found[what], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"r_max": 0.5}, ValueError),
        ({"r_max": float("inf")}, ValueError),
        ({"r_max": "wide"}, TypeError),
        ({"d_max": -1}, ValueError),
        ({"d_max": "wide"}, TypeError),
    ],
    ids=str,
)
def test_bad_limits(arguments, error):
    ((argument, value),) = arguments.items()
    with pytest.raises(error, match=rf"^BatchRenorm: `{argument}` must"):
        nk.BatchRenorm(6, **arguments)
    layer = nk.BatchRenorm(6, **{argument: lambda step: value})
    with pytest.raises(error, match=rf"^BatchRenorm: `{argument}` must"):
        layer(data()[0])
    assert int(layer.num_batches_tracked) == 0
