"""Every norm of the table against the oracle: the table's cases, then random shapes, strides, dtypes and magnitudes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

import checks
import normkit as nk
import tolerance
from cases import BY_NAME, NORMS, cases, values
from strategies import calls
from table import check_case

# One search for each function, plain, fused and masked.
SEARCHES = {}
for row in NORMS:
    kind = "mask" if "-mask" in row.name else "fused" if row.coverage == "thin" else "plain"
    SEARCHES.setdefault(f"{row.function}-{kind}", []).append(row.name)


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in cases()])
def test_table(case):
    check_case(case)


@pytest.mark.parametrize("search", SEARCHES)
def test_any_input(search):
    @given(calls(SEARCHES[search]))
    def run(call):
        row, i = call
        if not row.defined(np.moveaxis(i.x, i.axis, 1).shape):
            if row.function != "adaptive_instance_norm":
                with pytest.raises(ValueError, match=rf"^{row.function}: `x` "):
                    row.forward(i)
            return
        result = row.oracle(i)
        y, cache = row.forward(i)
        checks.forward(y, cache, result, i)
        checks.gradients(row.backward(i.dy, cache), result, i, y)

    run()


@pytest.mark.parametrize("name", ["instance_norm", "group_norm", "layer_norm-sample", "rms_norm-sample"])
def test_samples_are_independent(name):
    i = BY_NAME[name].prepare(values((5, 6, 11), np.dtype(np.float32)))
    together, _ = BY_NAME[name].forward(i)
    for n in range(5):
        alone, _ = BY_NAME[name].forward(replace(i, x=i.x[n : n + 1]))
        assert checks.same_bits(alone, together[n : n + 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(70, 2049), (300, 3072), (9, 4096), (9, 4097), (20, 5000)], ids=str)
@pytest.mark.parametrize("name", ["layer_norm-sample", "rms_norm-sample"])
def test_long_rows(name, shape, dtype):
    """Gradients of parameters are taken along with each row of up to 4096 elements, with pieces of longer rows where
    these divide (5000), in a pass of their own where they do not (4097).
    The bits of y and dx are the same whatever the strides."""
    row, i = BY_NAME[name], BY_NAME[name].prepare(values(shape, np.dtype(dtype)))
    result = row.oracle(i)
    with nk.num_threads(1):
        y, cache = row.forward(i)
        alone = row.backward(i.dy, cache)
    checks.forward(y, cache, result, i)
    checks.gradients(alone, result, i, y)
    wide = np.repeat(i.x, 2, axis=-1)[..., ::2]
    assert checks.same_bits(y, row.forward(replace(i, x=wide))[0])
    with nk.num_threads(3):
        assert checks.same_bits(y, row.forward(i)[0])
        together = row.backward(i.dy, cache)
        in_place = row.backward(dy := i.dy.copy(), cache, out=dy)
    apart = np.empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
    assert checks.same_bits(alone.dx, row.backward(i.dy, cache, out=apart).dx)
    for other in (together, in_place):
        pairs = zip(alone, other, strict=True)
        assert all(a is b is None or checks.same_bits(a, b) for a, b in pairs)


def test_dx_in_the_memory_of_a_wider_dy():
    """Gradients of parameters that are zero are asked for again, after other elements of dy have made room for dx."""
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal((70, 40)).astype(np.float16), rng.standard_normal((70, 40)).astype(np.float32)
    dy[:, 3] = 0
    _, cache = nk.layer_norm(x, np.ones(40), np.zeros(40))
    apart = nk.layer_norm_backward(dy, cache)
    together = nk.layer_norm_backward(dy, cache, out=dy.view(np.float16)[:, ::2])
    assert np.shares_memory(together.dx, dy)
    assert together.dweight[3] == together.dbias[3] == 0
    assert all(checks.same_bits(a, b) for a, b in zip(apart, together, strict=True))


STATISTICS = {
    "batch_norm": (6,),
    "batch_norm_frozen": (6,),
    "group_norm": (5, 2),
    "instance_norm": (5, 6),
    "layer_norm-channels": (5, 7, 11),
    "layer_norm-sample": (5,),
    "layer_norm-last": (5, 6, 7),
    "layer_norm-but_channels": (6,),
    "rms_norm-channels": (5, 7, 11),
    "rms_norm-sample": (5,),
    "batch_renorm": (6,),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_shapes_of_the_statistics(name):
    i = BY_NAME[name].prepare(values((5, 6, 7, 11), np.dtype(np.float32)))
    _, cache = BY_NAME[name].forward(i)
    assert cache.rstd.shape == STATISTICS[name]
    assert cache.rstd.dtype == np.float64


EXTREMES = [1e-36, 1e-30, 1e-20, 1e20, 1e30, 1e36]  # sigma² and 1/sigma² leave float32's range, the results do not
EXTREME_SHAPES = [(4, 6), (3, 6, 7, 7), (2, 6, 5000)]
COMPUTING = [row.name for row in NORMS if row.coverage != "thin" and not row.frozen and row.function != "batch_renorm"]


def extreme(name, shape, scale):
    """x times a scale; the style, too. Without parameters, which would hide what happens to the statistics."""
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, *shape))
    i = BY_NAME[name].prepare(checks.plain((x * scale).astype(np.float32), dy.astype(np.float32), eps=0.0, groups=2))
    style = None if i.style is None else (i.style * np.float32(scale)).astype(np.float32)
    return replace(i, weight=None, bias=None, style=style)


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("shape", EXTREME_SHAPES, ids=str)
@pytest.mark.parametrize("name", COMPUTING)
def test_float32_extremes(name, scale, shape):
    """Backward, too: dx is about 1/sigma and fits; the coefficient of x - mean is about 1/sigma² and does not."""
    row, i = BY_NAME[name], extreme(name, shape, scale)
    if row.function in ("instance_norm", "adaptive_instance_norm") and len(shape) == 2:
        return  # one value has no variance, and there is no eps
    result = row.oracle(i)
    y, cache = row.forward(i)
    checks.forward(y, cache, result, i)
    checks.gradients(row.backward(i.dy, cache), result, i, y)


@pytest.mark.parametrize("name", [name for name in COMPUTING if "adaptive" not in name])
def test_subnormal_inputs_are_not_flushed(name):
    """eps = 1e-5 dominates: y = (x - mean)·316, itself subnormal, hence exact to a relative 1e-6 plus 2 of the
    smallest numbers (rounding of the mean's low part and of the product)."""
    x = (np.random.default_rng(2).integers(-700, 700, (6, 4, 9)) * np.float64(2.0**-149)).astype(np.float32)
    i = replace(BY_NAME[name].prepare(checks.plain(x, x, groups=2)), weight=None, bias=None)
    y, _ = BY_NAME[name].forward(i)
    expected = BY_NAME[name].oracle(i).y
    assert (expected != 0).any()
    tolerance.assert_within(y, expected, 1e-6 * np.abs(expected) + tolerance.tiny(np.float32, 2), "y")
