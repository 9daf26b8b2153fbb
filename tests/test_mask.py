"""A masked batch norm is that of the compacted array (row 22 of USERS.md); anything may lie behind the mask."""

import numpy as np
import pytest

import checks
import normkit as nk
import reference
from cases import ALL_DTYPES, BY_NAME, values
from data import with_mask, with_residual

SHAPES = [(40, 5), (7, 3, 19), (6, 4, 5, 7), (3, 2, 40, 41), (2, 3, 9000)]
ACTIVATIONS = (None, "relu", "leaky_relu", "silu")


def compacted(a, mask, axis=1):
    """(elements that count, C)"""
    return np.moveaxis(a, axis, -1)[np.broadcast_to(mask, a.shape[:1] + a.shape[2:])]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_compacted_array(shape, dtype, activation):
    i = with_mask(with_residual(values(shape, dtype)))
    running = [p.copy() for p in (i.running_mean, i.running_var)]
    how = {"activation": activation}
    y, cache = nk.batch_norm(i.x, i.weight, i.bias, *running, residual=i.residual, mask=i.mask, **how)
    found = nk.batch_norm_backward(i.dy, cache)
    x, dy, residual, small_y, dx, dresidual = (
        compacted(a, i.mask) for a in (i.x, i.dy, i.residual, y, found.dx, found.dresidual)
    )
    assert np.isfinite(x).all()
    assert 2 <= len(x) < i.x.size // shape[1]
    small = checks.plain(x, dy)
    small = type(i)(**{**vars(small), "weight": i.weight, "bias": i.bias, "residual": residual})
    result = reference.norm(x, i.weight, i.bias, residual=residual, **how)
    checks.forward(small_y, cache, result, small)
    checks.gradients(found._replace(dx=dx, dresidual=dresidual), result, small, small_y)
    plain = [p.copy() for p in (i.running_mean, i.running_var)]
    nk.batch_norm(np.ascontiguousarray(x), None, None, *plain)
    for a, b in zip(running, plain, strict=True):  # two orders of summing, each within 4 ulp, rounded to float32
        np.testing.assert_allclose(a, b, rtol=5 * np.finfo(np.float32).eps, atol=5 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("anything", [np.nan, np.inf, -np.inf, 6e4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_what_is_behind_the_mask_does_not_matter(dtype, layout, training, anything):
    """Bit for bit the same as with zeros there; y, dx and dresidual are exactly 0 behind."""
    i = with_residual(values((5, 4, 6, 7), dtype))
    mask = with_mask(i).mask
    axis = -1 if layout == "channels_last" else 1
    behind = ~np.expand_dims(mask, 1)

    def run(value):
        x, dy, residual = (
            np.moveaxis(np.where(behind, np.array(value, dtype), a), 1, axis) for a in (i.x, i.dy, i.residual)
        )
        running = [p.copy() for p in (i.running_mean, i.running_var)]
        how = {"training": training, "axis": axis, "activation": "silu", "residual": residual, "mask": mask}
        y, cache = nk.batch_norm(x, i.weight, i.bias, *running, **how)
        return y, *nk.batch_norm_backward(dy, cache), *running

    expected, found = run(0.0), run(anything)
    for a, b in zip(found, expected, strict=True):
        assert checks.same_bits(a, b)
    y, dx, _, _, dresidual, *_ = found
    for a in (y, dx, dresidual):
        assert (np.moveaxis(a, axis, 1)[np.broadcast_to(behind, i.x.shape)] == 0).all()


@pytest.mark.parametrize("form", [(5, 1, 1), (6, 1), (7,), (1, 1, 7), (5, 1, 7), (1, 6, 7)], ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_a_mask_is_broadcast(axis, form):
    i = values((5, 4, 6, 7), np.dtype(np.float32))
    x, dy = (np.moveaxis(a, 1, axis) for a in (i.x, i.dy))
    mask = np.random.default_rng(0).random(form) < 0.6
    mask.flat[0] = True
    whole = np.broadcast_to(mask, (5, 6, 7)).copy()
    assert 0 < whole.sum() < whole.size
    y, cache = nk.batch_norm(x, i.weight, i.bias, axis=axis, mask=whole)
    expected = nk.batch_norm_backward(dy, cache)
    for one in (mask, np.broadcast_to(mask, (5, 6, 7)), np.asfortranarray(whole), np.repeat(whole, 2, 1)[:, ::2]):
        one.flags.writeable = False
        other, cache = nk.batch_norm(x, i.weight, i.bias, axis=axis, mask=one)
        assert checks.same_bits(other, y)
        for a, b in zip(nk.batch_norm_backward(dy, cache), expected, strict=True):
            assert checks.same_bits(a, b)


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_frozen"])
def test_a_mask_of_nothing_but_true_is_no_mask(name):
    row, i = BY_NAME[name], values((5, 4, 6, 7), np.dtype(np.float32))
    result = row.oracle(i)
    y, cache = row.forward(i, mask=np.ones((5, 6, 7), bool))
    checks.forward(y, cache, result, i)
    checks.gradients(row.backward(i.dy, cache), result, i, y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_all_masked_is_an_empty_batch(dtype, training, activation):
    """Row 14 of USERS.md: nothing counts, so nothing changes, and there is no error."""
    x = np.full((3, 4, 5), np.nan, dtype)
    mean, var = np.full(4, 0.5), np.full(4, 0.25)
    weight, bias = np.ones(4, np.float32), np.full(4, 3.0)
    how = {"training": training, "mask": np.zeros((3, 5), bool), "activation": activation, "residual": x.copy()}
    y, cache = nk.batch_norm(x, weight, bias, mean, var, **how)
    found = nk.batch_norm_backward(x, cache)
    for a in (y, *found):
        assert (a == 0).all()
    assert (mean == 0.5).all()
    assert (var == 0.25).all()


def test_one_value_left_is_an_error_and_two_are_not():
    """Row 13 of USERS.md."""
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    mask, mean, var = np.zeros((3, 5), bool), np.full(4, 0.5), np.full(4, 0.25)
    mask[1, 2] = True
    with pytest.raises(ValueError, match=r"^batch_norm: `(x|mask)` "):
        nk.batch_norm(x, None, None, mean, var, mask=mask)
    assert (mean == 0.5).all()
    assert (var == 0.25).all()
    y, _ = nk.batch_norm(x, None, None, mean, var, training=False, mask=mask, eps=0.0)
    np.testing.assert_allclose(y[1, :, 2], (x[1, :, 2] - 0.5) / 0.5, rtol=1e-14)
    mask[2, 0] = True
    y, _ = nk.batch_norm(x, mask=mask, eps=0.0)
    np.testing.assert_allclose(np.abs(compacted(y, mask)), 1.0, rtol=1e-14)


def test_padding_does_not_move_the_statistics_of_sequences():
    """Row 22 of USERS.md, as users have it: (N, T, C) of lengths 3, 5 and 1, padded with zeros."""
    lengths = np.array([3, 5, 1])
    mask = np.arange(5) < lengths[:, None]
    x = np.where(mask[..., None], np.random.default_rng(0).standard_normal((3, 5, 2)) + 4, 0)
    _, cache = nk.batch_norm(x, axis=-1, mask=mask)
    np.testing.assert_allclose(cache.mean, x[mask].mean(0), rtol=1e-14)
    np.testing.assert_allclose(cache.rstd, 1 / np.sqrt(x[mask].var(0) + 1e-5), rtol=1e-13)
