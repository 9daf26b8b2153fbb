"""Normalization nodes of ONNX models as normkit's functions and their arguments. See `convert`."""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from normkit._checks import flag, integer, text
from normkit._conventions import momentum_from
from normkit._layouts import per_channel

# operator -> (function of normkit, names of its arrays in the order of the node's inputs)
_OPERATORS = {
    "BatchNormalization": ("batch_norm", ("weight", "bias", "running_mean", "running_var")),
    "InstanceNormalization": ("instance_norm", ("weight", "bias")),
    "LayerNormalization": ("layer_norm", ("weight", "bias")),
    "GroupNormalization": ("group_norm", ("weight", "bias")),
    "RMSNormalization": ("rms_norm", ("weight",)),
}
_PER_CHANNEL_OPSET = 21  # GroupNormalization's affine is per group before


class OnnxNorm(NamedTuple):
    """A normalization node of an ONNX model, as `from_onnx_node` reads it.

    `getattr(normkit, function)(x, **state, **options)` is what the node computes; a batch norm in inference is
    `batch_norm_inference`, or `batch_norm` with `training=False`.

    Attributes:
        function: "batch_norm", "instance_norm", "layer_norm", "group_norm" or "rms_norm".
        state: the function's arrays by name; those that the node does not have are missing.
        options: its other arguments: eps, axis, num_groups, and for a batch norm momentum and running_var_ddof.

    Example:
        >>> from normkit.convert import OnnxNorm
        >>> OnnxNorm._fields
        ('function', 'state', 'options')
    """

    function: str
    state: dict[str, NDArray[Any]]
    options: dict[str, Any]


def from_onnx_node(
    model: Any,
    name: str,
    *,
    ndim: SupportsIndex | None = None,
    num_channels: SupportsIndex | None = None,
    affine_per_group: bool = False,
) -> OnnxNorm:
    """Read a BatchNormalization, Instance-, Layer-, Group- or RMSNormalization node of an ONNX model.

    Needs the package `onnx` (`pip install normkit[onnx]`), imported when this is called. Attributes that the node
    leaves out have the operator's defaults. They are float32, so an epsilon of 1e-5 is 9.999999747378752e-06.

    Args:
        model: an `onnx.ModelProto`, or the path of a file. Opset 9 or newer.
        name: of the node, or of one of its outputs.
        ndim: axes of x; needed only for layer and RMS norms whose axis attribute counts from the front.
        num_channels: C; needed only with `affine_per_group`.
        affine_per_group: GroupNormalization has scale and bias per group, (G,), before opset 21 and per channel, (C,),
            since. True says that the former is known: they are then repeated for the channels of each group. Without,
            such a node is an error, as it is where the opset says per channel.

    Returns:
        `OnnxNorm`: function, state, options.

    Raises:
        ImportError: there is no package `onnx`.
        ValueError: no such node, an operator or opset that is not known here, arrays that are not in the model as
            initializers or Constant nodes, or an argument that is needed or does not fit.
        TypeError: `model` is neither, or a number no integer.

    Example:
        >>> import normkit as nk
        >>> from normkit.convert import from_onnx_node
        >>> def use(path, x):
        ...     norm = from_onnx_node(path, "bn1")
        ...     return getattr(nk, norm.function)(x, **norm.state, **norm.options)
    """
    onnx = _import_onnx()
    text("from_onnx_node", "name", name)
    flag("from_onnx_node", "affine_per_group", affine_per_group)
    for argument, value in (("ndim", ndim), ("num_channels", num_channels)):
        if value is not None:
            integer("from_onnx_node", argument, value, minimum=1)
    if isinstance(model, (str, os.PathLike)):
        model = onnx.load(os.fspath(model))
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"from_onnx_node: `model` must be an onnx.ModelProto or a path, found {type(model).__name__}")
    node = _find(model, name)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 9:
        raise _error("model", "must have opset 9 or newer", f"opset {opset}")
    function, names = _OPERATORS[node.op_type]
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    attributes = {key: _value(onnx, a.default_value) for key, a in schema.attributes.items()}
    attributes |= {a.name: _value(onnx, a) for a in node.attribute}
    state = {
        ours: _constant(onnx, model, node, theirs)
        for ours, theirs in zip(names, list(node.input)[1:], strict=False)
        if theirs
    }
    options: dict[str, Any] = {"eps": attributes["epsilon"]}
    if function in ("layer_norm", "rms_norm"):
        options["axis"] = _axes(attributes["axis"], ndim)
        axes = len(options["axis"])
        for value in state.values():
            if value.ndim != axes:  # ONNX lets them broadcast, but the shape that x has there is not in the model
                raise _error("model", f"must have scale and bias with {axes} axes, as the norm has", value.shape)
        return OnnxNorm(function, state, options)
    options["axis"] = 1
    if function == "group_norm":
        options["num_groups"] = attributes["num_groups"]
        state = _group_affine(state, options["num_groups"], opset, num_channels, affine_per_group)
    elif function == "batch_norm":
        options["momentum"] = momentum_from("onnx", attributes["momentum"])
        options["running_var_ddof"] = 0
    return OnnxNorm(function, state, options)


def _import_onnx() -> Any:
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.numpy_helper")
    except ImportError as error:
        raise ImportError("from_onnx_node: needs the package onnx (pip install normkit[onnx])") from error
    return onnx


def _error(argument: str, expected: str, found: object) -> ValueError:
    return ValueError(f"from_onnx_node: `{argument}` {expected}, found {found}")


def _find(model: Any, name: str) -> Any:
    for node in model.graph.node:
        if name and (node.name == name or name in node.output):
            if node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx"):
                raise _error("name", f"must be of a node with one of {', '.join(_OPERATORS)}", node.op_type)
            return node
    raise _error("name", "must be the name or an output of a node in the graph", repr(name))


def _value(onnx: Any, attribute: Any) -> Any:
    """An attribute's value; None where it has none."""
    return None if attribute.type == 0 else onnx.helper.get_attribute_value(attribute)


def _constant(onnx: Any, model: Any, node: Any, name: str) -> NDArray[Any]:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return np.array(onnx.numpy_helper.to_array(tensor))
    for other in model.graph.node:
        if other.op_type == "Constant" and name in other.output and other.attribute[0].name == "value":
            return np.array(onnx.numpy_helper.to_array(other.attribute[0].t))
    expected = f"must hold input {name!r} of node {node.name!r} as an initializer or a Constant node"
    raise _error("model", expected, "it is computed or given at run time")


def _axes(axis: int, ndim: SupportsIndex | None) -> tuple[int, ...]:
    """The axes from `axis` to the last, counted from the end."""
    if axis < 0:
        return tuple(range(axis, 0))
    if ndim is None:
        raise _error("ndim", f"must be given, as the node's axis, {axis}, counts from the front", None)
    count = int(ndim)
    if count <= axis:
        raise _error("ndim", f"must be > {axis}, the node's axis", count)
    return tuple(range(axis - count, 0))


def _group_affine(
    state: dict[str, NDArray[Any]],
    num_groups: int,
    opset: int,
    num_channels: SupportsIndex | None,
    affine_per_group: bool,
) -> dict[str, NDArray[Any]]:
    if not affine_per_group:
        if opset < _PER_CHANNEL_OPSET:
            expected = f"must be True, as opset {opset} keeps scale and bias per group, not per channel"
            raise _error("affine_per_group", expected, affine_per_group)
        return state
    if opset >= _PER_CHANNEL_OPSET:
        expected = f"must be False, as opset {opset} keeps scale and bias per channel"
        raise _error("affine_per_group", expected, affine_per_group)
    if num_channels is None:
        raise _error("num_channels", "must be given with affine_per_group", None)
    return {name: per_channel(value, num_groups, num_channels) for name, value in state.items()}
