"""Arrays of more than 2³¹ elements, on sparse files mapped into memory. `make test-huge`: needs 9 GB of disk.

x is 0 but for a few numbers at its start, around element 2³¹ and at its end; float16, 4.3 GB. An index that wraps at
2³¹ or 2³² would read or write one of them in another place. What is expected follows from these numbers alone.
"""

import os

import numpy as np
import pytest

import normkit as nk

pytestmark = pytest.mark.skipif(
    "NORMKIT_HUGE" not in os.environ, reason="make test-huge: reads and writes 9 GB of files"
)
BEYOND = 2**31
F16, EPS = np.float16, 1e-5
SHAPES = {"rows": (1, 3, BEYOND // 3 + 4097), "columns": (BEYOND // 64 + 65, 64), "one": (1, 1, BEYOND + 4099)}
CHUNK = 1 << 24


class Huge:
    """A sparse x on disk, an output beside it, and what its channels hold."""

    def __init__(self, folder, shape):
        self.shape, self.size = shape, int(np.prod(shape, dtype=np.int64))
        assert self.size > BEYOND
        self.x = np.memmap(folder / "x", F16, "w+", shape=shape)
        self.out = np.memmap(folder / "out", F16, "w+", shape=shape)
        self.at = np.concatenate([np.arange(1000), BEYOND + np.arange(-500, 500), self.size - 1 - np.arange(1000)])
        self.values = np.resize([1.0, 2.0, 3.0, -1.5], self.at.size)
        self.x.reshape(-1)[self.at] = self.values
        channels = shape[1]
        self.count = self.size // channels
        self.channel = self.at % channels if len(shape) == 2 else self.at // shape[2]
        sums = lambda v: np.bincount(self.channel, v, channels)  # noqa: E731
        self.total, self.squares = sums(self.values), sums(self.values**2)

    def statistics(self):
        mean = self.total / self.count
        return mean, self.squares / self.count - mean**2

    def check(self, found, at_zero, at_values, within):
        """`found` is one number in each channel, `at_zero`, everywhere but where x is not 0."""
        assert (
            np.abs(found.reshape(-1)[self.at].astype(np.float64) - at_values).max() <= within * np.abs(at_values).max()
        )
        zero = self.channels(slice(2000, 2001))(found)[:, 0]  # of each channel, where x is 0
        assert np.abs(zero.astype(np.float64) - at_zero).max() <= within * np.abs(at_zero).max()
        others = 0
        for start in range(0, self.count, CHUNK // self.shape[1]):
            part = self.channels(slice(start, start + CHUNK // self.shape[1]))(found)
            others += np.count_nonzero(part.view(np.uint16) != zero[:, None].view(np.uint16))
        assert others <= self.at.size

    def channels(self, positions):
        """(C, positions) of an array like x."""
        if len(self.shape) == 2:
            return lambda a: a[positions].T
        return lambda a: a.reshape(self.shape[1], -1)[:, positions]


@pytest.fixture(params=SHAPES)
def huge(request, tmp_path):
    made = Huge(tmp_path, SHAPES[request.param])
    yield made
    del made
    for name in ("x", "out"):
        (tmp_path / name).unlink()


def test_batch_norm_forward_and_backward(huge):
    """dy is x itself: dbias = Σx, dweight = Σx·x̂. One rounding to float16 is 2⁻¹¹; twice that for all else."""
    mean, var = huge.statistics()
    rstd = 1 / np.sqrt(var + EPS)
    weight = np.linspace(1, 2, huge.shape[1])
    y, cache = nk.batch_norm(huge.x, weight, np.zeros_like(weight), eps=EPS, out=huge.out)
    np.testing.assert_allclose(cache.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(cache.rstd, rstd, rtol=1e-6)
    scale, c = weight * rstd, huge.channel
    huge.check(y, -mean * scale, (huge.values - mean[c]) * scale[c], 2**-10)
    dx, dweight, dbias = nk.batch_norm_backward(huge.x, cache, out=huge.out)
    np.testing.assert_allclose(dbias, huge.total, rtol=1e-6)
    dot = huge.squares - mean * huge.total  # Σ x·(x - mean)
    np.testing.assert_allclose(dweight, dot * rstd, rtol=1e-6)
    of = lambda x, c: scale[c] * (x - mean[c] - (x - mean[c]) * rstd[c] ** 2 * dot[c] / huge.count)  # noqa: E731
    channels = np.arange(huge.shape[1])
    huge.check(dx, of(0.0, channels), of(huge.values, c), 2**-9)


def test_moments_and_norms_of_all(huge):
    """One statistic of more than 2³¹ elements: moments, group norm, layer norm, RMS norm."""
    total, squares = huge.total.sum(), huge.squares.sum()
    mean = total / huge.size
    m = nk.moments(huge.x, None)
    assert m.count == huge.size
    np.testing.assert_allclose((m.mean, m.m2), (mean, squares - total * mean), rtol=1e-6)
    everything = tuple(range(len(huge.shape)))
    rstd = 1 / np.sqrt(squares / huge.size - mean**2 + EPS)
    one = np.ones(huge.shape[1])
    y, cache = nk.rms_norm(huge.x, axis=everything, eps=EPS, out=huge.out)
    np.testing.assert_allclose(cache.rstd, 1 / np.sqrt(squares / huge.size + EPS), rtol=1e-6)
    huge.check(y, 0 * one, huge.values * float(cache.rstd), 2**-10)
    if len(huge.shape) == 3:
        y, cache = nk.group_norm(huge.x, 1, eps=EPS, out=huge.out)
        np.testing.assert_allclose(cache.rstd.ravel(), [rstd], rtol=1e-6)
        huge.check(y, -mean * rstd * one, (huge.values - mean) * rstd, 2**-10)
