"""Arguments made to do harm: what a review found to crash, to lie or to write where it should not."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import normkit as nk


class Liar(np.ndarray):
    """An array whose conversions return something else."""

    def astype(self, *_args, **_kwargs):
        return np.zeros(1, np.int8)

    copy = reshape = astype


def test_methods_of_a_subclass_are_not_trusted():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    weight = np.array([1, 2, 3], np.float32)
    expected, _ = nk.batch_norm(x, weight)
    y, _ = nk.batch_norm(x.astype(">f4").view(Liar), weight.astype(">f4").view(Liar))
    np.testing.assert_array_equal(y, expected)


def test_subclasses_of_masked_arrays_are_refused():
    class Masked(np.ma.MaskedArray):
        pass

    with pytest.raises(TypeError, match=r"batch_norm: `x` must .* mask"):
        nk.batch_norm(Masked(np.ones((4, 3), np.float32), mask=np.zeros((4, 3), bool)))


@pytest.mark.parametrize(
    "call",
    [
        "nk.batch_norm(np.empty((0, 2**42), np.float32))",
        "nk.moments(np.empty((0, 2**42), np.float32), 0)",
        "nk.moments(np.broadcast_to(np.float32(0), (2**42, 2)), 1)",
        "nk.batch_norm_inference(np.broadcast_to(np.float32(0), (1, 2**42)), b, b)",
    ],
)
def test_statistics_that_memory_cannot_hold(call):
    program = textwrap.dedent(f"""
        import numpy as np, normkit as nk
        b = np.broadcast_to(np.float32(0), 2**42)
        try:
            {call}
        except MemoryError:
            print("MemoryError")
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "MemoryError\n"), done.stderr


def test_more_groups_than_channels():
    with pytest.raises(ValueError, match="group_norm: `num_groups` must"):
        nk.group_norm(np.empty((1, 0), np.float32), 2**62)


@pytest.mark.parametrize("count", ["4611686018427387904", "100000"])
def test_threads_from_the_environment_are_bounded(count):
    program = "import normkit as nk; print(nk.get_num_threads())"
    environment = {"NORMKIT_NUM_THREADS": count}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1024\n"


@pytest.mark.parametrize("function", [nk.batch_norm, lambda x, out: nk.group_norm(x, 1, out=out)])
def test_out_over_an_x_that_is_copied(function):
    x = np.arange(12, dtype=">f8").reshape(4, 3)
    before = x.copy()
    with pytest.raises(ValueError, match="`out` must not overlap x"):
        function(x, out=x)
    np.testing.assert_array_equal(x, before)


def test_out_whose_elements_overlap_by_bytes():
    out = np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), (4, 3), (6, 2))
    with pytest.raises(ValueError, match="`out` must hold each element once"):
        nk.batch_norm_inference(np.ones((4, 3), np.float32), np.zeros(3), np.ones(3), out=out)


@pytest.mark.parametrize("other", ["x", "weight"])
def test_running_statistics_over_an_input(other):
    x, weight = np.random.default_rng(0).standard_normal((4, 3)), np.ones(3)
    mean = x[0] if other == "x" else weight
    before = x.copy(), weight.copy()
    with pytest.raises(ValueError, match=f"batch_norm: `running_mean` must not overlap {other}"):
        nk.batch_norm(x, weight, None, mean, np.ones(3))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(weight, before[1])


def test_narrow_running_statistics_overflow_quietly():
    x = 1e4 * np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)
    mean, var = np.zeros(2, np.float16), np.ones(2, np.float16)
    with np.errstate(all="raise"):
        nk.batch_norm(x, None, None, mean, var, momentum=1.0)
    np.testing.assert_array_equal(mean, x.mean(axis=0, dtype=np.float64).astype(np.float16))
    assert np.isinf(var).all()  # 1e8 is no float16


def test_no_dweight_from_an_x_that_was_overwritten():
    x = np.random.default_rng(0).standard_normal((8, 3))
    y, cache = nk.batch_norm(x, np.ones(3), None, np.zeros(3), np.ones(3), training=False, out=x)
    with pytest.raises(ValueError, match="batch_norm_backward: `cache` must still have its x"):
        nk.batch_norm_backward(np.ones_like(y), cache)
    _, cache = nk.batch_norm(x, None, None, np.zeros(3), np.full(3, 4.0), eps=0, training=False, out=x)
    np.testing.assert_array_equal(nk.batch_norm_backward(np.ones_like(x), cache).dx, np.full_like(x, 0.5))


def test_float64_columns_far_from_zero():
    x = 1e158 + 1e152 * np.random.default_rng(0).standard_normal((64, 3))
    y, _ = nk.batch_norm(x)
    expected = (x / 1e152 - (x / 1e152).mean(axis=0)) / (x / 1e152).std(axis=0)
    np.testing.assert_allclose(y, expected, atol=1e-8)  # 1e6 standard deviations from zero: six digits are gone


def test_counts_that_leave_int64():
    half = nk.Moments(2**62, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"Moments\.merge: `other`"):
        half.merge(half)


def test_all_axes():
    x = np.arange(12.0).reshape(3, 4)
    of = nk.moments(x, None)
    assert (of.count, float(of.mean), of.mean.shape) == (12, 5.5, ())


def test_a_counter_that_leaves_int64_is_not_loaded():
    layer = nk.BatchNorm(3)
    state = layer.state_dict() | {"num_batches_tracked": np.float64(1e30)}
    with pytest.raises(ValueError, match="num_batches_tracked"):
        layer.load_state_dict(state)
    assert layer.num_batches_tracked == 0
