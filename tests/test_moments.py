"""Moments: exact where they can be, within 4 ulp of float32 elsewhere, and mergeable."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import layouts
import normkit as nk
import reference
import tolerance
from cases import ALL_DTYPES, LAYOUTS, SHAPES, values
from checks import moments as check


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_per_channel(shape, dtype):
    axes = tuple(a for a in range(len(shape)) if a != 1)
    check(values(shape, dtype).x, axes, dtype)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).flatmap(
        lambda shape: st.tuples(st.just(shape), st.sets(st.integers(0, len(shape) - 1)))
    ),
    st.sampled_from(ALL_DTYPES),
    st.sampled_from(tuple(LAYOUTS)),
    st.sampled_from((0.0, 1.0, 1e3, -1e6)),
    st.integers(0, 2**32 - 1),
)
def test_any_axes(shape_and_axes, dtype, layout, mean, seed):
    shape, axes = shape_and_axes
    assume(layouts.exists(layout, dtype))
    mean = min(max(mean, -1e4), 1e4) if dtype == np.float16 else mean  # within its range
    x = (np.random.default_rng(seed).standard_normal(shape) + mean).astype(dtype)
    if len(shape) > 1:
        x, _ = LAYOUTS[layout](x)
    axes = tuple(a - x.ndim if seed % 2 else a for a in axes)
    check(x, axes[0] if len(axes) == 1 else axes, dtype)


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-20, 1e20, 1e30, 1e37])
def test_variance_beyond_the_range_of_float32(scale):
    """x² leaves float32's range, x does not; the promise of 4 ulp has no range."""
    x = (np.random.default_rng(3).standard_normal((3, 10_000)) * scale).astype(np.float32)
    check(x, 1, x.dtype)
    check(x, 0, x.dtype)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_constants_have_exactly_their_value_and_no_variance(dtype):
    for value in (0.1, -3.3e4, 1e-7) if dtype == np.float16 else (0.1, -3.3e10, 1e-30, 16_777_217.0):
        x = np.full((7, 5001), value, dtype)
        for axis in (0, 1, (0, 1)):
            m = nk.moments(x, axis)
            assert (m.mean == x[0, 0]).all()
            assert (m.m2 == 0).all()


def test_var_takes_ddof():
    x = np.random.default_rng(0).standard_normal((11, 3))
    m = nk.moments(x, 0)
    for ddof in (0, 1, 2):
        np.testing.assert_allclose(m.var(ddof), x.var(0, ddof=ddof), rtol=1e-13)
        np.testing.assert_allclose(m.var(ddof=ddof), x.var(0, ddof=ddof), rtol=1e-13)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.sampled_from(ALL_DTYPES), st.integers(0, 2**32 - 1))
def test_merged_parts_equal_the_whole(sizes, dtype, seed):
    """Uneven and empty parts, merged two by two in any order.

    Every merge adds a few roundings in float64 to the parts' own error.
    """
    rng = np.random.default_rng(seed)
    parts = [(rng.standard_normal((n, 4)) * 2 + 100).astype(dtype) for n in sizes]
    left = [nk.moments(part, 0) for part in parts]
    while len(left) > 1:
        one, other = (left.pop(rng.integers(len(left))) for _ in range(2))
        left.append(one.merge(other))
    check_merged(left[0], np.concatenate(parts), dtype)


def check_merged(merged, whole, dtype):
    assert merged.count == len(whole)
    if not len(whole):
        return
    mean, m2 = reference.moments(whole, 0)
    dtype = tolerance.compute(dtype)
    n, eps = tolerance.STATISTIC[dtype.itemsize], tolerance.eps_of(dtype)
    # The parts' means are each within n ulp, which moves m2 by up to 2·count·sigma·(that), as between-part variance.
    error = n * tolerance.ulp(np.maximum(np.abs(mean), 1), dtype)
    tolerance.assert_within(merged.mean, mean, error, "mean")
    sigma = np.sqrt(m2 / len(whole))
    within = n * eps * m2 + 2 * len(whole) * (sigma + error) * error
    tolerance.assert_within(merged.m2, m2, within, "m2")


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8), st.sampled_from(ALL_DTYPES), st.randoms(use_true_random=False)
)
def test_parts_merge_in_any_order(sizes, dtype, random):
    """Any two of what is left, until one is left, each sent as a pickle: what an engine's reduction does."""
    rng = np.random.default_rng(random.getrandbits(32))
    parts = [(rng.standard_normal((n, 4)) * 2 + 100).astype(dtype) for n in sizes]
    left = [nk.moments(part, 0) for part in parts]
    while len(left) > 1:
        random.shuffle(left)
        left.append(pickle.loads(pickle.dumps(left.pop())).merge(pickle.loads(pickle.dumps(left.pop()))))
    check_merged(left[0], np.concatenate(parts), dtype)


def test_merge_is_exact_on_exact_numbers_and_changes_nothing():
    a, b = nk.moments(np.array([1.0, 3.0]), 0), nk.moments(np.array([5.0, 7.0]), 0)
    for merged in (a.merge(b), b.merge(a)):
        assert (merged.count, float(merged.mean), float(merged.m2)) == (4, 4.0, 20.0)
    assert (a.count, float(a.mean), float(a.m2)) == (2, 2.0, 2.0)
    assert (b.count, float(b.mean), float(b.m2)) == (2, 6.0, 2.0)


def test_merge_with_nothing_is_the_other():
    nothing = nk.Moments(0, np.zeros(3), np.zeros(3))
    x = np.random.default_rng(0).standard_normal((5, 3))
    m = nk.moments(x, 0)
    for merged in (nothing.merge(m), m.merge(nothing)):
        assert merged.count == 5
        assert (merged.mean == m.mean).all()
        assert (merged.m2 == m.m2).all()


def test_survives_pickle_copy_and_construction():
    m = nk.moments(np.random.default_rng(0).standard_normal((5, 3)), 0)
    for again in (pickle.loads(pickle.dumps(m)), copy.deepcopy(m), nk.Moments(m.count, m.mean, m.m2)):
        assert again.count == m.count
        assert (again.mean == m.mean).all()
        assert (again.m2 == m.m2).all()


@pytest.mark.parametrize("offset", range(9))
def test_survives_a_pickle_whose_buffers_lie_anywhere(offset):
    """Protocol 5: engines send the arrays apart from the pickle, and they arrive at any address (dask.distributed)."""
    m = nk.moments(np.random.default_rng(0).standard_normal((5, 3)), 0)
    buffers = []
    head = pickle.dumps(m, protocol=5, buffer_callback=buffers.append)
    received = [memoryview(bytes(offset) + bytes(buffer.raw()))[offset:] for buffer in buffers]
    again = pickle.loads(head, buffers=received)
    assert again.count == m.count
    assert (again.mean == m.mean).all()
    assert (again.m2 == m.m2).all()


def test_nan_stays_in_its_statistic():
    x = np.random.default_rng(0).standard_normal((6, 5, 4)).astype(np.float32)
    clean = nk.moments(x, (0, 2))
    x[2, 3, 1] = np.nan
    m = nk.moments(x, (0, 2))
    assert np.isnan(m.mean).tolist() == [False, False, False, True, False]
    assert np.isnan(m.m2).tolist() == [False, False, False, True, False]
    assert (m.mean[:3] == clean.mean[:3]).all()
