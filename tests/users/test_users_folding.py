"""Rows of USERS.md about folding batch norm into convolutions, and about affine parameters per group."""

import numpy as np
import pytest

import checks
import normkit as nk
import reference
import tolerance
from tolerance import assert_within

F32, F64 = np.float32, np.float64


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_row_04_folding_a_square_transposed_convolution_scales_the_output_axis(groups):
    """In and out have equal sizes: a wrong axis has no shape to stumble over. test_fold.py has all kinds."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 4 // groups, 3, 3)), rng.standard_normal((2, 4, 5, 5))
    mean, var, weight, bias = rng.uniform(0.5, 2, (4, 4))
    folded = nk.fold_conv_bn(w, None, mean, var, weight, bias, eps=1e-3, groups=groups, transposed=True)
    y = reference.convolve(x, w, groups=groups, transposed=True)
    expected = reference.norm(y, weight, bias, mean=mean, var=var, eps=1e-3).y
    found = reference.convolve(x, *folded, groups=groups, transposed=True)
    np.testing.assert_allclose(found.astype(F64), expected.astype(F64), rtol=0, atol=1e-12)


def test_row_05_eps_is_required_when_folding():
    with pytest.raises(TypeError, match="eps"):
        nk.fold_conv_bn(np.ones((3, 2)), None, np.zeros(3), np.ones(3))


def test_row_24_folding_twice_from_one_convolution():
    """A convolution used twice: the second fold starts from the original weights."""
    w = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(F32)
    before, statistics = w.copy(), (np.ones(3, F32), np.full(3, 4.0, F32))
    first, _ = nk.fold_conv_bn(w, None, *statistics, eps=0.0)
    second, _ = nk.fold_conv_bn(w, None, *statistics, eps=0.0)
    assert checks.same_bits(w, before)
    assert checks.same_bits(first, second)
    assert (first == w / 2).all()


@pytest.mark.parametrize("given", range(8))
def test_row_25_fold_with_anything_missing_and_mixed_dtypes(given):
    rng = np.random.default_rng(0)
    conv_bias, weight, bias = (
        rng.standard_normal(3).astype(t) if given >> k & 1 else None for k, t in enumerate((F32, F64, F32))
    )
    w = rng.standard_normal((3, 2)).astype(F32)
    mean, var = rng.standard_normal(3), rng.uniform(1, 2, 3).astype(F32)
    found = nk.fold_conv_bn(w, conv_bias, mean, var, weight, bias, eps=1e-5)
    assert found[0].dtype == F32
    for a, b in zip(found, reference.fold(w, conv_bias, mean, var, weight, bias, eps=1e-5), strict=True):
        assert_within(a, b, tolerance.ulp(b, F32) / 2 * (1 + 1e-6) + 1e-14, "folded")


def test_row_27_group_norm_parameters_are_per_channel():
    with pytest.raises(ValueError, match=r"^group_norm: `weight` "):
        nk.group_norm(np.ones((2, 6, 4)), 3, np.ones(3))
