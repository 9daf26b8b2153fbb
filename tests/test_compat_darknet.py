"""darknet's batch norm against its formulas, and `.weights` files built byte by byte."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import checks
import normkit as nk
import reference
from normkit.compat.darknet import (
    Convolution,
    Header,
    backward_batchnorm_layer,
    forward_batchnorm_layer,
    make_batchnorm_layer,
    read_convolutional,
    read_header,
    read_weights,
    update_batchnorm_layer,
    write_convolutional,
    write_header,
    write_weights,
)
from normkit.convert import from_darknet
from tolerance import assert_within

EPS = np.finfo(np.float64).eps
F32 = np.float32
AXES = (0, 2, 3)


def column(a):
    return a.reshape(1, -1, 1, 1)


def problem(shape=(3, 4, 2, 5), seed=0):
    rng = np.random.default_rng(seed)
    x, delta = rng.standard_normal((2, *shape)) * 2 + 1
    layer = make_batchnorm_layer(shape[1], dtype=np.float64)
    layer.scales[:], layer.biases[:], layer.rolling_mean[:] = rng.standard_normal((3, shape[1]))
    layer.rolling_variance[:] = rng.uniform(0.5, 2, shape[1])
    return layer, x, delta


# --- the layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (2, 4, 1, 1), (5, 4)], ids=str)
@pytest.mark.parametrize("ddof", [0, 1])
def test_training_forward(shape, ddof):
    """Normalized by the variance with the build's divisor; the rolling one is unbiased in all builds. n may be 2."""
    layer, x, _ = problem(shape)
    layer.variance_ddof = ddof
    axes = tuple(i for i in range(x.ndim) if i != 1)
    before_mean, before_var = layer.rolling_mean.copy(), layer.rolling_variance.copy()
    y = forward_batchnorm_layer(layer, x, train=True)
    lift = (1, -1) + (1,) * (x.ndim - 2)
    mean, var = x.mean(axes).reshape(lift), x.var(axes, ddof=ddof).reshape(lift)
    x_hat = (x - mean) / np.sqrt(var + 1e-5)
    expected = layer.scales.reshape(lift) * x_hat + layer.biases.reshape(lift)
    # Here and there: sums of at most 30, deviations that cancel (|mean| < 10 sigma at n = 2), five operations.
    size = np.abs(layer.scales.reshape(lift)) * np.maximum(1, np.abs(x / np.sqrt(var))) + np.abs(expected)
    assert_within(y, expected, 200 * EPS * size, "y")
    expected_mean = 0.99 * before_mean + 0.01 * mean.ravel()
    assert_within(layer.rolling_mean, expected_mean, 100 * EPS * (np.abs(before_mean) + np.abs(x).max()), "mean")
    expected_var = 0.99 * before_var + 0.01 * x.var(axes, ddof=1)
    assert_within(layer.rolling_variance, expected_var, 100 * EPS * (expected_var + (x**2).max()), "variance")


def test_rolling_statistics_start_at_zero_and_decay():
    """0.99 / 0.01; the fork's CPU build has 0.9 / 0.1."""
    x = np.array([[9.0], [11.0]])
    for decay, expected in ((0.99, (0.1, 0.02)), (0.9, (1.0, 0.2))):
        layer = make_batchnorm_layer(1, decay=decay, dtype=np.float64)
        forward_batchnorm_layer(layer, x, train=True)
        np.testing.assert_allclose([layer.rolling_mean[0], layer.rolling_variance[0]], expected, rtol=64 * EPS)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("train", [True, False])
def test_gradients_by_finite_differences(train, ddof):
    """Central differences with h = 1e-5: truncation h²·|f'''|, rounding eps·|f|/h, both below 1e-8 at this size."""
    layer, x, delta = problem((3, 2, 2, 1))
    layer.variance_ddof = ddof

    def loss():
        copy = make_batchnorm_layer(2, variance_ddof=ddof, dtype=np.float64)
        for name in ("scales", "biases", "rolling_mean", "rolling_variance"):
            getattr(copy, name)[:] = getattr(layer, name)
        return (forward_batchnorm_layer(copy, x, train=train) * delta).sum()

    expected = []
    for a in (x, layer.scales, layer.biases):
        gradient = np.zeros_like(a)
        for index in np.ndindex(a.shape):
            old = a[index]
            a[index] = old + 1e-5
            above = loss()
            a[index] = old - 1e-5
            gradient[index] = (above - loss()) / 2e-5
            a[index] = old
        expected.append(gradient)
    forward_batchnorm_layer(layer, x, train=train)
    found = backward_batchnorm_layer(layer, delta), layer.scale_updates, layer.bias_updates
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)


def test_updates_accumulate_until_they_are_applied():
    layer, x, delta = problem()
    forward_batchnorm_layer(layer, x, train=True)
    dx = backward_batchnorm_layer(layer, delta)
    scale, bias = layer.scale_updates.copy(), layer.bias_updates.copy()
    x_hat = (x - column(x.mean(AXES))) / np.sqrt(column(x.var(AXES, ddof=1)) + 1e-5)
    magnitude = np.abs(delta * np.maximum(1, np.abs(x_hat))).sum(AXES)
    assert_within(scale, (delta * x_hat).sum(AXES), 200 * EPS * magnitude, "scale_updates")
    assert_within(bias, delta.sum(AXES), 200 * EPS * magnitude, "bias_updates")
    assert checks.same_bits(backward_batchnorm_layer(layer, delta), dx)
    assert (layer.scale_updates == 2 * scale).all()
    assert (layer.bias_updates == 2 * bias).all()
    scales, biases = layer.scales.copy(), layer.biases.copy()
    update_batchnorm_layer(layer, batch=4, learning_rate=0.5, momentum=0.25)
    assert (layer.scales == scales + 0.125 * (2 * scale)).all()
    assert (layer.biases == biases + 0.125 * (2 * bias)).all()
    assert (layer.scale_updates == 0.5 * scale).all()
    assert (layer.bias_updates == 0.5 * bias).all()


def test_learning_goes_downhill():
    """delta is the negative gradient, so updates are added: the squared error falls at every step."""
    layer, x, _ = problem()
    target = problem(seed=1)[1]
    losses = []
    for _ in range(20):
        y = forward_batchnorm_layer(layer, x, train=True)
        losses.append(np.square(target - y).sum())
        backward_batchnorm_layer(layer, target - y)
        update_batchnorm_layer(layer, batch=x.shape[0], learning_rate=0.01, momentum=0.0)
        layer.scale_updates[:] = layer.bias_updates[:] = 0
    assert (np.diff(losses) < 0).all()


@pytest.mark.parametrize(("outside", "eps"), [(False, 1e-5), (True, 1e-6), (True, 0.5)])
def test_inference_with_eps_inside_and_outside_of_the_root(outside, eps):
    layer, x, delta = problem()
    layer.eps, layer.eps_outside = eps, outside
    before = [layer.rolling_mean.copy(), layer.rolling_variance.copy()]
    y = forward_batchnorm_layer(layer, x, train=False)
    var = layer.rolling_variance
    root = column(np.sqrt(var) + eps if outside else np.sqrt(var + eps))
    expected = column(layer.scales) * (x - column(layer.rolling_mean)) / root + column(layer.biases)
    size = np.abs(column(layer.scales) / root) * (np.abs(x) + 10) + np.abs(expected)
    assert_within(y, expected, 20 * EPS * size, "y")
    dx = backward_batchnorm_layer(layer, delta)
    gradient = column(layer.scales) / root * delta
    assert_within(dx, gradient, 20 * EPS * np.abs(gradient), "delta")
    assert all((a == b).all() for a, b in zip(before, (layer.rolling_mean, var), strict=True))


@pytest.mark.parametrize(("var", "apart"), [(1.0, 4.0e-6), (1e-4, 0.0487)])
def test_the_two_forms_of_eps_are_apart_as_documented(var, apart):
    """docs/convert.md; from sqrt(var + 1e-5) / (sqrt(var) + 1e-6) - 1, to the digits given there."""
    inside, outside = make_batchnorm_layer(1), make_batchnorm_layer(1, eps=1e-6, eps_outside=True)
    x = np.array([[1.0], [-2.0]])
    for layer in (inside, outside):
        layer.rolling_variance[:] = var
    ratio = forward_batchnorm_layer(outside, x, train=False) / forward_batchnorm_layer(inside, x, train=False)
    np.testing.assert_allclose(ratio - 1, apart, rtol=0.01)


def test_layer_errors_are_in_darknet_s_words_and_change_nothing():
    layer, x, delta = problem()
    state = {name: np.array(value) for name, value in vars(layer).items() if isinstance(value, np.ndarray)}

    def refused(kind, message, f, *args, **kw):
        with pytest.raises(kind, match=message):
            f(*args, **kw)

    forward, backward = "^forward_batchnorm_layer: ", "^backward_batchnorm_layer: "
    refused(RuntimeError, backward + "`layer` must have had a forward pass", backward_batchnorm_layer, layer, delta)
    for bad, kind, message in (
        (x[:1, :, :1, :1], ValueError, "`x` must have more than one value per channel in training"),
        (x[:, :3], ValueError, "`layer.scales` must have 3 elements"),
        (x.astype(int), TypeError, "`x` must be "),
        (None, TypeError, "`x` must be a NumPy array"),
    ):
        refused(kind, forward + message, forward_batchnorm_layer, layer, bad, train=True)
    layer.eps_outside = True
    refused(ValueError, forward + "`layer.eps_outside` must be False", forward_batchnorm_layer, layer, x, train=True)
    layer.eps_outside = False
    assert all((getattr(layer, name) == value).all() for name, value in state.items())
    forward_batchnorm_layer(layer, x, train=False)
    refused(ValueError, backward + "`delta` must have the shape of x", backward_batchnorm_layer, layer, delta[:1])
    assert (layer.scale_updates == 0).all()
    for outside in (False, True):
        layer.eps_outside = outside
        layer.rolling_variance[1] = -1
        refused(
            ValueError,
            forward + "`layer.rolling_variance` must be >= 0",
            forward_batchnorm_layer,
            layer,
            x,
            train=False,
        )
    for kw, argument in (
        ({"c": 0}, "c"),
        ({"eps": -1.0}, "eps"),
        ({"decay": 1.5}, "decay"),
        ({"variance_ddof": 2}, "variance_ddof"),
    ):
        refused(ValueError, f"^make_batchnorm_layer: `{argument}` must be ", make_batchnorm_layer, **({"c": 2} | kw))
    refused(ValueError, "^update_batchnorm_layer: `batch` must be >= 1", update_batchnorm_layer, layer, 0, 0.1, 0.9)


def test_an_empty_batch_changes_nothing():
    layer, x, _ = problem()
    before = layer.rolling_variance.copy()
    y = forward_batchnorm_layer(layer, x[:0], train=True)
    assert backward_batchnorm_layer(layer, y).shape == y.shape == (0, 4, 2, 5)
    assert (layer.rolling_variance == before).all()
    assert (layer.scale_updates == 0).all()


# --- files -----------------------------------------------------------------------------------------------------------


def floats(*values):
    """Little-endian float32, one by one."""
    return b"".join(struct.pack("<f", v) for v in values)


HEADER = bytes([0, 0, 0, 0]) + bytes([2, 0, 0, 0]) + bytes([0, 0, 0, 0]) + bytes([0, 1, 0, 0, 1, 0, 0, 0])
FIRST = (
    floats(0.5, -0.5)  # biases
    + floats(2.0, 3.0)  # scales
    + floats(1.0, -1.0)  # rolling mean
    + floats(4.0, 9.0)  # rolling variance
    + floats(*range(8))  # weights (2, 1, 2, 2)
)
SECOND = floats(7.0) + floats(10.0, 20.0)  # a bias and weights (1, 2, 1, 1), no batch norm
SHAPES = [
    {"filters": 2, "channels": 1, "size": 2},
    {"filters": 1, "channels": 2, "size": 1, "batch_normalize": False},
]


@pytest.mark.parametrize(
    ("version", "wide"),
    [
        ((0, 1), False),
        ((0, 2), True),
        ((0, 9), True),
        ((1, 0), True),
        ((0, 999), True),
        ((0, 1000), False),
        ((1001, 0), False),
    ],
    ids=str,
)
def test_seen_is_32_or_64_bits_wide_by_version(version, wide):
    seen = 2**33 + 5 if wide else 2**32 - 3
    data = struct.pack("<iii", *version, 7) + struct.pack("<Q" if wide else "<I", seen)
    file = io.BytesIO(data + b"rest")
    header = read_header(file)
    assert header == Header(*version, 7, seen)
    assert file.read() == b"rest"
    again = io.BytesIO()
    write_header(again, header)
    assert again.getvalue() == data


def test_a_file_byte_by_byte(tmp_path):
    path = tmp_path / "net.weights"
    path.write_bytes(HEADER + FIRST + SECOND)
    header, (first, second) = read_weights(path, SHAPES)
    assert header == Header(0, 2, 0, 2**32 + 256)
    assert first.batch_normalize
    assert first.biases.tolist() == [0.5, -0.5]
    assert first.scales.tolist() == [2.0, 3.0]
    assert first.rolling_mean.tolist() == [1.0, -1.0]
    assert first.rolling_variance.tolist() == [4.0, 9.0]
    assert first.weights.tolist() == [[[[0, 1], [2, 3]]], [[[4, 5], [6, 7]]]]
    assert not second.batch_normalize
    assert second.biases.tolist() == [7.0]
    assert second.weights.ravel().tolist() == [10.0, 20.0]
    for layer in (first, second):
        arrays = [a for a in vars(layer).values() if isinstance(a, np.ndarray)]
        assert all(a.dtype == F32 and a.flags.writeable for a in arrays)
    write_weights(tmp_path / "again.weights", header, [first, second])
    assert (tmp_path / "again.weights").read_bytes() == HEADER + FIRST + SECOND


def test_folded_and_written_back(tmp_path):
    """By hand: s = scales / sqrt(variance) = (1, 1); biases - mean·s; the file loses its batch norm."""
    path = tmp_path / "net.weights"
    path.write_bytes(HEADER + FIRST + SECOND)
    header, layers = read_weights(path, SHAPES)
    folded = [layer.fold(eps=0.0) for layer in layers]
    assert folded[1] is layers[1]
    write_weights(path, header, folded)
    assert path.read_bytes() == HEADER + floats(-0.5, 0.5) + floats(*range(8)) + SECOND
    assert layers[0].batch_normalize  # as it was


@pytest.mark.parametrize("length", range(len(HEADER + FIRST + SECOND)))
def test_a_file_cut_anywhere_is_an_error(tmp_path, length):
    path = tmp_path / "net.weights"
    path.write_bytes((HEADER + FIRST + SECOND)[:length])
    with pytest.raises(ValueError, match=r"^read_(header|convolutional): `file` must have \d+ bytes at byte \d+ \("):
        read_weights(path, SHAPES)


def test_what_is_missing_is_said():
    file = io.BytesIO((HEADER + FIRST)[:-1])
    file.seek(len(HEADER))
    message = r"`file` must have 32 bytes at byte 52 \(weights, float32 \(2, 1, 2, 2\)\), found 31$"
    with pytest.raises(ValueError, match=r"^read_convolutional: " + message):
        read_convolutional(file, **SHAPES[0])
    with pytest.raises(ValueError, match=r"^read_header: `file` must have 8 bytes at byte 12 \(images seen\), found 7"):
        read_header(io.BytesIO(HEADER[:-1]))


def test_layers_that_do_not_use_up_the_file_are_an_error(tmp_path):
    path = tmp_path / "net.weights"
    path.write_bytes(HEADER + FIRST + SECOND)
    with pytest.raises(
        ValueError, match=r"^read_weights: `path` must end after 1 layers, at byte 84, found 12 bytes more"
    ):
        read_weights(path, SHAPES[:1])


def test_file_errors(tmp_path):
    with pytest.raises(ValueError, match=r"^read_header: `file` must begin with a version .*, found -1\.2\.0$"):
        read_header(io.BytesIO(struct.pack("<iiiQ", -1, 2, 0, 0)))
    for kw, message in (
        ({"filters": 0}, "`filters` must be >= 1, found 0"),
        ({"size": -1}, "`size` must be >= 1, found -1"),
        ({"groups": 2}, "`groups` must divide filters, 2, and channels, 1, found 2"),
    ):
        with pytest.raises(ValueError, match=rf"^read_convolutional: {message}"):
            read_convolutional(io.BytesIO(FIRST), **SHAPES[0] | kw)
    ones = np.ones(2)
    path = tmp_path / "kept.weights"
    path.write_bytes(b"kept")
    for layer, message in (
        (
            Convolution(ones, np.ones((2, 1, 1, 1)), ones),
            "must have all of scales, rolling_mean, rolling_variance or none",
        ),
        (Convolution(np.ones(3), np.ones((2, 1, 1, 1))), r"must have biases of shape \(2,\), found shape \(3,\)"),
        (Convolution(ones, np.ones((2, 1, 1, 1)), ones, np.ones(1), ones), r"must have rolling_mean of shape \(2,\)"),
        (Convolution(ones, np.ones((2, 1, 3, 1))), r"must have weights \(n, c / groups, size, size\), found shape"),
    ):
        file = io.BytesIO()
        with pytest.raises(ValueError, match=rf"^write_convolutional: `layer` {message}"):
            write_convolutional(file, layer)
        assert file.getvalue() == b""
        with pytest.raises(ValueError, match=rf"^write_weights: `layer` {message}"):
            write_weights(path, Header(), [layer])
    for header in (Header(0, 1, 0, 2**32), Header(0, 2, 0, -1), Header(-1), Header(2**31)):
        with pytest.raises(ValueError, match=r"^write_header: `header` must have numbers >= 0 that fit"):
            write_header(io.BytesIO(), header)
        with pytest.raises(ValueError, match=r"^write_weights: `header` must have numbers >= 0 that fit"):
            write_weights(path, header, [])
    assert path.read_bytes() == b"kept"
    with pytest.raises(ValueError, match=r"^Convolution.batch_norm: `scales` must be there"):
        Convolution(ones, np.ones((2, 1, 1, 1))).batch_norm()


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans()), max_size=4
    ),
    st.integers(0, 2**64 - 1),
)
def test_any_file_there_and_back(tmp_path_factory, shapes, seen):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("darknet") / "net.weights"
    specs, layers = [], []
    for per_group, c, size, groups, batch_normalize in shapes:
        n = per_group * groups
        vectors = rng.standard_normal((4, n)).astype(F32)
        weights = rng.standard_normal((n, c, size, size)).astype(F32)
        layers.append(Convolution(vectors[0], weights, *(vectors[1:] if batch_normalize else ()), groups=groups))
        specs.append(
            {"filters": n, "channels": c * groups, "size": size, "groups": groups, "batch_normalize": batch_normalize}
        )
    write_weights(path, Header(seen=seen), layers)
    header, found = read_weights(path, specs)
    assert header.seen == seen
    for a, b in zip(found, layers, strict=True):
        assert a.groups == b.groups
        for name in ("biases", "weights", "scales", "rolling_mean", "rolling_variance"):
            one, other = getattr(a, name), getattr(b, name)
            assert (one is None and other is None) or checks.same_bits(one, other)


@pytest.mark.parametrize(("eps", "outside"), [(1e-5, False), (1e-6, True), (0.5, True)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_folded_convolution_is_convolution_then_batch_norm(groups, eps, outside):
    rng = np.random.default_rng(groups)
    vectors = rng.standard_normal((3, 4))
    layer = Convolution(
        vectors[0],
        rng.standard_normal((4, 4 // groups, 3, 3)),
        vectors[1],
        vectors[2],
        rng.uniform(0.1, 2, 4),
        groups=groups,
    )
    x = rng.standard_normal((2, 4, 5, 5))
    y = reference.convolve(x, layer.weights, groups=groups)
    root = np.sqrt(layer.rolling_variance) + eps if outside else np.sqrt(layer.rolling_variance + eps)
    expected = column(layer.scales) * (y - column(layer.rolling_mean)) / column(root) + column(layer.biases)
    folded = layer.fold(eps=eps, eps_outside=outside)
    found = reference.convolve(x, folded.weights, folded.biases, groups=groups)
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=0, atol=1e-12)
    assert folded.groups == groups
    assert (folded.scales, folded.rolling_mean, folded.rolling_variance) == (None, None, None)
    # The same through a layer of normkit's own.
    state, options = from_darknet(layer.batch_norm(), eps=eps, eps_outside=outside)
    bn = nk.BatchNorm(4, **options, dtype=np.float64).eval()
    bn.load_state_dict(state)
    np.testing.assert_allclose(bn(y.astype(float)), expected.astype(float), rtol=0, atol=1e-12)


def test_row_05_eps_is_required_when_folding_a_darknet_layer():
    layer = Convolution(np.ones(1), np.ones((1, 1, 1, 1)), *np.ones((3, 1)))
    with pytest.raises(TypeError, match="eps"):
        layer.fold()
    layer.rolling_variance = -np.ones(1)
    for outside in (False, True):
        with pytest.raises(ValueError, match=r"^Convolution.fold: `rolling_variance` must be >= 0, found -1"):
            layer.fold(eps=1e-5, eps_outside=outside)
