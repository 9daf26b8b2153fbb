"""Arrays as they come, further: every order of axes, windows, subclasses, arrays that share memory."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

import checks
import normkit as nk
from cases import BY_NAME, NORMS, prepared

SHAPE = (3, 4, 5, 7)
PLAIN = [row.name for row in NORMS if row.coverage != "thin"]
F32 = np.float32


def in_memory(a, order, flipped):
    """The same values, its axes in this order in memory, those flipped with negative strides."""
    view = a.transpose(order)[tuple(slice(None, None, -1 if axis in flipped else 1) for axis in order)]
    back = np.ascontiguousarray(view).transpose(np.argsort(order))
    return back[tuple(slice(None, None, -1 if axis in flipped else 1) for axis in range(a.ndim))]


@pytest.mark.parametrize("name", PLAIN)
def test_every_order_of_axes_in_memory(name):
    """All 24, each with some axes backwards: dy in another order than x."""
    row, i = BY_NAME[name], prepared(name, SHAPE)
    result = row.oracle(i)
    orders = [*permutations(range(4))]
    for k, order in enumerate(orders):
        flipped = {a for a in range(4) if k >> a & 1}
        x, dy = in_memory(i.x, order, flipped), in_memory(i.dy, orders[-1 - k], flipped)
        assert checks.same_bits(x, i.x)
        assert [abs(s) for s in x.transpose(order).strides] == sorted((abs(s) for s in x.strides), reverse=True)
        laid = replace(i, x=x, dy=dy, style=None if i.style is None else in_memory(i.style, order, flipped))
        y, cache = row.forward(laid)
        checks.forward(y, cache, result, i)
        checks.gradients(row.backward(dy, cache), result, i, y)


@pytest.mark.parametrize("name", PLAIN)
def test_windows_that_overlap_may_be_read(name):
    """Sliding windows: elements that lie in the same place, strides that are no multiple of one another."""
    signal = np.random.default_rng(0).standard_normal((3, 4, 40)).astype(F32)
    windows = np.lib.stride_tricks.sliding_window_view(signal, 9, axis=2)[:, :, ::3]
    row = BY_NAME[name]
    i = replace(prepared(name, windows.shape), x=windows, dy=windows[:, :, ::-1])
    plain = replace(i, x=windows.copy(), dy=i.dy.copy())
    if i.mask is not None:
        i, plain = (replace(j, mask=np.ones_like(j.mask)) for j in (i, plain))
    result = row.oracle(plain)
    y, cache = row.forward(i)
    checks.forward(y, cache, result, plain)
    checks.gradients(row.backward(i.dy, cache), result, plain, y)


@pytest.mark.parametrize("name", [*BY_NAME])
def test_a_matrix_is_read_as_the_array_it_is(name):
    """`np.matrix` multiplies and slices in its own way; nothing of that is used, and plain arrays come back."""
    row = BY_NAME[name]
    if not row.defined((6, 4)):
        return
    i = prepared(name, (6, 4))
    y, cache = row.forward(i)
    found = row.backward(i.dy, cache)
    as_matrix = {n: np.asarray(a).view(np.matrix) for n in ("x", "dy", "residual") if (a := getattr(i, n)) is not None}
    m = replace(i, **as_matrix)
    other, other_cache = row.forward(m)
    for a, b in zip((other, *row.backward(m.dy, other_cache)), (y, *found), strict=True):
        assert (a is b is None) or (type(a) is np.ndarray and checks.same_bits(a, b))


def refuses(function, call, **masked):
    with pytest.raises(TypeError, match=rf"^{function}: `\w+` must be a plain array, as its mask would be ignored"):
        call(**masked)


@pytest.mark.parametrize("name", [*BY_NAME])
def test_masked_arrays_are_refused_everywhere(name):
    """Their mask would be ignored without a word; `mask=` is for that."""
    row, i = BY_NAME[name], prepared(name, SHAPE)
    _, cache = row.forward(i)
    for what in ("x", "weight", "bias", "residual", "style", "mask"):
        if getattr(i, what) is not None:
            refuses(row.function, lambda a, what=what: row.forward(replace(i, **{what: a})), a=masked(getattr(i, what)))
    refuses(row.function, lambda a: row.forward(i, out=a), a=masked(i.x))
    for how in ("dy", "out"):
        dy, out = (masked(i.dy), None) if how == "dy" else (i.dy, masked(i.dy))
        refuses(f"{row.function}_backward", lambda dy, out: row.backward(dy, cache, out=out), dy=dy, out=out)


def masked(a):
    return np.ma.masked_array(a.copy(), mask=np.zeros(a.shape, bool))


def test_masked_weights_and_statistics_are_refused():
    w, one = np.ones((4, 3), F32), np.ones(4, F32)
    refuses("moments", lambda a: nk.moments(a, 0), a=masked(w))
    refuses("weight_norm", lambda a: nk.weight_norm(a, one), a=masked(w))
    refuses("spectral_norm", lambda a: nk.spectral_norm(a, one, np.ones(3)), a=masked(w))
    refuses("scaled_weight_standardization", lambda a: nk.scaled_weight_standardization(a), a=masked(w))
    refuses("fold_conv_bn", lambda a: nk.fold_conv_bn(w, None, a, one, eps=1e-5), a=masked(one))
    refuses("batch_norm", lambda a: nk.batch_norm(w.T, running_mean=a, running_var=one), a=masked(one))


@pytest.mark.parametrize("name", [*BY_NAME])
def test_inputs_may_share_memory(name):
    """dy, residual and style are x itself, weight and bias are views of it: the bits of separate copies."""
    row, i = BY_NAME[name], prepared(name, SHAPE)
    x = np.nan_to_num(i.x)  # what is behind a mask may be anything
    shared = {"x": x, "dy": x, "residual": None if i.residual is None else x, "style": None if i.style is None else x}
    if i.weight is not None and i.axes is None:
        shared |= {"weight": x[0, :, 0, 0], "bias": x[0, :, 0, 0]}
    if i.axes == (1,):
        shared |= {"weight": x[0, :, 0, 0], "bias": None if i.bias is None else x[0, :, 0, 0]}
    together = replace(i, **shared)
    apart = replace(i, **{n: None if a is None else a.copy() for n, a in shared.items()})
    before = x.copy()
    results = []
    for j in (together, apart):
        y, cache = row.forward(j)
        results.append((y, *row.backward(j.dy, cache)))
    for a, b in zip(*results, strict=True):
        assert (a is b is None) or checks.same_bits(a, b)
    assert checks.same_bits(x, before)
