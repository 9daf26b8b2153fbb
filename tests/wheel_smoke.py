"""What an installed normkit does with nothing but NumPy beside it: every public name once, held to the oracle.

    python tests/wheel_smoke.py        from any folder

No pytest and no ml_dtypes, so that it says what a user's empty environment would. `make check-wheel` runs it with every
Python and the oldest and newest NumPy, `make check-old-cpu` on emulated CPUs.
"""

import importlib.util
import io
import platform
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np

import checks
import checks_weights
import layer_cases
import normkit as nk
import reference
from cases import NORMS, Case
from data import ALL_DTYPES, values
from table import check_case
from tolerance import assert_within

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
RAN_BY_RANKS = {"SyncBatchNorm"}  # needs MPI, which is not only NumPy
NORM_CACHES = {
    f"{norm}Cache"
    for norm in (
        "BatchNorm", "BatchRenorm", "GroupNorm", "InstanceNorm", "AdaptiveInstanceNorm", "LayerNorm", "RMSNorm",
    )
}  # fmt: skip
CHECKS: dict[str, tuple[Callable[[], None], frozenset[str]]] = {}


def covers(*names):
    """The check below shows that these public names work."""

    def register(check):
        CHECKS[check.__name__] = (check, frozenset(names))
        return check

    return register


@covers(*(name for row in NORMS for name in (row.function, f"{row.function}_backward")), *NORM_CACHES)
def norms():
    """Every row of the table, fused and masked ones too: in rows, in columns, strided."""
    shape = (4, 6, 5, 11)
    for k, row in enumerate(NORMS):
        for dtype in ALL_DTYPES:
            for layout in ("c_order", "channels_last", ("reversed", "sliced")[k % 2]):
                check_case(Case(row.name, shape, layout, dtype))
    check_case(Case("batch_norm", (3, 5, 5003), "c_order", F32))  # more than a block
    check_case(Case("layer_norm-channels", (300, 65), "c_order", F32))


@covers("batch_norm_inference")
def inference():
    i = values((4, 6, 5, 11), F32)
    y = nk.batch_norm_inference(i.x, i.running_mean, i.running_var, i.weight, i.bias, eps=i.eps)
    result = reference.norm(i.x, i.weight, i.bias, mean=i.running_mean, var=i.running_var, eps=i.eps)
    size = np.abs(result.gamma * result.x_hat) + np.abs(result.beta)
    assert_within(y, result.y, 1e-6 * np.maximum(1, size), "y")  # the contract: see tolerance.py


@covers("moments", "Moments")
def moments():
    x = values((40, 6, 5, 11), F32, mean=1e3).x
    checks.moments(x, (0, 2, 3), F32)
    merged = nk.moments(x[:7], (0, 2, 3)).merge(nk.moments(x[7:], (0, 2, 3)))
    mean, _ = reference.moments(x, (0, 2, 3))
    assert merged.count == 40 * 55
    assert_within(merged.mean, mean, 1e-6 * np.abs(mean), "merged mean")


@covers(
    "weight_norm", "weight_norm_backward", "WeightNormCache",
    "spectral_norm", "spectral_norm_backward", "SpectralNormCache",
    "scaled_weight_standardization", "scaled_weight_standardization_backward", "ScaledWeightStandardizationCache",
)  # fmt: skip
def weights():
    for shape in ((6, 4, 3, 3), (33, 70)):
        for dtype in (F32, F64):
            assert len(list(checks_weights.run_all(*checks_weights.values(shape, dtype)))) > 3


@covers("fold_conv_bn")
def folding():
    rng = np.random.default_rng(0)
    w, conv_bias, mean, weight, bias = rng.standard_normal((6, 4, 3, 3)), *rng.standard_normal((4, 6))
    given = (w, conv_bias, mean, rng.uniform(0.5, 2, 6), weight, bias)
    for found, exact in zip(nk.fold_conv_bn(*given, eps=1e-5), reference.fold(*given, eps=1e-5), strict=True):
        assert_within(found, exact, 16 * np.finfo(F64).eps * (1 + np.abs(exact)), "folded")  # 8 float64 operations


OF_LAYER = {
    "BatchNorm": (nk.batch_norm, nk.batch_norm_backward),
    "GroupNorm": (lambda x, weight, bias: nk.group_norm(x, 3, weight, bias), nk.group_norm_backward),
    "InstanceNorm": (nk.instance_norm, nk.instance_norm_backward),
    "LayerNorm": (lambda x, *of: nk.layer_norm(x, *of, axis=(2, 3)), nk.layer_norm_backward),
    "RMSNorm": (nk.rms_norm, nk.rms_norm_backward),
    "BatchRenorm": (
        lambda x, *of: nk.batch_renorm(x, np.zeros(6, F32), np.ones(6, F32), *of),  # r = 1, d = 0 to begin with
        nk.batch_renorm_backward,
    ),
}


@covers(*OF_LAYER)
def layers():
    """Each is its function, which `norms` held to the oracle; every other row of the layers' table runs."""
    x, dy = layer_cases.data()
    for name, row in layer_cases.LAYERS.items():
        layer = layer_cases.randomize(row.build())
        y, dx = layer(x), layer.backward(dy)
        assert y.shape == dx.shape == x.shape
        if name in OF_LAYER:
            forward, backward = OF_LAYER[name]
            expected, cache = forward(x, *layer.params.values())
            assert checks.same_bits(y, expected), name
            for found, gradient in zip((dx, *layer.grads.values()), backward(dy, cache), strict=True):
                assert checks.same_bits(found, gradient), name
        layer.load_state_dict(layer.eval().state_dict())
        assert layer(x).shape == x.shape


@covers("AdaptiveInstanceNorm", "WeightNorm", "SpectralNorm", "ScaledWeightStandardization")
def other_modules():
    rng = np.random.default_rng(1)
    content, style, dy = rng.standard_normal((3, 2, 4, 6, 6))
    layer = nk.AdaptiveInstanceNorm()
    expected, cache = nk.adaptive_instance_norm(content, style)
    assert checks.same_bits(layer(content, style), expected)
    for found, gradient in zip(layer.backward(dy), nk.adaptive_instance_norm_backward(dy, cache), strict=True):
        assert checks.same_bits(found, gradient)
    weight = rng.standard_normal((5, 4, 3))
    assert_within(nk.WeightNorm(weight)(), weight, checks_weights.WIDE * np.abs(weight), "starts as the weight")
    u, v = (module := nk.SpectralNorm(weight)).weight_u.copy(), module.weight_v.copy()
    assert checks.same_bits(module(), nk.spectral_norm(weight, u, v)[0])
    standardized = nk.scaled_weight_standardization(weight, np.ones(5))[0]
    assert checks.same_bits(nk.ScaledWeightStandardization(weight)(), standardized)


@covers("precise_statistics")
def precise():
    x = values((64, 6, 5, 11), F32).x
    layer = nk.BatchNorm(6)
    nk.precise_statistics([layer], layer, np.split(x, 4))
    mean, m2 = reference.moments(x, (0, 2, 3))
    var = m2 / (x.size // 6 - 1)
    assert_within(layer.running_mean, mean, 1e-6 * np.maximum(np.abs(mean), np.sqrt(var)), "mean")
    assert_within(layer.running_var, var, 1e-6 * var, "var")


@covers("set_num_threads", "get_num_threads", "num_threads", "show_config", "show_plans", "__version__")
def process():
    i = values((16, 64, 33, 33), F32)
    expected, _ = nk.batch_norm(i.x, i.weight, i.bias)
    for n in (1, 3):
        with nk.num_threads(n):
            assert nk.get_num_threads() == n
            assert checks.same_bits(nk.batch_norm(i.x, i.weight, i.bias)[0], expected)
    nk.set_num_threads(nk.get_num_threads())
    with redirect_stdout(io.StringIO()) as shown:
        nk.show_config()
    assert shown.getvalue().startswith(f"normkit {nk.__version__}\n")
    with redirect_stdout(io.StringIO()) as shown, nk.show_plans():
        nk.batch_norm(i.x)
    assert "schedule" in shown.getvalue()


@covers()
def other_libraries():
    """What needs no more than NumPy works without it; what does says so."""
    from normkit.compat import cs231n, darknet
    from normkit.convert import from_keras, from_onnx_node

    out, cache = cs231n.batchnorm_forward(np.eye(4), np.ones(4), np.zeros(4), {"mode": "train"})
    assert len(cs231n.batchnorm_backward(out, cache)) == 3
    assert darknet.Header(seen=1).seen == 1
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    state, options = from_keras(dict(zip(names, np.ones((4, 6)), strict=True)), epsilon=1e-3)
    nk.BatchNorm(6, **options).load_state_dict(state)
    if importlib.util.find_spec("onnx") is None:
        try:
            from_onnx_node(None, "bn")
        except ImportError as error:
            assert "onnx" in str(error)  # noqa: PT017
        else:
            raise AssertionError("from_onnx_node without onnx raised nothing")


@covers()
def bad_input():
    x, kept = np.zeros((4, 6, 5), F32), np.ones(32, F32)
    try:
        nk.batch_norm(x, kept)
    except ValueError as error:
        expected = "batch_norm: `weight` must have 6 elements (channels of x on axis 1), found shape (32,)"
        assert str(error) == expected  # noqa: PT017
    else:
        raise AssertionError("a weight of 32 for 6 channels was taken")
    assert (kept == 1).all()


def main():
    """Run every check; a name of `nk.__all__` that none covers is a failure, too."""
    with redirect_stdout(io.StringIO()) as shown:
        nk.show_config()
    isa = next(line for line in shown.getvalue().splitlines() if line.startswith("isa"))
    beside = [name for name in ("ml_dtypes", "pytest", "torch", "scipy") if importlib.util.find_spec(name)]
    print(
        f"normkit {nk.__version__} from {nk.__file__}", f"CPython {platform.python_version()}, NumPy {np.__version__}"
    )
    print(" ".join(isa.split()), f"beside NumPy: {', '.join(beside) or 'nothing'}", sep="; ")
    missing = set(nk.__all__) - RAN_BY_RANKS - frozenset().union(*(names for _, names in CHECKS.values()))
    if missing:
        sys.exit(f"nothing covers {', '.join(sorted(missing))}")
    for name, (check, names) in CHECKS.items():
        start = time.perf_counter()
        check()
        print(f"ok {name}: {len(names)} names, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
