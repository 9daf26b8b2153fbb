"""Arrays as NumPy users have them: any strides, byte order, alignment, subclass; and what `out=` may be."""

from dataclasses import replace

import numpy as np
import pytest

import checks
import normkit as nk
from cases import BY_NAME, DENSE, DTYPES, LAYOUTS, NORMS, lay_out, values

SHAPE = (4, 6, 5, 7)
NAMES = [row.name for row in NORMS]
STRIDED = [name for name in LAYOUTS if not name.startswith("channels") and name != "broadcast"]
OUT = ("c_order", "channels_last_memory", "fortran", "sliced", "reversed", "misaligned")
# Another memory may be summed in another order. |y|, |dx| < 20 here, |dweight| < 600 after sums of 140 terms a channel:
# the oracle's tolerance of such a sum is 24 eps·sum|terms| with sum|terms| < 1000; a wrong element is off by far more.
ROUNDING = 1000


@pytest.mark.parametrize(
    "layout", [name for name in LAYOUTS if not name.startswith("channels") and name != "broadcast"]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_any_strides_of_x_dy_and_parameters_equal_the_contiguous_copy(name, dtype, layout):
    """Within a few roundings (another memory may be summed in another order); read-only and byte-swapped exactly."""
    row, plain = BY_NAME[name], values(SHAPE, dtype)
    y, cache = row.forward(plain)
    expected = row.backward(plain.dy, cache)
    strided = lay_out(plain, layout)
    spread = lambda p: np.repeat(p, 3)[::-3][::-1]  # noqa: E731
    strided = replace(
        strided, weight=spread(plain.weight), bias=spread(plain.bias), running_mean=spread(plain.running_mean),
        running_var=spread(plain.running_var),
    )  # fmt: skip
    assert not strided.weight.flags.c_contiguous
    other_y, other_cache = row.forward(strided)
    other = row.backward(strided.dy, other_cache)
    for a, b in zip((other_y, *other), (y, *expected), strict=True):
        if layout in ("byte_swapped", "read_only", "misaligned"):
            assert checks.same_bits(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * np.finfo(dtype).eps)


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("name", NAMES)
def test_dense_outputs_keep_the_memory_layout(name, layout):
    row, i = BY_NAME[name], lay_out(values(SHAPE, DTYPES[0]), layout)
    y, cache = row.forward(i)
    dx = row.backward(i.dy, cache).dx
    assert i.x.strides == y.strides == dx.strides
    # dx has the layout of x, whatever that of dy.
    assert row.backward(np.ascontiguousarray(i.dy), cache).dx.strides == i.x.strides


@pytest.mark.parametrize("layout", ["sliced", "reversed", "broadcast", "misaligned", "byte_swapped", "read_only"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_new_writable_aligned_arrays(name, layout):
    row, i = BY_NAME[name], lay_out(values(SHAPE, DTYPES[0]), layout)
    y, cache = row.forward(i)
    for a in (y, row.backward(i.dy, cache).dx):
        assert type(a) is np.ndarray
        assert a.shape == i.x.shape
        assert a.flags.writeable
        assert a.flags.aligned
        assert not np.shares_memory(a, i.x)
        assert a.nbytes == i.x.size * i.x.itemsize
        assert 0 not in a.strides


@pytest.mark.parametrize("subclass", [np.ndarray, np.memmap, type("Tagged", (np.ndarray,), {})])
@pytest.mark.parametrize("name", NAMES)
def test_subclasses_are_read_as_arrays(name, subclass, tmp_path):
    row, i = BY_NAME[name], values(SHAPE, DTYPES[0])
    if subclass is np.memmap:
        i.x.tofile(tmp_path / "x")
        x = np.memmap(tmp_path / "x", i.x.dtype, "r", shape=SHAPE)
    else:
        x = i.x.view(subclass)
    y, cache = row.forward(replace(i, x=x))
    expected, plain = row.forward(i)
    assert checks.same_bits(y, expected)
    assert checks.same_bits(row.backward(i.dy, cache).dx, row.backward(i.dy, plain).dx)


@pytest.mark.parametrize(
    "out_layout", ["c_order", "channels_last_memory", "fortran", "sliced", "reversed", "misaligned"]
)
@pytest.mark.parametrize("layout", ["c_order", "channels_last_memory", "sliced"])
@pytest.mark.parametrize("name", NAMES)
def test_out_may_have_any_memory(name, layout, out_layout):
    row, i = BY_NAME[name], lay_out(values(SHAPE, DTYPES[0]), layout)
    expected, cache = row.forward(i)
    expected_dx = row.backward(i.dy, cache).dx
    out, _ = LAYOUTS[out_layout](np.full(SHAPE, np.nan, np.float32))
    whole = out if out.base is None else out.base
    untouched = np.isnan(whole).sum() - out.size if out_layout == "sliced" else None
    y, cache = row.forward(i, out=out)
    assert y is out
    np.testing.assert_allclose(out, expected, rtol=0, atol=ROUNDING * np.finfo(np.float32).eps)
    found = row.backward(i.dy, cache, out=out)
    assert found.dx is out
    np.testing.assert_allclose(out, expected_dx, rtol=0, atol=ROUNDING * np.finfo(np.float32).eps)
    if untouched is not None:
        assert np.isnan(whole).sum() == untouched  # the gaps between the slices


@pytest.mark.parametrize("layout", ["c_order", "channels_last_memory", "sliced", "reversed"])
@pytest.mark.parametrize("name", NAMES)
def test_dx_may_be_written_over_dy(name, layout):
    row, i = BY_NAME[name], lay_out(values(SHAPE, DTYPES[0]), layout)
    _, cache = row.forward(i)
    expected = row.backward(i.dy, cache)
    expected = [a.copy() for a in expected]
    found = row.backward(i.dy, cache, out=i.dy)
    assert found.dx is i.dy
    for a, b in zip(found, expected, strict=True):
        assert checks.same_bits(a, b)


@pytest.mark.parametrize("shape", [SHAPE, (64, 64, 33, 33)], ids=str)
@pytest.mark.parametrize("layout", ["c_order", "channels_last_memory"])
def test_inference_may_be_written_over_x(shape, layout):
    """Also through another view of exactly the same elements."""
    i = lay_out(values(shape, DTYPES[0]), layout)
    parameters = i.running_mean, i.running_var, i.weight, i.bias
    expected = nk.batch_norm_inference(i.x, *parameters)
    other = i.x[...]
    y = nk.batch_norm_inference(i.x, *parameters, out=other)
    assert y is other
    assert checks.same_bits(i.x, expected)


def overlapping(shape, kind):
    """Two views (x, out) of one buffer."""
    size = int(np.prod(shape))
    buffer = np.random.default_rng(0).standard_normal(2 * size).astype(np.float32)
    x = buffer[:size].reshape(shape)
    return {
        "same": (x, x),
        "same elements": (x, x[...]),
        "shifted": (x, buffer[1 : size + 1].reshape(shape)),
        "half": (x, buffer[size // 2 : size // 2 + size].reshape(shape)),
        "reversed": (x, x[..., ::-1]),
        "by one element": (x, buffer[size - 1 : 2 * size - 1].reshape(shape)),
    }[kind]


KINDS = ("shifted", "half", "reversed", "by one element")


@pytest.mark.parametrize("kind", ["same", "same elements", *KINDS])
@pytest.mark.parametrize("function", ["batch_norm", "group_norm"])
def test_training_output_must_not_overlap_x(function, kind):
    x, out = overlapping((4, 6, 5), kind)
    before = x.base.copy()
    call = {"batch_norm": nk.batch_norm, "group_norm": lambda x, out: nk.group_norm(x, 2, out=out)}[function]
    with pytest.raises(ValueError, match=rf"^{function}: `out` "):
        call(x, out=out)
    assert checks.same_bits(x.base, before)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_output_must_not_overlap_x_in_part(kind):
    x, out = overlapping((4, 6, 5), kind)
    before = x.base.copy()
    with pytest.raises(ValueError, match=r"^batch_norm_inference: `out` "):
        nk.batch_norm_inference(x, np.zeros(6), np.ones(6), out=out)
    assert checks.same_bits(x.base, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_dx_must_not_overlap_dy_in_part(name, kind):
    row, i = BY_NAME[name], values((4, 6, 5), DTYPES[0])
    _, cache = row.forward(i)
    dy, out = overlapping((4, 6, 5), kind)
    before = dy.base.copy()
    with pytest.raises(ValueError, match=rf"^{row.backward.__name__}: `out` "):
        row.backward(dy, cache, out=out)
    assert checks.same_bits(dy.base, before)


def test_interleaved_views_of_one_buffer_do_not_overlap():
    """Their extents do, their elements don't: the left and right halves of a concatenated feature map."""
    both = np.random.default_rng(0).standard_normal((4, 12, 5)).astype(np.float32)
    left, right = both[:, :6], both[:, 6:]
    expected, _ = nk.batch_norm(left.copy())
    y, _ = nk.batch_norm(left, out=right)
    assert y is right
    assert checks.same_bits(right, expected)
