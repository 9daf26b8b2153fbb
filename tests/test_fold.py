"""Folding: the folded layer equals batch_norm(convolution) in float64, for every kind of convolution."""

import numpy as np
import pytest

import checks
import normkit as nk
import reference
from cases import DTYPES, LAYOUTS
from tolerance import assert_within

# name -> (in, out, groups)
GROUPS = {"one": (4, 6, 1), "two": (4, 6, 2), "depthwise": (4, 4, 4), "multiplier": (3, 6, 3)}
KERNELS = {"linear": (), "1d": (3,), "2d": (3, 2), "3d": (2, 1, 3), "pointwise": (1, 1)}
GIVEN = [(True, True, True), (False, True, True), (True, False, True), (True, True, False), (False, False, False)]


def problem(kind, kernel, transposed, dtype=np.float64):
    n_in, n_out, groups = GROUPS[kind]
    shape = (n_in, n_out // groups) if transposed else (n_out, n_in // groups)
    rng = np.random.default_rng([n_in, n_out, groups, *kernel])
    w = rng.standard_normal((*shape, *kernel)).astype(dtype)
    x = rng.standard_normal((3, n_in, *(k + 3 for k in kernel)))
    conv_bias, mean, weight, bias = rng.standard_normal((4, n_out)).astype(dtype)
    return w, conv_bias, mean, rng.uniform(0.1, 3, n_out).astype(dtype), weight, bias, groups, x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("given", GIVEN, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", GROUPS)
def test_folded_layer_equals_convolution_then_batch_norm(kind, kernel, transposed, given, dtype):
    """Each product w·x moves by 2 roundings of w (float64 inside, one rounding out), hence 2 eps of the sum of their
    magnitudes; the bias likewise."""
    w, conv_bias, mean, var, weight, bias, groups, x = problem(kind, KERNELS[kernel], transposed, dtype)
    conv_bias, weight, bias = (p if g else None for p, g in zip((conv_bias, weight, bias), given, strict=True))
    how = {"groups": groups, "transposed": transposed}
    folded, shift = nk.fold_conv_bn(w, conv_bias, mean, var, weight, bias, eps=1e-3, **how)
    before = reference.convolve(x, w, conv_bias, **how)
    expected = reference.norm(before, weight, bias, mean=mean, var=var, eps=1e-3).y
    found = reference.convolve(x, folded, shift, **how)
    magnitude = reference.convolve(np.abs(x), np.abs(folded), np.abs(shift), **how)
    # The fold subtracts the mean from the bias: their magnitudes count before they cancel.
    per_channel = np.abs(mean) + (0 if conv_bias is None else np.abs(conv_bias))
    scale = (1 if weight is None else np.abs(weight)) / np.sqrt(var)
    parts = per_channel * scale + (0 if bias is None else np.abs(bias))
    magnitude = magnitude + parts.reshape(1, -1, *(1,) * (x.ndim - 2))
    rounding = 2 * np.finfo(dtype).eps + 8 * np.finfo(np.float64).eps
    assert_within(found, expected, rounding * magnitude, "output")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", GROUPS)
def test_one_rounding(kind, transposed):
    """float32 out of float64 arithmetic: half an ulp, and the 1e-8 that float64 and the cancelling bias may add."""
    w, conv_bias, mean, var, weight, bias, groups, _ = problem(kind, (3, 2), transposed, np.float32)
    how = {"eps": 1e-5, "groups": groups, "transposed": transposed}
    folded, shift = nk.fold_conv_bn(w, conv_bias, mean, var, weight, bias, **how)
    exact_w, exact_b = reference.fold(w, conv_bias, mean, var, weight, bias, **how)
    assert folded.dtype == shift.dtype == np.float32
    for found, exact in ((folded, exact_w), (shift, exact_b)):
        half = np.spacing(np.abs(exact).astype(np.float32)) / 2
        assert_within(found, exact, half.astype(np.float64) * (1 + 1e-6) + 1e-14, "folded")


@pytest.mark.parametrize("layout", ["sliced", "reversed", "fortran", "misaligned", "byte_swapped", "read_only"])
def test_any_memory(layout):
    w, conv_bias, mean, var, weight, bias, groups, _ = problem("two", (3, 2), False, np.float32)
    expected = nk.fold_conv_bn(w, conv_bias, mean, var, weight, bias, eps=1e-5, groups=groups)
    other, _ = LAYOUTS[layout](w)
    strided = [np.repeat(p, 2)[::2] for p in (conv_bias, mean, var, weight, bias)]
    for a, b in zip(expected, nk.fold_conv_bn(other, *strided, eps=1e-5, groups=groups), strict=True):
        assert checks.same_bits(a, b)


def test_parameters_may_be_shaped_as_they_broadcast_and_mixed():
    w, conv_bias, mean, var, weight, bias, groups, _ = problem("two", (3, 2), False, np.float32)
    expected = nk.fold_conv_bn(w, conv_bias, mean, var, weight, bias, eps=1e-5, groups=groups)
    shaped = mean[None], var[None, :, None, None], weight[None].astype(np.float64), bias.astype(np.float64)
    for a, b in zip(expected, nk.fold_conv_bn(w, conv_bias, *shaped, eps=1e-5, groups=groups), strict=True):
        assert checks.same_bits(a.ravel(), b.ravel())


def test_new_arrays_and_unchanged_inputs():
    w, conv_bias, mean, var, weight, bias, groups, _ = problem("one", (3,), False)
    arrays = w, conv_bias, mean, var, weight, bias
    before = [a.copy() for a in arrays]
    first = nk.fold_conv_bn(*arrays, eps=1e-5, groups=groups)
    second = nk.fold_conv_bn(*arrays, eps=1e-5, groups=groups)
    for a, b in zip(arrays, before, strict=True):
        assert checks.same_bits(a, b)
    for a, b in zip(first, second, strict=True):
        assert checks.same_bits(a, b)
        assert not np.shares_memory(a, b)
        assert not any(np.shares_memory(a, other) for other in arrays)


def test_eps_is_required():
    w, conv_bias, mean, var, weight, bias, *_ = problem("one", (3,), False)
    with pytest.raises(TypeError, match="eps"):
        nk.fold_conv_bn(w, conv_bias, mean, var, weight, bias)
