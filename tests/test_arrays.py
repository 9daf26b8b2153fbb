"""Arrays as NumPy users have them: any strides, byte order, alignment, subclass; and what `out=` may be."""

import itertools
import platform
import sys
from dataclasses import replace

import numpy as np
import pytest

import checks
import layouts
import normkit as nk
from cases import ALL_DTYPES, BY_NAME, DENSE, DTYPES, LAYOUTS, NORMS, lay_out, values
from subprocesses import output

SHAPE = (5, 6, 5, 7)
NAMES = [row.name for row in NORMS]
UNFUSED = [row.name for row in NORMS if row.coverage != "thin"]
OUT = ("c_order", "channels_last_memory", "fortran", "sliced", "reversed", "misaligned")
# Another memory may be summed in another order. |y|, |dx| < 20 here: the oracle's tolerance is 8.4 eps (1e-6) times
# that for y, and 32 eps times the size of the terms of dx; a wrong element is off by far more.
ROUNDING = 1000


def prepared(name, shape=SHAPE, dtype=DTYPES[0]):
    return BY_NAME[name].prepare(values(shape, dtype))


def same_elsewhere(a, step=3):
    """Equal values, not contiguous."""
    return None if a is None else np.repeat(a, step, -1)[..., ::-step][..., ::-1]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("channels")])
@pytest.mark.parametrize(
    ("name", "dtype"), [(name, DTYPES[0]) for name in NAMES] + [(n, d) for n in UNFUSED for d in ALL_DTYPES[1:]],
    ids=str,
)  # fmt: skip
def test_any_strides_of_x_dy_and_parameters(name, dtype, layout):
    """As the oracle says of the same numbers; the same bits as of the contiguous copy where only the memory differs."""
    if not layouts.exists(layout, dtype):
        return
    row, plain = BY_NAME[name], prepared(name, dtype=dtype)
    i = lay_out(plain, layout)
    i = replace(
        i,
        **{p: same_elsewhere(getattr(i, p)) for p in ("weight", "bias", "running_mean", "running_var", "mask")},
    )
    assert not i.running_mean.flags.c_contiguous
    y, cache = row.forward(i)
    found = row.backward(i.dy, cache)
    if layout in ("byte_swapped", "read_only", "misaligned"):
        expected, cache = row.forward(plain)
        for a, b in zip((y, *found), (expected, *row.backward(plain.dy, cache)), strict=True):
            assert (a is b is None) or checks.same_bits(a, b)
    else:
        result = row.oracle(i)
        checks.forward(y, cache, result, i)
        checks.gradients(found, result, i, y)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("channels")])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_parameters_of_several_axes_in_any_memory(dtype, layout):
    """The same bits as of the same numbers in C order, and gradients in the parameters' shape and dtype."""
    if not layouts.exists(layout, dtype):
        return
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 4, 5, 6), dtype=np.float32)
    given = [LAYOUTS[layout](a)[0] for a in rng.standard_normal((2, 4, 5, 6)).astype(dtype)]
    plain = [np.array(a, order="C") for a in given]
    results = []
    for weight, bias in (plain, given):
        y, cache = nk.layer_norm(x, weight, bias, axis=(1, 2, 3))
        results.append((y, *nk.layer_norm_backward(dy, cache)))
    for expected, found in zip(*results, strict=True):
        assert checks.same_bits(expected, found.astype(expected.dtype))
    assert (results[1][2].shape, results[1][2].dtype) == (given[0].shape, given[0].dtype)


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("name", NAMES)
def test_dense_outputs_keep_the_memory_layout(name, layout):
    row, i = BY_NAME[name], lay_out(prepared(name), layout)
    y, cache = row.forward(i)
    dx = row.backward(i.dy, cache)[0]
    assert i.x.strides == y.strides == dx.strides
    # dx has the layout of x, whatever that of dy.
    assert row.backward(np.ascontiguousarray(i.dy), cache)[0].strides == i.x.strides


@pytest.mark.parametrize("layout", ["sliced", "reversed", "broadcast", "misaligned", "byte_swapped", "read_only"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_new_writable_aligned_arrays(name, layout):
    row, i = BY_NAME[name], lay_out(prepared(name), layout)
    y, cache = row.forward(i)
    for a in (y, row.backward(i.dy, cache)[0]):
        assert type(a) is np.ndarray
        assert a.shape == i.x.shape
        assert a.flags.writeable
        assert a.flags.aligned
        assert not np.shares_memory(a, i.x)
        assert a.nbytes == i.x.size * i.x.itemsize
        assert 0 not in a.strides


@pytest.mark.parametrize("shape", [(2, 1), (3, 5, 7), (2, 8, 33, 33), (3, 64, 96, 97)], ids=str)
def test_outputs_begin_on_lines_of_the_caches(shape):
    """Whatever their size, and wherever the allocator has put the others that are still there."""
    x = values(shape, DTYPES[0]).x
    y, cache = zip(*(nk.batch_norm(x) for _ in range(5)), strict=True)
    dx = [nk.batch_norm_backward(x, one).dx for one in cache]
    assert all(a.ctypes.data % 64 == 0 for a in (*y, *dx))
    starts = sorted((a.ctypes.data, a.nbytes) for a in (*y, *dx))
    assert all(here + size <= there for (here, size), (there, _) in itertools.pairwise(starts))


@pytest.mark.parametrize("name", NAMES)
def test_many_axes_of_which_no_two_are_one(name):
    """More than most arrays have, and gaps between all of them."""
    shape = (2, 4, 3, 2, 2, 3, 2)
    row, i = BY_NAME[name], prepared(name, shape)

    def spread(a):
        wide = np.full([2 * n for n in a.shape], np.nan, a.dtype)
        wide[(slice(None, None, 2),) * a.ndim] = a
        return wide[(slice(None, None, 2),) * a.ndim]

    i = replace(i, x=spread(i.x), dy=spread(i.dy))
    y, cache = row.forward(i)
    found, result = row.backward(i.dy, cache), row.oracle(i)
    checks.forward(y, cache, result, i)
    checks.gradients(found, result, i, y)


@pytest.mark.parametrize("subclass", [np.ndarray, np.memmap, type("Tagged", (np.ndarray,), {})])
@pytest.mark.parametrize("name", NAMES)
def test_subclasses_are_read_as_arrays(name, subclass, tmp_path):
    row, i = BY_NAME[name], prepared(name)
    if subclass is np.memmap:
        i.x.tofile(tmp_path / "x")
        x = np.memmap(tmp_path / "x", i.x.dtype, "r", shape=SHAPE)
    else:
        x = i.x.view(subclass)
    y, cache = row.forward(replace(i, x=x))
    expected, plain = row.forward(i)
    assert checks.same_bits(y, expected)
    assert checks.same_bits(row.backward(i.dy, cache)[0], row.backward(i.dy, plain)[0])


@pytest.mark.parametrize("out_layout", OUT)
@pytest.mark.parametrize("layout", ["c_order", "channels_last_memory", "sliced"])
@pytest.mark.parametrize("name", UNFUSED)
def test_out_may_have_any_memory(name, layout, out_layout):
    row, i = BY_NAME[name], lay_out(prepared(name), layout)
    expected, cache = row.forward(i)
    expected_dx = row.backward(i.dy, cache)[0]
    out, _ = LAYOUTS[out_layout](np.full(SHAPE, np.nan, np.float32))
    whole = out if out.base is None else out.base
    untouched = np.isnan(whole).sum() - out.size if out_layout == "sliced" else None
    y, cache = row.forward(i, out=out)
    assert y is out
    np.testing.assert_allclose(out, expected, rtol=0, atol=ROUNDING * np.finfo(np.float32).eps)
    found = row.backward(i.dy, cache, out=out)
    assert found[0] is out
    np.testing.assert_allclose(out, expected_dx, rtol=0, atol=ROUNDING * np.finfo(np.float32).eps)
    if untouched is not None:
        assert np.isnan(whole).sum() == untouched  # the gaps between the slices


@pytest.mark.parametrize("layout", ["c_order", "channels_last_memory", "sliced", "reversed"])
@pytest.mark.parametrize("name", NAMES)
def test_dx_may_be_written_over_dy(name, layout):
    row, i = BY_NAME[name], lay_out(prepared(name), layout)
    _, cache = row.forward(i)
    expected = row.backward(i.dy, cache)
    expected = [None if a is None else a.copy() for a in expected]
    found = row.backward(i.dy, cache, out=i.dy)
    assert found[0] is i.dy
    for a, b in zip(found, expected, strict=True):
        assert (a is b is None) or checks.same_bits(a, b)


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
@pytest.mark.parametrize("name", NAMES)
def test_output_must_not_overlap_x(name, kind):
    """Not at all where statistics are computed; not in part where they are given."""
    row = BY_NAME[name]
    if row.frozen and kind not in KINDS:
        return
    i = prepared(name, (4, 6, 5))
    x, out = overlapping((4, 6, 5), kind)
    before = x.base.copy()
    with pytest.raises(ValueError, match=rf"^{row.function}: `out` "):
        row.forward(replace(i, x=x), out=out)
    assert checks.same_bits(x.base, before)


@pytest.mark.parametrize("kind", ["same", "same elements", *KINDS])
@pytest.mark.parametrize("name", [name for name in NAMES if "residual" in name or "adaptive" in name])
def test_output_must_not_overlap_what_else_is_read(name, kind):
    row, i = BY_NAME[name], prepared(name, (4, 6, 5))
    other, out = overlapping((4, 6, 5), kind)
    before = other.base.copy()
    i = replace(i, style=other) if row.function == "adaptive_instance_norm" else replace(i, residual=other)
    with pytest.raises(ValueError, match=rf"^{row.function}: `out` "):
        row.forward(i, out=out)
    assert checks.same_bits(other.base, before)


@pytest.mark.parametrize("kind", ["same", "same elements", *KINDS])
def test_inference_output_must_not_overlap_a_residual(kind):
    residual, out = overlapping((4, 6, 5), kind)
    before = residual.base.copy()
    with pytest.raises(ValueError, match=r"^batch_norm_inference: `out` "):
        nk.batch_norm_inference(np.ones((4, 6, 5), np.float32), np.zeros(6), np.ones(6), residual=residual, out=out)
    assert checks.same_bits(residual.base, before)


@pytest.mark.parametrize("name", [name for name in NAMES if BY_NAME[name].frozen])
def test_output_may_be_x_where_statistics_are_given(name):
    row, i = BY_NAME[name], prepared(name)
    expected, _ = row.forward(i)
    y, _ = row.forward(i, out=i.x)
    assert y is i.x
    assert checks.same_bits(y, expected)


@pytest.mark.parametrize("name", [name for name in NAMES if "residual" in name or "adaptive" in name])
def test_what_else_is_read_may_have_another_memory_than_x(name):
    """A residual from a channels-last branch, a style in Fortran order: the same numbers, the same result."""
    row, i = BY_NAME[name], prepared(name)
    y, cache = row.forward(i)
    expected = row.backward(i.dy, cache)
    for layout in ("channels_last_memory", "fortran", "sliced", "reversed", "byte_swapped"):
        moved = {n: LAYOUTS[layout](getattr(i, n))[0] for n in ("residual", "style") if getattr(i, n) is not None}
        other_y, other_cache = row.forward(replace(i, **moved))
        other = row.backward(i.dy, other_cache)
        for a, b in zip((other_y, *other), (y, *expected), strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * np.finfo(np.float32).eps)


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
    row, i = BY_NAME[name], prepared(name, (4, 6, 5))
    _, cache = row.forward(i)
    dy, out = overlapping((4, 6, 5), kind)
    before = dy.base.copy()
    with pytest.raises(ValueError, match=rf"^{row.function}_backward: `out` "):
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


FAULTS = """
import resource, numpy as np, normkit as nk
x, one = np.zeros((1, 64, int({mib} * 2**20) // 256), np.float32), np.ones(64, np.float32)
found = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    {step}
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*found)
"""
STEPS = {
    "freed": "y = nk.batch_norm_inference(x, one, one); del y",
    "freed when there is the next": "y = nk.batch_norm_inference(x, one, one)",
    "two": "y, cache = nk.batch_norm(x, one, one); dx = nk.batch_norm_backward(y, cache); del y, cache, dx",
}


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or sys.maxsize < 2**32, reason="what is freed is kept as glibc does, on 64 bits"
)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mib", [1, 3.5, 4, 9, 21.5, 27])
def test_outputs_of_a_loop_are_made_of_memory_that_was_there(mib, step):
    """New pages, one fault for each, huge or not, cost more than the call."""
    found = [int(n) for n in output("-c", FAULTS.format(mib=mib, step=STEPS[step])).split()]
    if found[0] == 0:
        pytest.skip("this system counts no page faults")
    assert np.median(found[4:]) == 0, found
