"""Rows of USERS.md about arrays: strides, layouts, axes, arguments that do not fit."""

from dataclasses import replace

import numpy as np
import pytest

import checks
import normkit as nk
from cases import BY_NAME, DENSE, lay_out, prepared, values

F32, F64 = np.float32, np.float64


@pytest.mark.parametrize("name", [*BY_NAME])
def test_row_10_strided_gradients_equal_contiguous_ones(name):
    row, i = BY_NAME[name], prepared(name, (4, 6, 5, 7), F64)
    _, cache = row.forward(i)
    expected = row.backward(i.dy, cache)

    def check(dy, expected):
        for a, b in zip(row.backward(dy, cache), expected, strict=True):
            assert (a is b is None) or np.abs(a - b).max() <= 1e-12

    for strided in (i.dy[:, :, ::-1][:, :, ::-1], np.asfortranarray(i.dy), np.repeat(i.dy, 2, -1)[..., ::2]):
        check(strided, expected)
    # The gradient of y.sum().
    check(np.broadcast_to(F64(1), i.x.shape), row.backward(np.ones(i.x.shape), cache))


def test_row_15_bad_arguments_are_errors():
    """test_bad_input.py has the table."""
    for bad in (np.ones(()), np.ones(3), np.ones((2, 3), int), None, "x", object()):
        with pytest.raises((ValueError, TypeError), match=r"^batch_norm: `(x|axis)` "):
            nk.batch_norm(bad)


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("name", [*BY_NAME])
def test_row_20_outputs_keep_the_layout(name, layout):
    row, i = BY_NAME[name], lay_out(prepared(name, (4, 6, 5, 7)), layout)
    y, cache = row.forward(i)
    assert y.strides == row.backward(i.dy, cache)[0].strides == i.x.strides


@pytest.mark.parametrize("axis", [1, (1,), -3, (1, 3), (0, 2), (3, 1), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_row_21_layer_norm_over_any_axes_needs_no_transpose(dtype, axis):
    """As if the axes had been moved to the end, normalized there and moved back. test_norms.py has random tuples."""
    i = values((4, 6, 5, 7), np.dtype(dtype))
    axes = tuple(sorted(a % 4 for a in (axis if isinstance(axis, tuple) else (axis,))))
    kept = tuple(a for a in range(4) if a not in axes)
    i = replace(BY_NAME["layer_norm-channels"].prepare(i), axes=axes)
    shape = tuple(i.x.shape[a] for a in axes)
    weight, bias = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    if axis == (3, 1):
        weight = bias = None  # the contract does not say in which order their axes are then
    there, back = (*kept, *axes), np.argsort((*kept, *axes))
    last = tuple(range(4 - len(axes), 4))
    for function, arguments in (("layer_norm", (weight, bias)), ("rms_norm", (weight,))):
        forward, backward = getattr(nk, function), getattr(nk, f"{function}_backward")
        y, cache = forward(i.x, *arguments, axis=axis)
        moved, moved_cache = forward(np.ascontiguousarray(i.x.transpose(there)), *arguments, axis=last)
        found = backward(i.dy, cache)
        expected = backward(np.ascontiguousarray(i.dy.transpose(there)), moved_cache)
        within = 64 * np.finfo(dtype).eps
        np.testing.assert_allclose(y, moved.transpose(back), rtol=within, atol=within)
        np.testing.assert_allclose(cache.rstd, moved_cache.rstd, rtol=within)
        np.testing.assert_allclose(found.dx, expected.dx.transpose(back), rtol=within, atol=8 * within)
        for a, b in zip(found[1:], expected[1:], strict=True):
            assert (a is b is None) or np.abs(a - b).max() <= 140 * within  # sums of at most 140 terms


@pytest.mark.parametrize("layout", ["misaligned", "byte_swapped", "read_only"])
@pytest.mark.parametrize("name", [*BY_NAME])
def test_row_30_misaligned_read_only_byte_swapped(name, layout):
    row, plain = BY_NAME[name], prepared(name, (4, 6, 5, 7))
    y, cache = row.forward(plain)
    i = lay_out(plain, layout)
    other, other_cache = row.forward(i)
    assert checks.same_bits(other, y)
    assert checks.same_bits(row.backward(i.dy, other_cache)[0], row.backward(plain.dy, cache)[0])
