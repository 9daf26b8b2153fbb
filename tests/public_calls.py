"""Every public callable with a call that works, for tests that go over all of them. One without a row fails a test."""

import inspect
import io
import os
import pathlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import normkit as nk
from cases import NORMS
from data import values, with_axes, with_mask, with_residual, with_style
from layer_cases import LAYERS
from normkit import convert
from normkit.compat import cs231n, darknet

SHAPE = (4, 6, 5)
F32 = np.dtype(np.float32)
MODULES = {"": nk, "convert.": convert, "cs231n.": cs231n, "darknet.": darknet}
DATA = {  # records without checks: what uses them checks them
    "convert.Convention", "convert.Converted", "convert.OnnxNorm", "darknet.BatchNormLayer", "darknet.Convolution",
    "darknet.Header", "darknet.Weights",
}  # fmt: skip


@dataclass
class Call:
    """A function with arguments by name, all of them new."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    owner: Any = None
    """The layer whose method it is."""

    def __call__(self, **changes):
        return self.function(**self.arguments | changes)

    def parameters(self):
        return list(inspect.signature(self.function).parameters)


def array(*shape, seed=0, dtype=F32):
    return np.random.default_rng([*shape, seed]).uniform(0.5, 2, shape).astype(dtype)


# --- functions ---


def of_case(row):
    """The call of a row of the big table, with everything that it may be given."""
    inputs = with_style(values(SHAPE, F32)) if row.function.startswith("adaptive") else values(SHAPE, F32)
    inputs = row.prepare(inputs)
    parameters = inspect.signature(getattr(nk, row.function)).parameters
    if inputs.axes is not None:
        inputs = with_axes(inputs, (1, 2))
    if "residual" in parameters:
        inputs = with_residual(inputs)
    if "mask" in parameters:
        inputs = with_mask(inputs)
    made = row.call(inputs)
    arguments = inspect.signature(made.func).bind(*made.args, **made.keywords).arguments
    if "running_mean" in parameters:
        arguments |= {"running_mean": array(6, seed=1), "running_var": array(6, seed=2)}
    return Call(made.func, dict(arguments) | {"out": np.zeros(SHAPE, F32)})


def backward_of(name, gradient="dy"):
    forward = CALLS[name]()
    forward.arguments.pop("out", None)
    cache = forward()[1]
    shape = SHAPE if gradient == "dy" else (4, 3, 5)
    arguments = {gradient: array(*shape, seed=3), "cache": cache, "out": np.zeros(shape, F32)}
    return Call(getattr(nk, f"{name}_backward"), arguments)


def fold():
    arrays = dict(zip(("conv_bias", "running_mean", "running_var", "weight", "bias"), array(5, 6), strict=True))
    arguments = {"conv_weight": array(6, 4, 3), **arrays, "eps": 1e-5, "groups": 1, "transposed": False}
    return Call(nk.fold_conv_bn, arguments)


def inference():
    i = with_residual(values(SHAPE, F32))
    statistics = {"mean": i.running_mean, "var": i.running_var}
    more = {"weight": i.weight, "bias": i.bias, "residual": i.residual, "activation": "relu"}
    return Call(nk.batch_norm_inference, {"x": i.x, **statistics, **more, "out": np.zeros(SHAPE, F32)})


def some_moments():
    return nk.moments(array(3, 4), 0)


WEIGHT = (4, 3, 5)
CALLS: dict[str, Callable[[], Call]] = {
    **{row.function: partial(of_case, row) for row in reversed(NORMS)},
    "batch_norm_inference": inference,
    "fold_conv_bn": fold,
    "weight_norm": lambda: Call(nk.weight_norm, {"v": array(*WEIGHT), "g": array(4), "dim": 0}),
    "spectral_norm": lambda: Call(
        nk.spectral_norm, {"weight": array(*WEIGHT), "u": array(4), "v": array(15), "dim": 0}
    ),
    "scaled_weight_standardization": lambda: Call(
        nk.scaled_weight_standardization, {"weight": array(*WEIGHT), "gain": array(4)}
    ),
    "moments": lambda: Call(nk.moments, {"x": array(*SHAPE), "axis": 0}),
    "Moments": lambda: Call(nk.Moments, {"count": 3, "mean": np.zeros(4), "m2": np.ones(4)}),
    "Moments.var": lambda: Call(some_moments().var, {"ddof": 0}),
    "Moments.merge": lambda: Call(some_moments().merge, {"other": some_moments()}),
    "set_num_threads": lambda: Call(nk.set_num_threads, {"n": 2}),
    "num_threads": lambda: Call(lambda n: nk.num_threads(n).__enter__(), {"n": 2}),
    "precise_statistics": lambda: precise(),
}
for _name in ("weight_norm", "spectral_norm", "scaled_weight_standardization"):
    CALLS[f"{_name}_backward"] = partial(backward_of, _name, "dw")
for _name in {row.function for row in NORMS}:
    CALLS[f"{_name}_backward"] = partial(backward_of, _name)


def precise():
    layer = nk.BatchNorm(6)
    arguments = {"layers": [layer], "forward": layer, "batches": [array(*SHAPE)], "update": True}
    return Call(nk.precise_statistics, arguments, layer)


# --- layers ---


class Alone:
    """A communicator of one rank."""

    rank, size = 0, 1

    def Allgather(self, sent, received, /):  # noqa: N802
        received[0] = sent


def made(name):
    """A layer for arrays of SHAPE with the channels on axis 1, or a weight of WEIGHT."""
    layer = {
        "LayerNorm": lambda: nk.LayerNorm((6, 5)),
        "RMSNorm": lambda: nk.RMSNorm((6, 5)),
        "AdaptiveInstanceNorm": nk.AdaptiveInstanceNorm,
        "SyncBatchNorm": lambda: nk.SyncBatchNorm(6, comm=Alone()),
        **{cls: partial(getattr(nk, cls), array(*WEIGHT)) for cls in WEIGHTS},
    }.get(name, LAYERS[name].build if name in LAYERS else None)()
    rng = np.random.default_rng(1)
    for p in layer.params.values():
        p[...] = rng.uniform(0.5, 2, p.shape)
    return layer


def called(name):
    """The layer after a pass forward and backward, and the arguments of its call."""
    layer = made(name)
    if name in WEIGHTS:
        arguments = {}
    elif name == "AdaptiveInstanceNorm":
        arguments = {"content": array(*SHAPE), "style": array(4, 6, 7)}
    else:
        arguments = {"x": array(*SHAPE), "out": np.zeros(SHAPE, F32)}
        parameters = inspect.signature(layer).parameters
        arguments |= {"residual": array(*SHAPE, seed=4)} if "residual" in parameters else {}
        arguments |= {"mask": np.arange(20).reshape(4, 5) != 7} if "mask" in parameters else {}
    y = layer(**arguments)
    layer.backward(np.ones_like(y))
    return layer, arguments


def method(name, what):
    layer, arguments = called(name)
    own = {
        "__call__": lambda: arguments,
        "backward": lambda: {"dw": array(*WEIGHT), "accumulate": False} if name in WEIGHTS else {
            "dy": array(*SHAPE), "accumulate": True, "out": np.zeros(SHAPE, F32)
        },
        "load_state_dict": lambda: {"state": layer.state_dict(), "strict": True},
        "train": lambda: {"mode": True},
        "fold_into": lambda: {"conv_weight": array(6, 4, 3), "conv_bias": array(6), "groups": 1, "transposed": False},
        "merged_over_ranks": lambda: {"local": lambda: nk.moments(array(5, 6), 0)},
    }[what]()  # fmt: skip
    return Call(getattr(layer, what), own, layer)


WEIGHTS = ("WeightNorm", "SpectralNorm", "ScaledWeightStandardization")
FIRST = {
    "GroupNorm": {"num_groups": 3, "num_channels": 6},
    "LayerNorm": {"normalized_shape": (6, 5)},
    "RMSNorm": {"normalized_shape": (6, 5)},
    "AdaptiveInstanceNorm": {},
    "SyncBatchNorm": {"num_features": 6, "comm": Alone()},
}
CLASSES = [name for name in nk.__all__ if inspect.isclass(getattr(nk, name)) and hasattr(getattr(nk, name), "eval")]


def methods(cls):
    """Public methods that take something, and the call."""
    found = inspect.getmembers(cls, inspect.isfunction)
    found += [(n, f) for n, f in vars(cls).items() if inspect.ismethoddescriptor(f)]
    return [n for n, f in found if (n == "__call__" or n[0] != "_") and len(inspect.signature(f).parameters) > 1]


for _name in CLASSES:
    _arguments = {"weight": array(*WEIGHT)} if _name in WEIGHTS else FIRST.get(_name, {"num_features": 6})
    CALLS[_name] = partial(Call, getattr(nk, _name), _arguments)
    for _method in methods(getattr(nk, _name)):
        CALLS[f"{_name}.{_method}"] = partial(method, _name, _method)


# --- conversions ---


def state_of(library):
    """Of a batch norm with four channels, under the library's names."""
    return dict(zip(convert.CONVENTIONS[library].names, array(4, 4), strict=True))


def conversion(function, argument, library, **options):
    return Call(getattr(convert, function), {argument: state_of(library), **options})


for _library in convert.CONVENTIONS:
    _eps = "epsilon" if _library in ("keras", "flax", "onnx") else "eps"
    _state = "variables" if _library == "flax" else "state"
    CALLS[f"convert.from_{_library}"] = partial(conversion, f"from_{_library}", _state, _library, **{_eps: 1e-5})
    CALLS[f"convert.to_{_library}"] = partial(conversion, f"to_{_library}", "state", "pytorch", eps=1e-5, count=10)


def onnx_node():
    from onnx import TensorProto, helper, numpy_helper

    names = ("scale", "B", "mean", "var")
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], name="bn")
    of_x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])
    weights = [numpy_helper.from_array(array(4), name) for name in names]
    graph = helper.make_graph(
        [node], "g", [of_x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    return Call(convert.from_onnx_node, {"model": model, "name": "bn"})


CALLS |= {
    "convert.from_onnx_node": onnx_node,
    "convert.momentum_from": lambda: Call(convert.momentum_from, {"library": "keras", "momentum": 0.9}),
    "convert.momentum_to": lambda: Call(convert.momentum_to, {"library": "keras", "momentum": 0.9}),
    "convert.convert_running_var": lambda: Call(
        convert.convert_running_var, {"running_var": array(4), "count": 10, "from_ddof": 0, "to_ddof": 1}
    ),
    "convert.conv_layout": lambda: Call(
        convert.conv_layout, {"weight": array(2, 3, 5, 7), "source": "HWIO", "target": "OIHW"}
    ),
    "convert.depthwise_from_keras": lambda: Call(convert.depthwise_from_keras, {"kernel": array(3, 3, 4, 2)}),
    "convert.depthwise_to_keras": lambda: Call(
        convert.depthwise_to_keras, {"weight": array(8, 1, 3, 3), "channels": 4}
    ),
    "convert.per_channel": lambda: Call(
        convert.per_channel, {"parameter": array(2), "num_groups": 2, "num_channels": 6}
    ),
    "convert.per_group": lambda: Call(convert.per_group, {"parameter": np.repeat(array(2), 3), "num_groups": 2}),
}


# --- other people's call shapes ---


def of_cs231n(name):
    spatial = name.startswith("spatial")
    x = array(*((4, 6, 5, 5) if spatial else (4, 6)), dtype=np.float64)
    kind = {"b": "bn_param", "l": "ln_param", "g": "gn_param"}[name.removeprefix("spatial_")[0]]
    arguments = {"x": x, "gamma": array(6), "beta": array(6), **({"G": 2} if kind == "gn_param" else {})}
    return Call(getattr(cs231n, name), arguments | {kind: {"mode": "train"}})


def of_cs231n_backward(name):
    forward = of_cs231n(name.removesuffix("_alt").replace("backward", "forward"))
    return Call(getattr(cs231n, name), {"dout": np.ones_like(forward.arguments["x"]), "cache": forward()[1]})


for _name in cs231n.__all__:
    CALLS[f"cs231n.{_name}"] = partial(of_cs231n if _name.endswith("forward") else of_cs231n_backward, _name)


def darknet_layer():
    layer = darknet.make_batchnorm_layer(6)
    darknet.forward_batchnorm_layer(layer, array(*SHAPE), train=True)
    return layer


def convolution():
    return darknet.Convolution(array(4), array(4, 3, 3, 3), *array(3, 4))


ONE_LAYER = {"filters": 4, "channels": 3, "size": 3}


def weights_file():
    """The path of a file with that layer."""
    path = pathlib.Path(tempfile.gettempdir()) / f"normkit-{os.getpid()}.weights"
    darknet.write_weights(path, darknet.Header(), [convolution()])
    return path


def of_layer(name, **arguments):
    layer = darknet_layer()
    return Call(getattr(darknet, name), {"layer": layer, **arguments}, layer)


CALLS |= {
    "darknet.make_batchnorm_layer": lambda: Call(darknet.make_batchnorm_layer, {"c": 6}),
    "darknet.forward_batchnorm_layer": lambda: of_layer("forward_batchnorm_layer", x=array(*SHAPE), train=True),
    "darknet.backward_batchnorm_layer": lambda: of_layer("backward_batchnorm_layer", delta=array(*SHAPE)),
    "darknet.update_batchnorm_layer": lambda: of_layer(
        "update_batchnorm_layer", batch=4, learning_rate=0.1, momentum=0.9
    ),
    "darknet.read_header": lambda: Call(darknet.read_header, {"file": io.BytesIO(bytes(20))}),
    "darknet.write_header": lambda: Call(darknet.write_header, {"file": io.BytesIO(), "header": darknet.Header()}),
    "darknet.read_convolutional": lambda: Call(
        darknet.read_convolutional, {"file": io.BytesIO(bytes(1000)), "filters": 2, "channels": 1, "size": 3}
    ),
    "darknet.write_convolutional": lambda: Call(
        darknet.write_convolutional, {"file": io.BytesIO(), "layer": convolution()}
    ),
    "darknet.Convolution.fold": lambda: Call(convolution().fold, {"eps": 1e-5, "eps_outside": False}),
    "darknet.read_weights": lambda: Call(darknet.read_weights, {"path": weights_file(), "layers": [ONE_LAYER]}),
    "darknet.write_weights": lambda: Call(
        darknet.write_weights, {"path": weights_file(), "header": darknet.Header(), "layers": [convolution()]}
    ),
}


# --- what there is ---


def public_names():
    """What must have a row: functions, classes, and their methods that take something."""
    for prefix, module in MODULES.items():
        for name in module.__all__:
            found = getattr(module, name)
            if (inspect.isclass(found) and prefix + name not in DATA and not name.endswith("Cache")) or (
                callable(found) and not inspect.isclass(found)
            ):
                yield prefix + name
            if inspect.isclass(found):
                yield from (f"{prefix}{name}.{method}" for method in methods(found))


WITHOUT_ARGUMENTS = {"get_num_threads", "show_config", "show_plans"}
