"""Every bad call is a ValueError or TypeError that names the function and the argument, and changes nothing.

A row is a good call with some arguments replaced.
"""

import gc
import re

import numpy as np
import pytest

import normkit as nk

F32, F64 = np.float32, np.float64
SHAPE = (4, 6, 5)


def array(*shape, dtype=F32):
    return np.random.default_rng([*shape, 1]).uniform(0.5, 2, shape).astype(dtype)


def frozen(a):
    a.flags.writeable = False
    return a


def good(function):
    """The arguments of a call that works, all of them new."""
    x = array(*SHAPE)
    parameters = {"weight": array(6), "bias": array(6)}
    statistics = {"running_mean": array(6), "running_var": array(6)}
    return {
        "batch_norm": lambda: {"x": x, **parameters, **statistics},
        "batch_norm_backward": lambda: {"dy": array(*SHAPE), "cache": nk.batch_norm(x, **parameters)[1]},
        "batch_norm_inference": lambda: {"x": x, "mean": array(6), "var": array(6), **parameters},
        "group_norm": lambda: {"x": x, "num_groups": 2, **parameters},
        "group_norm_backward": lambda: {"dy": array(*SHAPE), "cache": nk.group_norm(x, 2, **parameters)[1]},
        "instance_norm": lambda: {"x": x, **parameters},
        "instance_norm_backward": lambda: {"dy": array(*SHAPE), "cache": nk.instance_norm(x, **parameters)[1]},
        "layer_norm": lambda: {"x": x, "weight": array(6, 5), "bias": array(6, 5), "axis": (1, 2)},
        "layer_norm_backward": lambda: {"dy": array(*SHAPE), "cache": nk.layer_norm(x, array(5))[1]},
        "rms_norm": lambda: {"x": x, "weight": array(6, 5), "axis": (1, 2)},
        "rms_norm_backward": lambda: {"dy": array(*SHAPE), "cache": nk.rms_norm(x, array(5))[1]},
        "adaptive_instance_norm": lambda: {"content": x, "style": array(4, 6, 7)},
        "adaptive_instance_norm_backward": lambda: {
            "dy": array(*SHAPE), "cache": nk.adaptive_instance_norm(x, array(4, 6, 7))[1],
        },
        "batch_renorm": lambda: {"x": x, **statistics, **parameters, "r_max": 2.0, "d_max": 1.0},
        "batch_renorm_backward": lambda: {
            "dy": array(*SHAPE), "cache": nk.batch_renorm(x, *statistics.values(), **parameters)[1],
        },
        "moments": lambda: {"x": x, "axis": 0},
        "fold_conv_bn": lambda: {
            "conv_weight": array(6, 4, 3), "conv_bias": array(6), **statistics, **parameters, "eps": 1e-5, "groups": 1,
        },
        "Moments": lambda: {"count": 3, "mean": np.zeros(4), "m2": np.ones(4)},
        "set_num_threads": lambda: {"n": 2},
    }[function]()  # fmt: skip


V, T, EITHER = ValueError, TypeError, (ValueError, TypeError)
NOT_ARRAYS = ("text", object(), 1.5)
NOT_FLOATS = (
    np.ones(SHAPE, np.int64),
    np.ones(SHAPE, bool),
    np.ones(SHAPE, complex),
    np.full(SHAPE, "a"),
    np.full(SHAPE, None),
    np.zeros(SHAPE, "datetime64[s]"),
    np.zeros(SHAPE, [("a", "f4")]),
)
NOT_NUMBERS = ("text", None, object(), np.ones(3))
NOT_INTEGERS = ("text", None, 1.5, object())
FLOAT_OUT = [
    (np.empty((4, 6, 4), F32), V),
    (np.empty((4, 6), F32), V),
    (np.empty((1, *SHAPE), F32), V),
    (np.empty(SHAPE, F64), EITHER),
    (np.empty(SHAPE, np.int32), EITHER),
    (frozen(np.empty(SHAPE, F32)), V),
    (np.broadcast_to(np.empty((1, 6, 5), F32), SHAPE), V),
    ("text", T),
    (object(), T),
]


def each(argument, values, error):
    return [({argument: v}, argument, error) for v in values]


def of_channels(argument, optional=True, c=6):
    """A parameter or statistic with one value per channel."""
    shapes = ((c + 1,), (c - 1,), (1,), (0,), (2, c // 2), (2, c), ())
    wrong = each(argument, [array(*s) for s in shapes], V)
    wrong += each(argument, [*NOT_ARRAYS, np.ones(c, np.int64), np.full(c, "a"), np.full(c, None)], T)
    return wrong if optional else [*wrong, ({argument: None}, argument, EITHER)]


def of_x(*, axis=True, name="x"):
    rows = each(name, [*NOT_ARRAYS, None, *NOT_FLOATS], T)
    if axis:
        rows += [({name: array()}, f"{name}|axis", V), ({name: array(6)}, f"{name}|axis", V)]
        rows += each("axis", (3, -4, 2**40), V) + each("axis", (*NOT_INTEGERS, 1.0), T)
    return rows


def of_eps():
    return each("eps", (-1e-5, float("nan"), float("inf"), -float("inf")), V) + each("eps", NOT_NUMBERS, T)


def of_out():
    return [({"out": out}, "out", error) for out, error in FLOAT_OUT]


def of_axes():
    """Of a norm over (1, 2): their shape is the weight's."""
    tuples = ((0, 0), (1, -2), (0, 3), (-4, 1), (), (1, 2**40))
    return [
        *each("axis", (3, -4, 2**40, *tuples), V),
        *each("axis", ("text", 1.5, (0, "text"), (0, 1.5), object()), T),
        ({"x": array()}, "x|axis", V),
        *each("weight", [array(*s) for s in ((6,), (5,), (5, 6), (30,), (6, 4), (4, 6, 5), (1, 1), (0, 5), ())], V),
        *each("weight", [*NOT_ARRAYS, np.ones((6, 5), np.int64), np.full((6, 5), None)], T),
        ({"axis": 1}, "weight", V),
        ({"axis": -1}, "weight", V),
        ({"axis": (0, 2)}, "weight", V),
    ]


def of_fused():
    return [
        *each("activation", ("gelu", "", "relu6", "leaky_relu "), V),
        *each("activation", (1, 0.1, True, object(), np.maximum, b"relu"), T),
        *each(
            "residual", [array(*s) for s in ((4, 6, 4), (4, 6), (1, 6, 5), (4, 1, 5), (1, *SHAPE), (4, 5, 6), ())], V
        ),
        *each("residual", [*NOT_ARRAYS, *NOT_FLOATS], T),
    ]


def mask(*shape, count=None):
    m = np.ones(shape, bool)
    if count is not None:
        m.flat[count:] = False
    return m


def of_mask():
    shapes = ((4, 6), (5, 4), (4, 6, 5), (3, 5), (4, 4), (0, 5), (2, 5), (1, 4, 5), (4, 5, 1))
    return [
        *each("mask", [mask(*s) for s in shapes], V),
        *each("mask", [*NOT_ARRAYS, np.ones((4, 5)), np.ones((4, 5), np.uint8), np.full((4, 5), None)], T),
        ({"mask": mask(4, 5, count=1)}, "x|mask", V),  # one value in a channel, see row 13 of USERS.md
    ]


def negative(*shape):
    a = array(*shape)
    a[..., -1] = -1e-3
    return a


def backward(own, other):
    return [
        *each("dy", [*NOT_ARRAYS, None, *NOT_FLOATS], T),
        *each("dy", [array(4, 6, 6), array(4, 6), array(4, 30), array(), array(1, *SHAPE), array(0, 6, 5)], V),
        *each("cache", ["text", None, object(), (), good(own)], T),
        ({"cache": good(other)["cache"]}, "cache", EITHER),
        *of_out(),
    ]


TABLE = {
    "batch_norm": [
        *of_x(),
        *of_channels("weight"),
        *of_channels("bias"),
        *of_channels("running_mean"),
        *of_channels("running_var"),
        *of_eps(),
        *of_out(),
        *each("momentum", (float("nan"), float("inf"), -0.1, 1.5), V),
        *each("momentum", NOT_NUMBERS, T),
        *each("running_var_ddof", (-1, 7), V),
        *each("running_var_ddof", ("text", None, 0.5), T),
        *each("training", ("yes", None, object()), T),
        ({"running_mean": None}, "running_mean|running_var", V),
        ({"running_var": None}, "running_mean|running_var", V),
        ({"running_mean": None, "running_var": None, "training": False}, "running_mean|running_var|training", V),
        ({"running_var": negative(6), "training": False}, "running_var", V),
        ({"running_mean": frozen(array(6))}, "running_mean", V),
        ({"running_var": frozen(array(6))}, "running_var", V),
        ({"x": array(1, 6, 1)}, "x", V),
        ({"x": array(1, 6)}, "x", V),
        *of_fused(),
        *of_mask(),
    ],
    "batch_norm_backward": backward("batch_norm_backward", "group_norm_backward"),
    "batch_norm_inference": [
        *of_x(),
        *of_channels("mean", optional=False),
        *of_channels("var", optional=False),
        *of_channels("weight"),
        *of_channels("bias"),
        *of_eps(),
        *of_out(),
        *of_fused(),
        ({"var": negative(6)}, "var", V),
    ],
    "group_norm": [
        *of_x(),
        *of_channels("weight"),
        *of_channels("bias"),
        *of_eps(),
        *of_out(),
        *each("num_groups", (0, -1, 4, 5, 7, 12, 2**40), V),
        *each("num_groups", NOT_INTEGERS, T),
        ({"weight": array(2)}, "weight", V),  # per group, as ONNX 18 had it
        *of_fused(),
    ],
    "group_norm_backward": backward("group_norm_backward", "batch_norm_backward"),
    "instance_norm": [
        *of_x(),
        *of_channels("weight"),
        *of_channels("bias"),
        *of_eps(),
        *of_out(),
        *of_fused(),
    ],
    "instance_norm_backward": backward("instance_norm_backward", "batch_norm_backward"),
    "layer_norm": [
        *of_x(axis=False),
        *of_axes(),
        *of_eps(),
        *of_out(),
        *each("bias", [array(*s) for s in ((6,), (5, 6), (30,), (4, 6, 5), (1, 1), ())], V),
        *each("bias", [*NOT_ARRAYS, np.ones((6, 5), np.int64)], T),
    ],
    "layer_norm_backward": backward("layer_norm_backward", "group_norm_backward"),
    "rms_norm": [*of_x(axis=False), *of_axes(), *of_eps(), *of_out()],
    "rms_norm_backward": backward("rms_norm_backward", "layer_norm_backward"),
    "adaptive_instance_norm": [
        *of_x(name="content"),
        *each("style", [*NOT_ARRAYS, None, *NOT_FLOATS], T),
        *each("style", [array(*s) for s in ((4, 5, 7), (3, 6, 7), (1, 6, 7), (4, 1, 7), (6, 4, 7), (6,), ())], V),
        *of_eps(),
        *of_out(),
        *each("ddof", (-1,), V),
        *each("ddof", ("text", None, 0.5), T),
    ],
    "adaptive_instance_norm_backward": backward("adaptive_instance_norm_backward", "instance_norm_backward"),
    "batch_renorm": [
        *of_x(),
        *of_channels("running_mean", optional=False),
        *of_channels("running_var", optional=False),
        *of_channels("weight"),
        *of_channels("bias"),
        *of_eps(),
        *of_out(),
        *each("momentum", (float("nan"), float("inf"), -0.1, 1.5), V),
        *each("momentum", NOT_NUMBERS, T),
        *each("running_var_ddof", (-1, 7), V),
        *each("running_var_ddof", ("text", None, 0.5), T),
        *each("training", ("yes", None, object()), T),
        *each("r_max", (0.99, 0.0, -1.0, float("nan")), V),
        *each("r_max", NOT_NUMBERS, T),
        *each("d_max", (-1e-9, -1.0, float("nan")), V),
        *each("d_max", NOT_NUMBERS, T),
        ({"running_var": negative(6)}, "running_var", V),  # its root is r's and d's
        ({"running_var": negative(6), "training": False}, "running_var", V),
        ({"running_mean": frozen(array(6))}, "running_mean", V),
        ({"running_var": frozen(array(6))}, "running_var", V),
        ({"x": array(1, 6, 1)}, "x", V),
        ({"x": array(1, 6)}, "x", V),
    ],
    "batch_renorm_backward": backward("batch_renorm_backward", "batch_norm_backward"),
    "moments": [
        *of_x(axis=False),
        *each("axis", (3, -4, (0, 3), (0, 0), (1, -2)), V),
        *each("axis", ("text", 1.5, (0, "text"), object()), T),
    ],
    "fold_conv_bn": [
        *each("conv_weight", [*NOT_ARRAYS, None, np.ones((6, 4, 3), int), np.full((6, 4), "a")], T),
        *each("conv_weight", [array(6), array()], V),
        *of_channels("conv_bias"),
        *of_channels("running_mean", optional=False),
        *of_channels("running_var", optional=False),
        *of_channels("weight"),
        *of_channels("bias"),
        *of_eps(),
        *each("groups", (0, -1, 4, 7), V),
        *each("groups", NOT_INTEGERS, T),
        ({"transposed": "yes"}, "transposed", T),
        ({"running_var": negative(6)}, "running_var", V),
        # The layout says which axis holds the channels: 6 statistics don't fit (in, out / groups) = (6, 4).
        ({"transposed": True}, "conv_bias|running_mean|conv_weight", V),
    ],
    "Moments": [
        *each("count", (-1, -(2**70)), V),
        *each("count", NOT_INTEGERS, T),
        *each("m2", [np.ones(3), np.ones((4, 4))], V),
    ],
    "set_num_threads": [*each("n", (0, -1, -(2**70)), V), *each("n", NOT_INTEGERS, T)],
}
ROWS = [
    pytest.param(function, *row, id=f"{function}-{row[1]}-{k}") for function, rows in TABLE.items()
    for k, row in enumerate(rows)
]  # fmt: skip


def buffers(arguments):
    """Every byte that the call could reach, also around the views."""
    arrays = [a for a in arguments.values() if isinstance(a, np.ndarray) and not a.dtype.hasobject]
    return [(a.base if isinstance(a.base, np.ndarray) else a).copy().tobytes() for a in arrays]


@pytest.mark.parametrize(("function", "changes", "argument", "error"), ROWS)
def test_refused(function, changes, argument, error):
    arguments = good(function) | changes
    before, threads = buffers(arguments), nk.get_num_threads()
    with pytest.raises(error) as caught:
        getattr(nk, function)(**arguments)
    assert type(caught.value).__name__ != "PanicException"
    message = str(caught.value)
    assert re.match(rf"{function}: ", message), message
    assert re.search(rf"`({argument})`", message), message
    assert re.search(r"\bfound\b", message), message
    assert buffers(arguments) == before
    assert nk.get_num_threads() == threads


@pytest.mark.parametrize("function", TABLE)
def test_the_good_call_is_good(function):
    threads = nk.get_num_threads()
    getattr(nk, function)(**good(function))
    nk.set_num_threads(threads)


def test_the_form_of_a_message():
    with pytest.raises(ValueError, match="weight") as caught:
        nk.batch_norm(array(8, 64, 3), array(32))
    expected = "batch_norm: `weight` must have 64 elements (channels of x on axis 1), found shape (32,)"
    assert str(caught.value) == expected


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_integers_are_told_how_to_convert(dtype):
    with pytest.raises(TypeError, match=r"astype.*float32|float32.*astype"):
        nk.batch_norm(np.ones(SHAPE, dtype))


@pytest.mark.parametrize("what", ["weight", "bias", "running_mean", "running_var", "x"])
@pytest.mark.parametrize("function", ["batch_norm", "batch_renorm"])
def test_out_over_another_argument(function, what):
    """`out` shares memory with something else that the call reads."""
    buffer = array(4 * 6 * 5 + 6)
    out = buffer[:-6].reshape(SHAPE)
    arguments = good(function) | {"out": out, what: out if what == "x" else buffer[3:9]}
    before = buffers(arguments)
    with pytest.raises(ValueError, match=rf"^{function}: `(out|running_mean|running_var)`"):
        getattr(nk, function)(**arguments)
    assert buffers(arguments) == before


@pytest.mark.parametrize("function", ["batch_norm", "batch_renorm"])
@pytest.mark.parametrize("what", ["activation", "weight", "residual", "mask", "out", "r_max"])
def test_running_statistics_are_as_before_when_something_is_refused(function, what):
    """Whatever the order of the checks: the last one may not come after an update."""
    wrong = {
        "activation": "gelu", "weight": array(5), "residual": array(4, 6, 4), "mask": np.ones((4, 6), bool),
        "out": array(4, 6, 4), "r_max": 0.5,
    }  # fmt: skip
    arguments = good(function) | {what: wrong[what]}
    if what in ("activation", "residual", "mask") and function == "batch_renorm":
        return
    if what == "r_max" and function == "batch_norm":
        return
    before = arguments["running_mean"].copy(), arguments["running_var"].copy()
    with pytest.raises(ValueError, match=rf"^{function}: `{what}`"):
        getattr(nk, function)(**arguments)
    assert (arguments["running_mean"] == before[0]).all()
    assert (arguments["running_var"] == before[1]).all()


def test_a_moments_object_is_needed_to_merge():
    m = nk.moments(array(3, 4), 0)
    for other in (None, "text", (3, np.zeros(4), np.ones(4))):
        with pytest.raises(TypeError, match="`other`"):
            m.merge(other)
    for shape in ((3, 5), (3, 1), (3,), (3, 4, 1)):
        with pytest.raises(ValueError, match="`other`"):
            m.merge(nk.moments(array(*shape), 0))


@pytest.mark.parametrize("n", [0, -3])
def test_num_threads_refuses_like_set_num_threads(n):
    threads = nk.get_num_threads()
    with pytest.raises(ValueError, match="`n`"), nk.num_threads(n):
        pass
    assert nk.get_num_threads() == threads


def test_a_cache_outlives_its_inputs():
    """Backward needs x and the weight; the caller's names for them may be gone."""
    x, dy, weight = array(64, 6, 500), array(64, 6, 500), array(6)
    expected = nk.batch_norm_backward(dy, nk.batch_norm(x, weight)[1])
    _, cache = nk.batch_norm(x.copy(), weight.copy())
    gc.collect()
    junk = [np.full((64, 6, 500), np.nan, F32) for _ in range(4)]
    assert (nk.batch_norm_backward(dy, cache).dx == expected.dx).all()
    del junk
