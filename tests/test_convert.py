"""Conversions between libraries: round trips, the functions that the state stands for, and the libraries themselves."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import normkit as nk
import reference
from normkit import convert
from normkit.convert import CONVENTIONS
from tolerance import assert_within

F32, F64 = np.float32, np.float64
OURS = ("weight", "bias", "running_mean", "running_var")
TO = {name: getattr(convert, f"to_{name}") for name in CONVENTIONS}
FROM = {name: getattr(convert, f"from_{name}") for name in CONVENTIONS}
NAMES = {name: c.names for name, c in CONVENTIONS.items()}
EPS_NAME = {"pytorch": "eps", "keras": "epsilon", "flax": "epsilon", "onnx": "epsilon", "darknet": "eps"}
MOMENTUM_NAME = dict.fromkeys(CONVENTIONS, "momentum") | {"darknet": "decay"}


def ours(channels=3, dtype=F64, seed=0):
    rng = np.random.default_rng(seed)
    weight, bias, mean = rng.standard_normal((3, channels)).astype(dtype)
    var = rng.uniform(0.5, 2, channels).astype(dtype)
    return {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}


def theirs(library, channels=3, dtype=F64):
    return dict(zip(NAMES[library], ours(channels, dtype).values(), strict=True))


def flat(state):
    """Flax's collections as one dictionary."""
    nested = state.keys() <= {"params", "batch_stats"}
    return {k: v for part in state.values() for k, v in part.items()} if nested else state


# --- rows of USERS.md ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", CONVENTIONS)
def test_row_05_eps_is_required(library):
    """It is in no state, and the defaults differ: 1e-3 for Keras, 1e-5 elsewhere."""
    with pytest.raises(TypeError, match=f"'{EPS_NAME[library]}'"):
        FROM[library](theirs(library))
    with pytest.raises(TypeError, match="'eps'"):
        TO[library](ours())
    assert FROM[library](theirs(library), **{EPS_NAME[library]: 0.125}).options["eps"] == 0.125


@pytest.mark.parametrize("library", CONVENTIONS)
def test_row_06_momentum_is_turned_to_the_share_of_the_new(library):
    """One step of the library's own update rule is one step of normkit's."""
    x = np.random.default_rng(1).standard_normal((16, 3)) * 2 + 1
    convention = CONVENTIONS[library]
    state = theirs(library)
    converted, options = FROM[library](state, **{EPS_NAME[library]: 1e-3})
    m = convention.momentum  # the library's default, as FROM took it
    old, new = (m, 1 - m) if library != "pytorch" else (1 - m, m)
    mean = old * state[NAMES[library][2]] + new * x.mean(0)
    var = old * state[NAMES[library][3]] + new * x.var(0, ddof=convention.running_var_ddof)
    layer = nk.BatchNorm(3, **options | {"axis": 1}, dtype=F64)
    layer.load_state_dict(converted)
    layer(x)
    # Each: a sum of 16 terms in NumPy, two products, a sum; normkit's batch statistics within 64 eps (tolerance.py).
    size = np.abs(converted["running_mean"]) + np.abs(x).mean(0) + np.abs(var) + (x**2).mean(0)
    assert_within(layer.running_mean, mean, 100 * np.finfo(F64).eps * size, "running_mean")
    assert_within(layer.running_var, var, 100 * np.finfo(F64).eps * size, "running_var")


@pytest.mark.parametrize("library", CONVENTIONS)
def test_row_06_momentum_by_name(library):
    convention = CONVENTIONS[library]
    expected = {"pytorch": 0.1, "keras": 0.01, "flax": 0.01, "onnx": 0.1, "darknet": 0.01}[library]
    assert convert.momentum_from(library, convention.momentum) == expected
    assert convert.momentum_to(library, expected) == convention.momentum


@pytest.mark.parametrize("library", CONVENTIONS)
def test_row_07_running_variance_biased_or_unbiased(library):
    """From batches of one size and a start of 0, the library's variance and ours are count / (count - 1) apart."""
    rng, count, ddof = np.random.default_rng(2), 5, CONVENTIONS[library].running_var_ddof
    var = {0: np.zeros(3), 1: np.zeros(3)}
    for _ in range(20):
        x = rng.standard_normal((count, 3))
        for d in var:
            var[d] = 0.9 * var[d] + 0.1 * x.var(0, ddof=d)
    state = {"running_mean": np.zeros(3), "running_var": var[1 - ddof]}  # kept with the other divisor
    found = flat(TO[library](state, eps=1e-5, running_var_ddof=1 - ddof, count=count).state)[NAMES[library][3]]
    # 20 steps of a few roundings of positive terms each, on either side.
    assert_within(found, var[ddof], 200 * np.finfo(F64).eps * var[ddof], "running_var")


@pytest.mark.parametrize("library", ["keras", "flax", "onnx", "darknet"])
def test_row_07_another_divisor_needs_the_count(library):
    ddof = CONVENTIONS[library].running_var_ddof
    kw = {EPS_NAME[library]: 1e-5}
    assert FROM[library](theirs(library), **kw).options["running_var_ddof"] == ddof
    with pytest.raises(ValueError, match=rf"^from_{library}: `count` must be given to go from .*, found None$"):
        FROM[library](theirs(library), **kw, running_var_ddof=1 - ddof)
    state, options = FROM[library](theirs(library), **kw, running_var_ddof=1 - ddof, count=8)
    assert options["running_var_ddof"] == 1 - ddof
    factor = 8 / 7 if ddof == 0 else 7 / 8
    expected = ours()["running_var"] * factor
    assert_within(state["running_var"], expected, 4 * np.finfo(F64).eps * expected, "running_var")


def test_row_07_the_fused_kernel_of_tf_keras_is_unbiased():
    state = theirs("keras")
    assert convert.from_keras(state, epsilon=1e-3, fused=True).options["running_var_ddof"] == 1
    found = convert.to_keras(ours(), eps=1e-3, running_var_ddof=1, count=4, fused=True).state["moving_variance"]
    assert (found == ours()["running_var"]).all()


def test_row_07_without_a_count_inference_is_the_same():
    """The numbers are used as they are at inference, whatever divisor they were kept with."""
    for library in CONVENTIONS:
        found = flat(TO[library](ours(), eps=1e-5).state)
        assert (found[NAMES[library][3]] == ours()["running_var"]).all()


def test_row_27_affine_per_group_only_when_asked_by_name():
    """test_onnx_group_norm has the nodes."""
    parameter = np.array([1.0, -2.0])
    with pytest.raises(ValueError, match=r"^group_norm: `weight` "):
        nk.group_norm(np.ones((2, 6, 4)), 2, parameter)
    assert convert.per_channel(parameter, 2, 6).tolist() == [1, 1, 1, -2, -2, -2]
    assert convert.per_group(np.array([1.0, 1, 1, -2, -2, -2]), 2).tolist() == [1, -2]
    with pytest.raises(ValueError, match=r"^per_group: `parameter` must be the same .* in group 1$"):
        convert.per_group(np.array([1.0, 1, 1, -2, -2, 5]), 2)


# --- round trips -----------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6, width=32)
OPTIONS = st.fixed_dictionaries(
    {
        "eps": st.sampled_from((0.0, 1e-5, 1e-3, 1.0)),
        "momentum": st.floats(0, 1),
        "axis": st.sampled_from((1, -1, 3)),
    }
)


@st.composite
def states(draw):
    """Any of the parameters, both or neither of the statistics; float32 or float64."""
    c, dtype = draw(st.integers(1, 5)), draw(st.sampled_from((F32, F64)))
    names = [name for name in OURS[:2] if draw(st.booleans())] + list(OURS[2:] if draw(st.booleans()) else ())
    state = {name: np.array(draw(st.lists(NUMBERS, min_size=c, max_size=c)), dtype) for name in names}
    if "running_var" in state:
        state["running_var"] = np.abs(state["running_var"])
        state["num_batches_tracked"] = np.array(draw(st.integers(0, 10**6)), np.int64)
    return state


@pytest.mark.parametrize("library", ["pytorch", "keras", "flax", "onnx"])
@given(state=states(), options=OPTIONS, ddof=st.sampled_from((0, 1)))
def test_round_trip(library, state, options, ddof):
    """Everything but what the library cannot say comes back: exactly, and the momentum to a rounding.

    1 - m, rounded (half an ulp of a number below 1: 2^-54), and back.
    """
    there = TO[library](state, **options, running_var_ddof=ddof)
    back = FROM[library](there.state, **there.options)
    tracked = state.get("num_batches_tracked")
    assert back.state.keys() == state.keys()
    for name in state:
        if name == "num_batches_tracked":
            assert back.state[name] == (tracked if library == "pytorch" else 0)
        else:
            assert back.state[name].dtype == state[name].dtype
            assert (back.state[name] == state[name]).all()
            assert not np.shares_memory(back.state[name], state[name])
    assert back.options["eps"] == options["eps"]
    if library in ("keras", "flax"):
        assert back.options["axis"] == options["axis"]
    if "running_var" in state:
        assert abs(back.options["momentum"] - options["momentum"]) <= 2 * 2.0**-54


@given(state=states(), options=OPTIONS)
def test_round_trip_of_darknet(state, options):
    """darknet's eps is 1e-5: another one moves into the variance, so the sum of the two comes back."""
    theirs = CONVENTIONS["darknet"].eps
    if "running_var" in state and (state["running_var"].astype(F64) + (options["eps"] - theirs) < 0).any():
        with pytest.raises(ValueError, match=r"^to_darknet: `running_var` must be >= "):
            convert.to_darknet(state, **options)
        return
    there = convert.to_darknet(state, **options)
    back = convert.from_darknet(there.state, **there.options)
    assert back.options["eps"] == theirs
    for name in ("weight", "bias", "running_mean"):
        if name in state:
            assert (back.state[name] == state[name]).all()
    if "running_var" in state:
        expected = state["running_var"].astype(F64) + options["eps"]
        found = back.state["running_var"].astype(F64) + theirs
        # One rounding to the dtype, and those of float64 sums.
        rounding = np.spacing(back.state["running_var"]).astype(F64) / 2 + 4 * np.finfo(F64).eps * expected
        assert_within(found, expected, rounding, "running_var + eps")


@given(st.floats(0, 1), st.sampled_from(sorted(CONVENTIONS)))
def test_round_trip_of_momentum(momentum, library):
    assert abs(convert.momentum_from(library, convert.momentum_to(library, momentum)) - momentum) <= 2 * 2.0**-54


@given(st.integers(0, 10_000))
def test_decimal_momenta_stay_decimal(k):
    """0.99 becomes 0.01, not 0.010000000000000009: the nearest double to the decimal difference."""
    assert convert.momentum_from("keras", float(f"{k}e-4")) == float(f"{10_000 - k}e-4")


@pytest.mark.parametrize("dtype", [F32, F64])
@given(var=st.lists(st.floats(2.0**-30, 1e6, width=32), min_size=1, max_size=5), count=st.integers(2, 10**9))
def test_round_trip_of_the_divisor(dtype, var, count):
    """There and back: a rounding of 1/2 ulp each; in float64 four more operations."""
    var = np.array(var, dtype)
    there = convert.convert_running_var(var, count, from_ddof=0, to_ddof=1)
    back = convert.convert_running_var(there, count, from_ddof=1, to_ddof=0)
    assert back.dtype == dtype
    exact = var.astype(np.longdouble) * count / (count - 1)
    assert_within(there, exact, 2 * np.finfo(dtype).eps * exact, "unbiased")
    assert_within(back, var, 3 * np.finfo(dtype).eps * var, "back")


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("target", CONVENTIONS)
def test_any_library_to_any_other_by_way_of_normkit(source, target):
    """Inference in float64 by either description: sqrt(var + eps) is what both must agree on."""
    state = theirs(source)
    middle = FROM[source](state, **{EPS_NAME[source]: 1e-3})
    there = TO[target](middle.state, **middle.options)
    found, names = flat(there.state), NAMES[target]
    for a, b in zip(NAMES[source][:3], names[:3], strict=True):
        assert (state[a] == found[b]).all()
    expected = state[NAMES[source][3]] + 1e-3
    assert_within(found[names[3]] + there.options[EPS_NAME[target]], expected, 4e-16 * expected, "var + eps")
    theirs_of_old = there.options[MOMENTUM_NAME[target]] if CONVENTIONS[target].share_of_old else None
    if theirs_of_old is not None and CONVENTIONS[source].share_of_old:
        assert theirs_of_old == CONVENTIONS[source].momentum


def test_darknet_with_eps_outside():
    state = theirs("darknet")
    converted, options = convert.from_darknet(state, eps=1e-6, eps_outside=True)
    assert options["eps"] == 0.0
    root = np.sqrt(state["rolling_variance"]) + 1e-6
    found = np.sqrt(converted["running_var"] + options["eps"])
    assert_within(found, root, 2 * np.finfo(F64).eps * root, "root")


# --- the state of a model --------------------------------------------------------------------------------------------


def test_a_layer_of_a_model_by_prefix():
    model = {f"block.0.bn.{name}": value for name, value in ours().items()} | {"block.0.conv.weight": np.ones((3, 2))}
    state, options = convert.from_pytorch(model, eps=1e-5, prefix="block.0.bn.")
    assert state["num_batches_tracked"] == 0  # as in checkpoints of PyTorch < 0.4.1
    nk.BatchNorm(3, **options).load_state_dict(state)
    again = convert.to_pytorch(state, eps=1e-5, prefix="block.0.bn.").state
    assert again.keys() == (model.keys() - {"block.0.conv.weight"}) | {"block.0.bn.num_batches_tracked"}


def test_flax_variables_flat_or_nested():
    flat_ones = theirs("flax")
    nested = {
        "params": {"scale": flat_ones["scale"], "bias": flat_ones["bias"]},
        "batch_stats": {"mean": flat_ones["mean"], "var": flat_ones["var"]},
    }
    one, other = (convert.from_flax(v, epsilon=1e-5) for v in (flat_ones, nested))
    assert one.options == other.options
    for name in OURS:
        assert (one.state[name] == other.state[name]).all()


@pytest.mark.parametrize("library", CONVENTIONS)
def test_norms_without_running_statistics(library):
    """Layer and group norm: names, eps and axis only; parameters of any shape."""
    weight = np.arange(6.0).reshape(2, 3)
    found = FROM[library]({NAMES[library][0]: weight}, **{EPS_NAME[library]: 1e-6})
    assert found.state.keys() == {"weight"}
    assert (found.state["weight"] == weight).all()
    assert found.options == {"eps": 1e-6, "axis": CONVENTIONS[library].axis}
    there = TO[library](found.state, **found.options)
    assert flat(there.state).keys() == {NAMES[library][0]}
    assert MOMENTUM_NAME[library] not in there.options


def test_arguments_are_not_changed_and_results_are_copies():
    state = ours()
    before = {name: value.copy() for name, value in state.items()}
    for library in CONVENTIONS:
        for value in flat(TO[library](state, eps=1e-3, running_var_ddof=0, count=4).state).values():
            value += 1
    for name, value in before.items():
        assert (state[name] == value).all()


BAD = {
    "unexpected": (lambda: convert.from_keras({"gama": np.ones(2)}, epsilon=1e-3), ValueError, "`state` must have no "),
    "half": (
        lambda: convert.from_keras({"moving_mean": np.ones(2)}, epsilon=1e-3),
        ValueError,
        "`state` must have both moving_mean and moving_variance or neither, found moving_mean",
    ),
    "shapes": (
        lambda: convert.from_onnx({"scale": np.ones(2), "B": np.ones(3)}, epsilon=1e-5),
        ValueError,
        r"`state` must have arrays of one shape, found scale \(2,\), B \(3,\)",
    ),
    "integers": (lambda: convert.from_onnx({"scale": [1, 2]}, epsilon=1e-5), TypeError, "`scale` must be a float "),
    "no mapping": (lambda: convert.from_flax(3, epsilon=1e-5), TypeError, "`variables` must be a mapping "),
    "eps": (lambda: convert.to_keras(ours(), eps=-1e-5), ValueError, "`eps` must be finite and >= 0, found -1e-05"),
    "epsilon": (lambda: convert.from_keras({}, epsilon="1"), TypeError, "`epsilon` must be a number, found '1'"),
    "momentum": (
        lambda: convert.from_keras(theirs("keras"), epsilon=1e-3, momentum=99),
        ValueError,
        "`momentum` must be from 0 to 1, found 99",
    ),
    "decay": (
        lambda: convert.from_darknet(theirs("darknet"), eps=1e-5, decay=2),
        ValueError,
        "`decay` must be from 0 to 1, found 2",
    ),
    "cumulative": (
        lambda: convert.to_keras(ours(), eps=1e-5, momentum=None),
        ValueError,
        "`momentum` must be a number .*, found None",
    ),
    "prefix": (
        lambda: convert.from_pytorch({"bn.weight": np.ones(2)}, eps=1e-5, prefix="bn1."),
        ValueError,
        "`prefix` must begin the name of an entry of state, found 'bn1.'",
    ),
    "counter": (
        lambda: convert.from_pytorch(ours() | {"num_batches_tracked": -1}, eps=1e-5),
        ValueError,
        "`num_batches_tracked` must be an integer >= 0",
    ),
    "ddof": (
        lambda: convert.to_flax(ours(), eps=1e-5, running_var_ddof=2),
        ValueError,
        "`running_var_ddof` must be 0 or 1, found 2",
    ),
    "count": (
        lambda: convert.to_flax(ours(), eps=1e-5, count=1),
        ValueError,
        "`count` must be >= 2 .*, found 1",
    ),
    "library": (lambda: convert.momentum_from("caffe", 0.9), ValueError, "`library` must be one of .*, found 'caffe'"),
    "negative": (
        lambda: convert.from_darknet(
            {"rolling_mean": np.ones(1), "rolling_variance": -np.ones(1)}, eps=1e-6, eps_outside=True
        ),
        ValueError,
        "`rolling_variance` must be >= 0, found -1",
    ),
    "letters": (
        lambda: convert.conv_layout(np.ones((2, 2)), "OI", "IH"),
        ValueError,
        "`target` must be the letters of 'OI' in any order, found 'IH'",
    ),
    "axes": (
        lambda: convert.conv_layout(np.ones((2, 2)), "OIHW", "HWIO"),
        ValueError,
        "`source` must be a different letter for each of the 2 axes of weight, found 'OIHW'",
    ),
    "depthwise": (
        lambda: convert.depthwise_to_keras(np.ones((6, 1, 3, 3)), 4),
        ValueError,
        r"`weight` must be \(4·M, 1, \*kernel\), found shape \(6, 1, 3, 3\)",
    ),
    "groups": (
        lambda: convert.per_channel(np.ones(3), 3, 8),
        ValueError,
        r"`num_groups` must be at least 1 and divide 8 \(channels\), found 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_function_argument_and_what_was_found(case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=rf"^[a-z_]+: {message}"):
        call()


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "shape"),
    [
        ("HWIO", "OIHW", (3, 2, 4, 6)),
        ("DHWIO", "OIDHW", (2, 3, 2, 4, 6)),
        ("IO", "OI", (4, 6)),
        ("WIO", "OIW", (3, 4, 6)),
    ],
)
def test_layouts_there_and_back(source, target, shape):
    w = np.random.default_rng(0).standard_normal(shape).astype(F32)
    there = convert.conv_layout(w, source, target)
    assert there.flags.c_contiguous
    assert not np.shares_memory(there, w)
    assert there.dtype == F32
    for index in np.ndindex(w.shape):
        by_letter = dict(zip(source, index, strict=True))
        assert there[tuple(by_letter[letter] for letter in target)] == w[index]
    assert (convert.conv_layout(there, target, source) == w).all()


def channels_last_convolution(x, kernel):
    """A convolution in Keras's layout, as its definition reads: (N, H, W, I) and (H, W, I, O), no padding."""
    h, w = (a - b + 1 for a, b in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    return sum(
        x[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(kernel.shape[0]) for j in range(kernel.shape[1])
    )


def test_folding_a_keras_network():
    """A Keras convolution and batch norm become one Keras convolution; float64, up to the roundings of the sums."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 6, 5, 4)), rng.standard_normal((3, 2, 4, 6))
    state = theirs("keras", 6)
    y = channels_last_convolution(x, kernel)
    expected = (y - state["moving_mean"]) / np.sqrt(state["moving_variance"] + 1e-3) * state["gamma"] + state["beta"]
    s, options = convert.from_keras(state, epsilon=1e-3)
    del s["num_batches_tracked"]
    w, b = nk.fold_conv_bn(convert.conv_layout(kernel, "HWIO", "OIHW"), None, **s, eps=options["eps"])
    found = channels_last_convolution(x, convert.conv_layout(w, "OIHW", "HWIO")) + b
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_folding_a_depthwise_keras_convolution():
    rng = np.random.default_rng(0)
    c, m = 3, 2
    x, kernel = rng.standard_normal((2, 6, 5, c)), rng.standard_normal((3, 2, c, m))
    state = theirs("keras", c * m)
    y = np.concatenate(
        [channels_last_convolution(x[..., i : i + 1], kernel[:, :, i : i + 1]) for i in range(c)], axis=-1
    )
    expected = (y - state["moving_mean"]) / np.sqrt(state["moving_variance"] + 1e-3) * state["gamma"] + state["beta"]
    s, options = convert.from_keras(state, epsilon=1e-3)
    del s["num_batches_tracked"]
    w, b = nk.fold_conv_bn(convert.depthwise_from_keras(kernel), None, **s, eps=options["eps"], groups=c)
    found = reference.convolve(np.moveaxis(x, -1, 1), w, b, groups=c)
    np.testing.assert_allclose(np.moveaxis(found, 1, -1).astype(F64), expected, rtol=0, atol=1e-12)
    assert (convert.depthwise_to_keras(convert.depthwise_from_keras(kernel), c) == kernel).all()


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from((F32, F64)))
def test_per_group_and_back(groups, size, dtype):
    parameter = np.random.default_rng([groups, size]).standard_normal(groups).astype(dtype)
    wide = convert.per_channel(parameter, groups, groups * size)
    assert wide.dtype == dtype
    assert (convert.per_group(wide, groups) == parameter).all()


# --- ONNX ------------------------------------------------------------------------------------------------------------


def onnx_model(op, opset, arrays, *, constants=(), inputs=("x",), outputs=("y",), **attributes):
    onnx = pytest.importorskip("onnx")
    h, t = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [h.make_node("Constant", [], [k], value=onnx.numpy_helper.from_array(arrays[k])) for k in constants]
    nodes.append(h.make_node(op, [*inputs, *arrays], list(outputs), name="norm", **attributes))
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", t, None)],
        [h.make_tensor_value_info(y, t, None) for y in outputs],
        [onnx.numpy_helper.from_array(v, k) for k, v in arrays.items() if k not in constants],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)])


def run_onnx(model, x):
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(model)
    return evaluator.run(None, {"x": x})


def parameters(channels, count, seed=0):
    rng = np.random.default_rng(seed)
    return [*rng.standard_normal((count, channels)).astype(F32)]


def close(found, expected):
    """The reference computes in float32, term by term: sums of at most 60, then five operations on numbers below 20."""
    assert found.dtype == expected.dtype == F32
    np.testing.assert_allclose(found, expected, rtol=0, atol=20 * 66 * np.finfo(F32).eps)


X = np.random.default_rng(3).standard_normal((2, 6, 5, 2)).astype(F32) * 2 + 1


@pytest.mark.parametrize("constants", [(), ("scale", "input_var")])
@pytest.mark.parametrize("attributes", [{}, {"epsilon": 1e-2, "momentum": 0.75}])
@pytest.mark.parametrize("opset", [9, 14, 15])
def test_onnx_batch_norm(opset, attributes, constants):
    scale, bias, mean = parameters(6, 3)
    arrays = {"scale": scale, "B": bias, "input_mean": mean, "input_var": np.abs(mean) + F32(0.5)}
    model = onnx_model("BatchNormalization", opset, arrays, constants=constants, **attributes)
    norm = convert.from_onnx_node(model, "norm")
    assert norm.function == "batch_norm"
    assert norm.options["eps"] == F32(attributes.get("epsilon", 1e-5))
    assert norm.options["momentum"] == pytest.approx(1 - attributes.get("momentum", 0.9), abs=1e-7)
    y, _ = nk.batch_norm(X, **norm.state, **norm.options, training=False)
    eps, var = norm.options["eps"], arrays["input_var"]
    close(y, reference.norm(X, scale, bias, mean=mean, var=var, eps=eps).y.astype(F32))
    if opset >= 14:  # the evaluator's opset 9 mixes in the batch's statistics, against its specification
        close(y, run_onnx(model, X)[0])


def test_onnx_batch_norm_training():
    """Its running variance is biased, its momentum the share of the old: the reference says so, too."""
    scale, bias, mean = parameters(6, 3)
    arrays = {"scale": scale, "B": bias, "input_mean": mean, "input_var": np.abs(mean) + F32(0.5)}
    outputs = ("y", "m", "v")
    model = onnx_model("BatchNormalization", 15, arrays, outputs=outputs, training_mode=1, momentum=0.75)
    norm = convert.from_onnx_node(model, "y")  # by the name of an output
    y, _ = nk.batch_norm(X, **norm.state, **norm.options)
    for found, expected in zip(
        (y, norm.state["running_mean"], norm.state["running_var"]), run_onnx(model, X), strict=True
    ):
        close(found, expected)


@pytest.mark.parametrize("opset", [18, 21])
def test_onnx_group_norm(opset, tmp_path):
    """Row 27 of USERS.md: scale and bias are (G,) in opset 18 and (C,) in 21."""
    onnx = pytest.importorskip("onnx")
    groups, per_group = 3, opset == 18
    scale, bias = parameters(groups if per_group else 6, 2)
    model = onnx_model("GroupNormalization", opset, {"scale": scale, "bias": bias}, num_groups=groups, epsilon=1e-3)
    asked = {"affine_per_group": True, "num_channels": 6}
    wrong, right = ({}, asked) if per_group else (asked, {})
    with pytest.raises(
        ValueError, match=rf"^from_onnx_node: `affine_per_group` must be {per_group}, as opset {opset} "
    ):
        convert.from_onnx_node(model, "norm", **wrong)
    onnx.save(model, tmp_path / "model.onnx")
    norm = convert.from_onnx_node(tmp_path / "model.onnx", "norm", **right)
    assert norm.options == {"eps": float(F32(1e-3)), "axis": 1, "num_groups": groups}
    if per_group:
        with pytest.raises(ValueError, match=r"^from_onnx_node: `num_channels` must be given"):
            convert.from_onnx_node(model, "norm", affine_per_group=True)
    x_hat = reference.norm(X, groups=groups, eps=norm.options["eps"]).x_hat
    repeat = 6 // scale.size
    expected = x_hat * np.repeat(scale, repeat).reshape(1, 6, 1, 1) + np.repeat(bias, repeat).reshape(1, 6, 1, 1)
    found, _ = nk.group_norm(X, **norm.state, **norm.options)
    np.testing.assert_allclose(found, expected.astype(F32), rtol=0, atol=2e-6 * np.abs(expected).max())
    close(found, run_onnx(model, X)[0])


@pytest.mark.parametrize(
    ("op", "opset", "shape", "attributes", "kw", "function", "axis"),
    [
        ("InstanceNormalization", 6 + 3, (6,), {}, {}, "instance_norm", 1),
        ("LayerNormalization", 17, (2,), {}, {}, "layer_norm", (-1,)),
        ("LayerNormalization", 17, (5, 2), {"axis": -2}, {}, "layer_norm", (-2, -1)),
        ("LayerNormalization", 17, (6, 5, 2), {"axis": 1, "epsilon": 1e-2}, {"ndim": 4}, "layer_norm", (-3, -2, -1)),
        ("RMSNormalization", 23, (5, 2), {"axis": 2}, {"ndim": 4}, "rms_norm", (-2, -1)),
    ],
)
def test_onnx_other_norms(op, opset, shape, attributes, kw, function, axis):
    arrays = {"scale": np.random.default_rng(1).standard_normal(shape).astype(F32)}
    if op != "RMSNormalization":
        arrays["b"] = np.random.default_rng(2).standard_normal(shape).astype(F32)
    model = onnx_model(op, opset, arrays, **attributes)
    norm = convert.from_onnx_node(model, "norm", **kw)
    assert norm.function == function
    assert norm.options == {"eps": F32(attributes.get("epsilon", 1e-5)), "axis": axis}
    assert (norm.state["weight"] == arrays["scale"]).all()
    expected = by_definition(X, norm).astype(F32)
    close(expected, run_onnx(model, X)[0])
    close(getattr(nk, function)(X, **norm.state, **norm.options)[0], expected)


def by_definition(x, norm):
    x, axes = x.astype(F64), (2, 3) if norm.function == "instance_norm" else norm.options["axis"]
    mean = 0 if norm.function == "rms_norm" else x.mean(axes, keepdims=True)
    y = (x - mean) / np.sqrt(np.square(x - mean).mean(axes, keepdims=True) + norm.options["eps"])
    weight, bias = norm.state["weight"], norm.state.get("bias", F64(0))
    if norm.function == "instance_norm":
        weight, bias = weight.reshape(-1, 1, 1), bias.reshape(-1, 1, 1)
    return y * weight + bias


def test_onnx_errors():
    onnx = pytest.importorskip("onnx")
    scale = {"scale": np.ones(2, F32)}
    layer = onnx_model("LayerNormalization", 17, scale, axis=1)
    h, t = onnx.helper, onnx.TensorProto.FLOAT
    x = [h.make_tensor_value_info(name, t, None) for name in ("x", "s")]
    node = h.make_node("LayerNormalization", ["x", "s"], ["y"], name="norm")
    at_run_time = h.make_model(h.make_graph([node], "g", x, []), opset_imports=[h.make_opsetid("", 17)])
    relu = h.make_model(h.make_graph([h.make_node("Relu", ["x"], ["y"], name="norm")], "g", x, []))
    for model, kw, message in (
        (layer, {"name": "nrom"}, "`name` must be the name or an output of a node in the graph, found 'nrom'"),
        (layer, {"name": ""}, "`name` must be the name or an output of a node in the graph, found ''"),
        (layer, {}, "`ndim` must be given, as the node's axis, 1, counts from the front, found None"),
        (layer, {"ndim": 1}, "`ndim` must be > 1, the node's axis, found 1"),
        (layer, {"ndim": 4}, r"`model` must have scale and bias with 3 axes, as the norm has, found \(2,\)"),
        (at_run_time, {}, "`model` must hold input 's' of node 'norm' as an initializer or a Constant node"),
        (relu, {}, "`name` must be of a node with one of BatchNormalization, .*, found Relu"),
        (onnx_model("LayerNormalization", 8, scale), {}, "`model` must have opset 9 or newer, found opset 8"),
    ):
        with pytest.raises(ValueError, match=rf"^from_onnx_node: {message}"):
            convert.from_onnx_node(model, **({"name": "norm"} | kw))
    with pytest.raises(TypeError, match=re.escape("from_onnx_node: `model` must be an onnx.ModelProto or a path")):
        convert.from_onnx_node(3, "norm")


# --- the libraries themselves ----------------------------------------------------------------------------------------

BATCHES = [np.random.default_rng(seed).standard_normal((4, 3, 5, 2)).astype(F32) * 2 + 1 for seed in range(4)]
STEPS = len(BATCHES)


def trained(state, options, batches=BATCHES):
    layer = nk.BatchNorm(3, **options)
    layer.load_state_dict(state)
    for x in batches:
        layer(x)
    return layer


def statistics_close(found, expected):
    """Float32 sums of 40 numbers below 10, squares of them below 100 in the variance, and four steps of an average."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=100 * 50 * np.finfo(F32).eps)


def test_pytorch_itself():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    with torch.no_grad():
        theirs.weight[:], theirs.bias[:] = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.1, 0.2, 0.3])
    state, options = convert.from_pytorch(theirs.state_dict(), eps=theirs.eps, momentum=theirs.momentum)
    convert.from_pytorch(dict(theirs.named_parameters()), eps=theirs.eps)  # with a graph attached
    layer = trained(state, options)
    for x in BATCHES:
        theirs(torch.from_numpy(x))
    theirs.eval()
    y = layer.eval()(BATCHES[0])
    close(y, theirs(torch.from_numpy(BATCHES[0])).detach().numpy())
    statistics_close(layer.running_var, theirs.running_var)
    assert layer.num_batches_tracked == theirs.num_batches_tracked == STEPS
    back = torch.nn.BatchNorm2d(3, **convert.to_pytorch(layer.state_dict(), **options).options)
    arrays = convert.to_pytorch(layer.state_dict(), **options).state
    back.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    close(back.eval()(torch.from_numpy(BATCHES[0])).detach().numpy(), y)


def test_keras_itself():
    keras = pytest.importorskip("keras")
    theirs = keras.layers.BatchNormalization(momentum=0.7, epsilon=1e-3)
    batches = [np.moveaxis(x, 1, -1) for x in BATCHES]
    theirs.build(batches[0].shape)
    theirs.set_weights([*parameters(3, 3), np.ones(3, F32)])
    variables = {v.name: v for v in theirs.variables if v.name in NAMES["keras"]}
    state, options = convert.from_keras(variables, epsilon=theirs.epsilon, momentum=theirs.momentum, axis=theirs.axis)
    layer = trained(state, options | {"axis": -1}, batches)
    for x in batches:
        theirs(x, training=True)
    statistics_close(layer.running_mean, theirs.moving_mean)
    statistics_close(layer.running_var, theirs.moving_variance)  # biased
    y = layer.eval()(batches[0])
    close(y, np.asarray(theirs(batches[0], training=False)))
    arrays, kw = convert.to_keras(layer.state_dict(), **options)
    back = keras.layers.BatchNormalization(**kw)
    back.build(batches[0].shape)
    back.set_weights([arrays[name] for name in NAMES["keras"]])
    close(np.asarray(back(batches[0], training=False)), y)


def test_flax_itself():
    linen = pytest.importorskip("flax.linen")
    jax = pytest.importorskip("jax")
    module = linen.BatchNorm(momentum=0.7, epsilon=1e-3, use_running_average=False)
    batches = [np.moveaxis(x, 1, -1) for x in BATCHES]
    variables = module.init(jax.random.key(0), batches[0])
    scale, bias = parameters(3, 2)
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": variables["batch_stats"]}
    state, options = convert.from_flax(variables, epsilon=module.epsilon, momentum=module.momentum, axis=module.axis)
    layer = trained(state, options, batches)
    for x in batches:
        _, updated = module.apply(variables, x, mutable=["batch_stats"])
        variables = variables | updated
    statistics_close(layer.running_mean, variables["batch_stats"]["mean"])
    statistics_close(layer.running_var, variables["batch_stats"]["var"])  # biased
    y = layer.eval()(batches[0])
    close(y, np.asarray(module.clone(use_running_average=True).apply(variables, batches[0])))
    converted, kw = convert.to_flax(layer.state_dict(), **options)
    close(np.asarray(linen.BatchNorm(**kw, use_running_average=True).apply(converted, batches[0])), y)
