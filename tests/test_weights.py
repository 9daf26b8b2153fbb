"""Weight norm, spectral norm and scaled weight standardization."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import checks
import normkit as nk
import reference_weights as oracle
from cases import DTYPES, HALVES, LAYOUTS
from checks_weights import WIDE, check_standardization, check_weight_norm, run_all, scales, values, vectors
from test_gradients import numerical

F32, F64 = np.float32, np.float64
# Linear, convolutions (also depthwise and transposed), long rows, many rows.
SHAPES = ((5, 7), (1, 1), (6, 4, 3, 3), (4, 1, 3), (33, 17, 2, 3), (3, 5003), (700, 3), (8, 2, 2, 3, 2))
# Those that keep the axes where they are.
PLACES = tuple(name for name in LAYOUTS if name not in ("channels_last", "channels_first"))
FUNCTIONS = ("weight_norm", "spectral_norm", "scaled_weight_standardization")


# --- against the oracle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", PLACES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_oracle(shape, layout, dtype):
    weight, dw = (LAYOUTS[layout](a)[0] for a in values(shape, dtype))
    assert weight.shape == shape
    for w, dweight in run_all(weight, dw):
        if layout in ("c_order", "fortran", "channels_last_memory"):  # dense
            assert checks.stride_order(w) == checks.stride_order(dweight) == checks.stride_order(weight)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", ["c_order", "sliced", "channels_last_memory", "reversed", "misaligned"])
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (33, 17, 2, 3), (3, 1003), (700, 3)], ids=str)
def test_halves(shape, layout, dtype):
    weight, dw = (LAYOUTS[layout](a)[0] for a in values(shape, dtype))
    for w, dweight in run_all(weight, dw):
        assert w.dtype == dweight.dtype == dtype


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    layouts=st.tuples(st.sampled_from(PLACES), st.sampled_from(PLACES)),
    dtypes=st.tuples(*[st.sampled_from(DTYPES)] * 3),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_weight_and_gradient(shape, layouts, dtypes, exponent, seed):
    rng = np.random.default_rng(seed)
    weight, dw = rng.standard_normal((2, *shape))
    weight = LAYOUTS[layouts[0]]((weight * 10.0**exponent).astype(dtypes[0]))[0]
    dw = LAYOUTS[layouts[1]](dw.astype(dtypes[1]))[0]
    for dim in (*range(-len(shape), len(shape)), None):
        check_weight_norm(weight, dw, scales(shape, dim, dtypes[2]), dim)
    if exponent > -20 and layouts[0] != "broadcast":  # above eps; constants of this size have deviations of their own
        gain = scales(shape, 0, dtypes[2])
        if weight[0].size > 1:
            check_standardization(weight, dw, gain, eps=1e-4 if exponent > 0 else 0)


@pytest.mark.parametrize("dw_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dw_of_another_dtype(dtype, dw_dtype):
    weight, dw = values((6, 4, 3, 3), dtype)
    assert len(list(run_all(weight, dw.astype(dw_dtype)))) == 11


@pytest.mark.parametrize("dtype", [np.float16, F32, F64, ">f4"], ids=str)
@pytest.mark.parametrize("shape", [(6,), (6, 1), (1, 6), (6, 1, 1, 1)], ids=str)
def test_shapes_and_dtypes_of_scales(shape, dtype):
    weight, dw = values((6, 4, 3, 3), F32)
    scale = scales((6,), 0, dtype).reshape(shape)
    check_weight_norm(weight, dw, scale, 0)
    check_standardization(weight, dw, scale)
    strided = np.repeat(scale.ravel(), 2)[::2]
    for function in (nk.weight_norm, nk.scaled_weight_standardization):
        assert checks.same_bits(function(weight, scale)[0], function(weight, strided)[0])


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "dim"), [((3, 4), 0), ((3, 4), 1), ((2, 3, 2, 2), 1), ((3, 4), None), ((5,), 0)])
def test_weight_norm_by_differences(shape, dim):
    v, dw = values(shape)
    g = scales(shape, dim)
    v += np.sign(v) * 0.3  # a short v turns quickly

    def f():
        return float((dw * nk.weight_norm(v, g, dim=dim)[0]).sum())

    dv, dg = nk.weight_norm_backward(dw, nk.weight_norm(v, g, dim=dim)[1])
    np.testing.assert_allclose(dv, numerical(f, v), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(dg, numerical(f, g), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("shape", "dim"), [((3, 4), 0), ((3, 4), 1), ((2, 3, 2, 2), 1), ((5,), 0)])
def test_spectral_norm_by_differences(shape, dim):
    """u and v are constants, so the loss is taken without iterations."""
    weight, dw = values(shape)
    _, cache = nk.spectral_norm(weight, *vectors(shape, dim), n_power_iterations=3, dim=dim)

    def forward():
        return nk.spectral_norm(weight, cache.u, cache.v, n_power_iterations=0, dim=dim)

    found = nk.spectral_norm_backward(dw, forward()[1])
    np.testing.assert_allclose(found, nk.spectral_norm_backward(dw, cache), rtol=1e-14)
    expected = numerical(lambda: float((dw * forward()[0]).sum()), weight)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("eps", [1e-4, 1e3])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
def test_scaled_weight_standardization_by_differences(shape, eps):
    weight, dw = values(shape)
    gain = scales(shape, 0)

    def forward():
        return nk.scaled_weight_standardization(weight, gain, eps=eps)

    dweight, dgain = nk.scaled_weight_standardization_backward(dw, forward()[1])
    for found, a in ((dweight, weight), (dgain, gain)):
        expected = numerical(lambda: float((dw * forward()[0]).sum()), a)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


# --- spectral norm's iteration ---------------------------------------------------------------------------------------


def test_power_iteration_finds_the_largest_singular_value():
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((6, 6)))[0], np.linalg.qr(rng.standard_normal((12, 12)))[0]
    weight = ((left * [4, 2, 1, 0.5, 0.1, 0]) @ right[:6]).reshape(6, 3, 2, 2)
    for dim, w in ((0, weight), (1, np.ascontiguousarray(np.moveaxis(weight, 0, 1)))):
        u, v = np.full(6, 6**-0.5), np.full(12, 12**-0.5)
        for _ in range(60):  # the ratio of singular values is 2: an error of 2**-60 in u, and its square in sigma
            normalized, cache = nk.spectral_norm(w, u, v, dim=dim)
            u, v = cache.u, cache.v
        assert cache.sigma == pytest.approx(4, rel=1e-14)
        np.testing.assert_allclose(np.abs(cache.u), np.abs(left[:, 0]), atol=1e-14)
        assert np.linalg.norm(oracle.matrix(normalized, dim), 2) == pytest.approx(1, rel=1e-14)


def test_user_row_29_spectral_norm_changes_no_input_and_is_finite_on_zero_rows():
    """USERS.md row 29: peers move u in evaluation and give NaN for zeros."""
    for dtype in (F32, F64):
        weight, dw = values((4, 3, 2, 2), dtype)
        weight[1] = 0
        u, v = vectors(weight.shape, 0, dtype)
        for arrays in ([weight, u, v], [np.zeros_like(weight), u, v]):
            before = [a.copy() for a in arrays]
            for a in arrays:
                a.flags.writeable = False
            for n in (0, 1, 5):
                w, cache = nk.spectral_norm(*arrays, n_power_iterations=n)
                everything = (w, cache.u, cache.v, cache.sigma, nk.spectral_norm_backward(dw, cache))
                assert all(np.isfinite(a).all() for a in everything)
                assert (w[1] == 0).all()
                assert not np.shares_memory(cache.u, arrays[1])
                # In evaluation the same w follows from what was found, as often as it is asked for.
                for _ in range(2):
                    again, same = nk.spectral_norm(weight if arrays[0] is weight else arrays[0], cache.u, cache.v,
                                                   n_power_iterations=0)  # fmt: skip
                    assert checks.same_bits(again, w)
                    assert (same.u == cache.u).all()
                    assert (same.v == cache.v).all()
            for a, b in zip(arrays, before, strict=True):
                assert checks.same_bits(a, b)


def test_a_weight_of_zeros_recovers():
    u, v = vectors((4, 12), 0)
    zeros = np.zeros((4, 3, 2, 2))
    _, cache = nk.spectral_norm(zeros, u, v, n_power_iterations=3)
    assert (cache.sigma, *cache.u, *cache.v) == (0, *u, *v)
    weight, _ = values((4, 3, 2, 2))
    _, cache = nk.spectral_norm(weight, cache.u, cache.v, n_power_iterations=100)
    assert cache.sigma == pytest.approx(np.linalg.norm(weight.reshape(4, -1), 2), rel=1e-6)


ONE_ENTRY = np.array([[0, 0, 0], [0, 2.0, 0]])  # its rows and columns of zeros are orthogonal to the others


@pytest.mark.parametrize(
    ("u", "v"),
    [([0, 1], [1, 0, 0]), ([1, 0], [0.6, 0.8, 0]), ([np.nan, 1], [0, 1, 0]), ([np.inf, 1], [0, 1, 0])],
    ids=["W v is zero", "u is orthogonal", "NaN in u", "infinity in u"],
)
def test_one_good_direction_is_enough(u, v):
    w, cache = nk.spectral_norm(ONE_ENTRY, np.array(u, F64), np.array(v, F64))
    assert w.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert (cache.u.tolist(), cache.v.tolist(), cache.sigma) == ([0, 1], [0, 1, 0], 2)


def test_no_weight_becomes_zeros_unless_it_is():
    """Sigma is 0 where u is orthogonal to W v, where eps brings u and v down, and for vectors that are too short."""
    u, v = np.array([1.0, 0]), np.array([1.0, 0, 0])
    short = 1e-200 * u[::-1], 1e-200 * v[[1, 0, 2]]
    expected = r"^spectral_norm: `u` must give a sigma = u @ W @ v .*, found sigma = 0\.0$"
    for a, b, n in ((u, v, 0), (u, v, 1), (u, v, 50), (u, v[[1, 0, 2]], 0), (*short, 0)):
        for weight in (ONE_ENTRY, ONE_ENTRY[:, ::-1].astype(F32)):
            before = [array.tobytes() for array in (weight, a, b)]
            with pytest.raises(ValueError, match=expected):
                nk.spectral_norm(weight, a, b, n_power_iterations=n)
            assert [array.tobytes() for array in (weight, a, b)] == before
        w, cache = nk.spectral_norm(0 * ONE_ENTRY, a, b, n_power_iterations=n)
        assert (w == 0).all()
        assert (cache.u.tolist(), cache.v.tolist(), cache.sigma) == (a.tolist(), b.tolist(), 0)
    with pytest.raises(ValueError, match=r"^spectral_norm: `eps` must be at most the norm of weight, .*found 1e-12$"):
        nk.spectral_norm(1e-100 * ONE_ENTRY, *vectors((2, 3), 0))
    w, _ = nk.spectral_norm(1e-100 * ONE_ENTRY, *vectors((2, 3), 0), eps=0)
    np.testing.assert_allclose(w, ONE_ENTRY / 2, rtol=WIDE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_numbers_in_u_and_v_are_seen(bad):
    weight = ONE_ENTRY + 1
    for u, v, n in (([0, bad], [0, 1, 0], 0), ([0, 1], [0, bad, 0], 0), ([0, 1], [0, bad, 0], 3)):
        w, cache = nk.spectral_norm(weight, np.array(u, F64), np.array(v, F64), n_power_iterations=n)
        assert np.isnan(w).all()
        assert np.isnan(nk.spectral_norm_backward(weight, cache)).all()
    u, v = np.full(2, 1e5), np.full(3, 1e5)
    w, cache = nk.spectral_norm(np.full((2, 3), 1e300), u, v, n_power_iterations=0)  # sigma is beyond float64
    assert np.isnan(w).all()
    assert np.isnan(nk.spectral_norm_backward(weight, cache)).all()


def test_shapes_of_u_and_v_are_kept():
    weight, _ = values((4, 3, 2, 2))
    u, v = vectors((4, 12), 0)
    _, cache = nk.spectral_norm(weight, u[:, None], v[None])
    assert (cache.u.shape, cache.v.shape) == ((4, 1), (1, 12))
    for a in (cache.u, cache.v):
        with pytest.raises(ValueError, match="read-only"):
            a[...] = 0


# --- the ends of the range -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "unit"), [(F32, 1e30), (F32, 1e-30), (F64, 1e30), (F64, 1e200), (F64, 1e-200), (F64, 1e300)]
)
def test_squares_that_leave_the_dtype(dtype, unit):
    row = (np.array([[1.0, 2.0, 3.0, 4.0]]) * unit).astype(dtype)
    eps = np.finfo(dtype).eps
    w, cache = nk.weight_norm(row, np.array([2.0]))
    np.testing.assert_allclose(w, [[2 * k / 30**0.5 for k in (1, 2, 3, 4)]], rtol=2 * eps)
    assert cache.norm[0] == pytest.approx(30**0.5 * unit, rel=1e-6)
    dv, dg = nk.weight_norm_backward(np.array([[0, 0, 0, 1.0]]), cache)
    assert dg[0] == pytest.approx(4 / 30**0.5, rel=1e-6)
    np.testing.assert_allclose(dv[0] * dtype(unit), np.array([-8, -16, -24, 28]) / 30**1.5, rtol=1e-5, atol=1e-300)
    if unit > 1:
        w, cache = nk.scaled_weight_standardization(row)
        np.testing.assert_allclose(w, [[k / 5**0.5 for k in (-1.5, -0.5, 0.5, 1.5)]], rtol=1e-6)
    w, cache = nk.spectral_norm(row, np.ones(1), np.full(4, 0.5), eps=0)
    assert cache.sigma == pytest.approx(30**0.5 * unit, rel=1e-6)
    np.testing.assert_allclose(w, [[k / 30**0.5 for k in (1, 2, 3, 4)]], rtol=1e-6)


def test_g_of_no_axes():
    v, dw = values((4, 3, 2), F32)
    g, line = np.array(-1.5), np.array([-1.5])
    w, cache = nk.weight_norm(v, g, dim=None)
    expected, of_line = nk.weight_norm(v, line, dim=None)
    assert checks.same_bits(w, expected)
    dv, dg = nk.weight_norm_backward(dw, cache)
    assert dg.shape == ()
    for found, gradient in zip((dv, dg.reshape(1)), nk.weight_norm_backward(dw, of_line), strict=True):
        assert checks.same_bits(found, gradient)
    with pytest.raises(ValueError, match=r"weight_norm: `g` must have 4 elements"):
        nk.weight_norm(v, g)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_rows_of_weight_norm_are_zero(dtype):
    v, dw = values((3, 4), dtype)
    v[1] = 0
    w, cache = nk.weight_norm(v, np.array([1.0, 5.0, 2.0]))
    dv, dg = nk.weight_norm_backward(dw, cache)
    assert (w[1] == 0).all()
    assert (dv[1] == 0).all()
    assert dg[1] == 0
    others = np.array([0, 2])
    alone, cache = nk.weight_norm(v[others], np.array([1.0, 2.0]))
    assert checks.same_bits(w[others], alone)
    assert checks.same_bits(dv[others], nk.weight_norm_backward(dw[others], cache).dv)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3e7, 1e30])
def test_constant_channels_standardize_to_zero(value):
    weight, dw = np.full((2, 3, 5, 5), value, F32), values((2, 3, 5, 5), F32)[1]
    for eps in (1e-4, 0):
        w, cache = nk.scaled_weight_standardization(weight, np.array([3.0, 4.0]), eps=eps)
        dweight, dgain = nk.scaled_weight_standardization_backward(dw, cache)
        assert (w == 0).all()
        assert (dgain == 0).all()
        assert np.isfinite(dweight).all()
        assert (np.abs(dweight).max() > 1) == (eps > 0)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 0, 3)])
def test_nothing_at_all(shape):
    empty = np.empty(shape, F32)
    w, cache = nk.weight_norm(empty, np.ones(shape[0], F32))
    dv, dg = nk.weight_norm_backward(empty, cache)
    assert (w.shape, dv.shape, dg.tolist()) == (shape, shape, [0] * shape[0])
    w, cache = nk.spectral_norm(empty, np.ones(shape[0]), np.ones(int(np.prod(shape[1:]))))
    assert (w.shape, nk.spectral_norm_backward(empty, cache).shape) == (shape, shape)
    w, cache = nk.scaled_weight_standardization(empty, np.ones(shape[0], F32))
    dweight, dgain = nk.scaled_weight_standardization_backward(empty, cache)
    assert (w.shape, dweight.shape, dgain.tolist()) == (shape, shape, [0] * shape[0])


# --- arguments -------------------------------------------------------------------------------------------------------

SHAPE = (4, 3, 5)


def array(*shape, dtype=F32):
    return np.random.default_rng([*shape, 1]).uniform(0.5, 2, shape).astype(dtype)


def good(function):
    weight = array(*SHAPE)
    forward = {
        "weight_norm": {"v": weight, "g": array(4)},
        "spectral_norm": {"weight": weight, "u": array(4), "v": array(15)},
        "scaled_weight_standardization": {"weight": weight, "gain": array(4)},
    }
    if function in forward:
        return forward[function]
    of = function.removesuffix("_backward")
    return {"dw": array(*SHAPE), "cache": getattr(nk, of)(**forward[of])[1]}


V, T = ValueError, TypeError
NOT_FLOATS = ("text", None, object(), 1.5, np.ones(SHAPE, int), np.ones(SHAPE, complex), np.full(SHAPE, "a"))
NOT_NUMBERS = ("text", None, object())
FROZEN = array(*SHAPE)
FROZEN.flags.writeable = False


def each(argument, wrong, error):
    return [({argument: value}, argument, error) for value in wrong]


def of_places(argument, n, optional=False):
    rows = each(argument, [array(n + 1), array(n - 1), array(1), array(0), array(2, n), array()], V)
    rows += each(argument, ["text", object(), np.ones(n, int), np.full(n, "a")], T)
    return rows if optional else [*rows, ({argument: None}, argument, T)]


def of_dim(none):
    return each("dim", (3, -4, 2**40), V) + each("dim", ("text", 1.5, object(), True, *(() if none else (None,))), T)


def of_eps():
    return each("eps", (-1e-5, float("nan"), float("inf")), V) + each("eps", NOT_NUMBERS, T)


def of_backward(other):
    return [
        *each("dw", NOT_FLOATS, T),
        *each("dw", [array(4, 3, 4), array(4, 15), array(), array(1, *SHAPE)], V),
        *each("cache", ["text", None, object(), ()], T),
        ({"cache": good(other)["cache"]}, "cache", T),
        *each("out", [array(4, 3, 4), array(4, 15), array(1, *SHAPE), FROZEN], V),
        *each("out", [array(*SHAPE, dtype=F64), np.ones(SHAPE, int), "text", object()], T),
        ({"out": np.broadcast_to(array(1, 3, 5), SHAPE)}, "out", V),
    ]


TABLE = {
    "weight_norm": [
        *each("v", NOT_FLOATS, T), ({"v": array()}, "v", V), *of_places("g", 4), *of_dim(none=True),
        ({"dim": 1}, "g", V), ({"dim": None}, "g", V),
    ],
    "spectral_norm": [
        *each("weight", NOT_FLOATS, T), ({"weight": array()}, "weight", V), *of_places("u", 4), *of_places("v", 15),
        *of_dim(none=False), ({"dim": 1}, "u", V), *of_eps(),
        *each("u", [np.zeros(4, F32), -np.zeros(4), np.zeros((4, 1, 1))], V),
        *each("v", [np.zeros(15, F32), -np.zeros(15), np.zeros((1, 15))], V),
        *[({"u": np.zeros(4), "v": np.zeros(15), "n_power_iterations": n}, "u", V) for n in (0, 1, 3)],
        *[({"v": np.zeros(15), "n_power_iterations": n}, "v", V) for n in (0, 3)],
        ({"u": np.zeros(4), "n_power_iterations": 0}, "u", V),
        ({"weight": np.zeros(SHAPE), "u": np.zeros(4)}, "u", V),
        *each("n_power_iterations", (-1, -(2**70), 2**70), V),
        *each("n_power_iterations", ("text", None, 1.5, True), T),
    ],
    "scaled_weight_standardization": [
        *each("weight", NOT_FLOATS, T), *each("weight", [array(), array(4)], V), *of_places("gain", 4, optional=True),
        *of_eps(),
    ],
    "weight_norm_backward": of_backward("spectral_norm_backward"),
    "spectral_norm_backward": of_backward("scaled_weight_standardization_backward"),
    "scaled_weight_standardization_backward": of_backward("weight_norm_backward"),
}  # fmt: skip
ROWS = [
    pytest.param(function, *row, id=f"{function}-{row[1]}-{k}")
    for function, rows in TABLE.items()
    for k, row in enumerate(rows)
]


def buffers(arguments):
    return [a.copy().tobytes() for a in arguments.values() if isinstance(a, np.ndarray) and not a.dtype.hasobject]


@pytest.mark.parametrize(("function", "changes", "argument", "error"), ROWS)
def test_refused(function, changes, argument, error):
    arguments = good(function) | changes
    before = buffers(arguments)
    with pytest.raises(error) as caught:
        getattr(nk, function)(**arguments)
    assert re.match(rf"{function}: `{argument}` must .*, found ", str(caught.value)), str(caught.value)
    assert buffers(arguments) == before


@pytest.mark.parametrize("function", TABLE)
def test_the_good_call_is_good_and_changes_nothing(function):
    arguments = good(function)
    before = buffers(arguments)
    getattr(nk, function)(**arguments)
    assert buffers(arguments) == before


def test_the_form_of_a_message():
    with pytest.raises(ValueError, match="`g`") as caught:
        nk.weight_norm(array(8, 3), array(4))
    assert str(caught.value) == "weight_norm: `g` must have 8 elements (positions of v on axis 0), found shape (4,)"
    _, cache = nk.weight_norm(array(8, 3), array(8))
    with pytest.raises(ValueError, match="`out`") as caught:
        nk.weight_norm_backward(array(8, 3), cache, out=array(3, 8))
    assert str(caught.value) == "weight_norm_backward: `out` must have the shape of v, (8, 3), found shape (3, 8)"


# --- out -------------------------------------------------------------------------------------------------------------


def backward(function):
    """(weight, dw, cache, call), the call returning the weight's gradient."""
    arguments = good(f"{function}_backward")
    weight = good(function).get("v" if function == "weight_norm" else "weight")
    call = getattr(nk, f"{function}_backward")

    def of(dw, cache, **how):
        found = call(dw, cache, **how)
        return found if isinstance(found, np.ndarray) else found[0]

    return weight, arguments["dw"], getattr(nk, function)(*good(function).values())[1], of


@pytest.mark.parametrize("layout", PLACES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_out(function, layout):
    _, dw, cache, call = backward(function)
    expected = call(dw, cache)
    if layout in ("broadcast", "read_only"):
        return
    out = LAYOUTS[layout](np.zeros(SHAPE, F32))[0]
    assert call(dw, cache, out=out) is out
    np.testing.assert_array_equal(out, expected)
    out = LAYOUTS[layout](dw)[0]
    assert call(out, cache, out=out) is out  # dw itself
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_out_may_not_overlap(function):
    forward, name = getattr(nk, function), "v" if function == "weight_norm" else "weight"
    _, dw, _, call = backward(function)
    arguments = good(function)
    buffer = np.concatenate([arguments[name].ravel(), np.zeros(15, F32)])
    arguments[name] = buffer[:60].reshape(SHAPE)
    cache = forward(**arguments)[1]
    for out in (arguments[name], buffer[15:].reshape(SHAPE)):
        before = buffer.copy()
        with pytest.raises(ValueError, match=rf"^{function}_backward: `out` must not overlap {name}"):
            call(dw, cache, out=out)
        assert checks.same_bits(buffer, before)
    buffer = np.concatenate([dw.ravel(), np.zeros(15, F32)])
    before = buffer.copy()
    with pytest.raises(ValueError, match=rf"^{function}_backward: `out` must be dw itself or not overlap it"):
        call(buffer[:60].reshape(SHAPE), cache, out=buffer[15:].reshape(SHAPE))
    assert checks.same_bits(buffer, before)


# --- PyTorch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), [((6, 5), 0), ((6, 4, 3, 3), 0), ((4, 6, 3, 3), 1)])
def test_equals_torch(shape, dim, dtype):
    """PyTorch computes in the weight's dtype: a sum of n terms is off by n eps of it at most."""
    torch = pytest.importorskip("torch")
    weight, dw = values(shape, dtype)
    tensors = [torch.from_numpy(a.copy()) for a in (weight, dw)]
    within = {"rtol": 4 * weight.size * np.finfo(dtype).eps, "atol": 4 * weight.size * np.finfo(dtype).eps}
    g = scales(shape, dim, dtype).reshape([-1 if a == dim else 1 for a in range(len(shape))])

    tv, tg = tensors[0].clone().requires_grad_(), torch.from_numpy(g.copy()).requires_grad_()
    expected = torch._weight_norm(tv, tg, dim)
    expected.backward(tensors[1])
    w, cache = nk.weight_norm(weight, g, dim=dim)
    dv, dg = nk.weight_norm_backward(dw, cache)
    for found, tensor in ((w, expected.detach()), (dv, tv.grad), (dg, tg.grad)):
        np.testing.assert_allclose(found, tensor.numpy(), **within)

    n_in = shape[1] if dim == 0 else shape[0]
    kind = torch.nn.Linear if len(shape) == 2 else torch.nn.Conv2d if dim == 0 else torch.nn.ConvTranspose2d
    module = kind(n_in, shape[dim], *shape[2:3], bias=False).to(tensors[0].dtype)
    with torch.no_grad():
        module.weight.copy_(tensors[0])
    module = torch.nn.utils.parametrizations.spectral_norm(module, dim=dim)
    parametrization = module.parametrizations.weight[0]
    u, v = parametrization._u.numpy().copy(), parametrization._v.numpy().copy()
    for n in (1, 0):
        module.train(n == 1)
        expected = module.weight
        module.parametrizations.weight.original.grad = None
        expected.backward(tensors[1])
        w, cache = nk.spectral_norm(weight, u, v, n_power_iterations=n, dim=dim)
        np.testing.assert_allclose(w, expected.detach().numpy(), **within)
        gradient = module.parametrizations.weight.original.grad.numpy()
        np.testing.assert_allclose(nk.spectral_norm_backward(dw, cache), gradient, **within)
        np.testing.assert_allclose(cache.u, parametrization._u.numpy(), **within)
        np.testing.assert_allclose(cache.v, parametrization._v.numpy(), **within)
        u, v = cache.u, cache.v
