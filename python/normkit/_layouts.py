"""Where libraries keep axes and parameters: convolution weights, depthwise kernels, affine per group. See `convert`."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from normkit._checks import array, integer, text


def conv_layout(weight: NDArray[Any], source: str, target: str) -> NDArray[Any]:
    """Return a convolution's weight with its axes in another order.

    A layout is a letter for each axis: O output channels, I input channels (per group), and any others for the kernel.
    PyTorch, ONNX and darknet: OIHW (transposed convolution: IOHW). Keras and Flax: HWIO (Keras's transposed: HWOI).
    Linear layers: OI for PyTorch, IO for Keras and Flax. `normkit.fold_conv_bn` wants OI…, or IO… if transposed.

    Args:
        weight: array with an axis for each letter.
        source: its layout.
        target: the layout wanted: the same letters.

    Returns:
        A new array of the same dtype, in C order.

    Raises:
        ValueError: a letter is there twice, the two differ in their letters, or do not fit the axes of `weight`.
        TypeError: `weight` is not a NumPy array, or a layout no string.

    Example:
        A Keras convolution with its batch norm folded into it:

        >>> import numpy as np
        >>> import normkit as nk
        >>> from normkit.convert import conv_layout
        >>> kernel = np.ones((3, 3, 8, 16), np.float32)
        >>> mean, var = np.zeros(16), np.full(16, 4.0)
        >>> w, b = nk.fold_conv_bn(conv_layout(kernel, "HWIO", "OIHW"), None, mean, var, eps=0.0)
        >>> folded = conv_layout(w, "OIHW", "HWIO")
        >>> folded.shape, float(folded[0, 0, 0, 0])
        ((3, 3, 8, 16), 0.5)
    """
    array("conv_layout", "weight", weight)
    for name, layout in (("source", source), ("target", target)):
        text("conv_layout", name, layout)
    if len(set(source)) != len(source) or len(source) != weight.ndim:
        expected = f"must be a different letter for each of the {weight.ndim} axes of weight"
        raise ValueError(f"conv_layout: `source` {expected}, found {source!r}")
    if sorted(source) != sorted(target):
        raise ValueError(f"conv_layout: `target` must be the letters of {source!r} in any order, found {target!r}")
    return np.array(weight.transpose([source.index(letter) for letter in target]), order="C")


def depthwise_from_keras(kernel: NDArray[Any]) -> NDArray[Any]:
    """Return a Keras depthwise kernel as a grouped convolution's weight, groups = C.

    Args:
        kernel: (*kernel, C, M), M outputs for each of C channels, as `DepthwiseConv2D` keeps it.

    Returns:
        A new array (C·M, 1, *kernel) of the same dtype; output c·M + m is the m-th of channel c.

    Raises:
        ValueError: fewer than two axes.
        TypeError: `kernel` is not a NumPy array.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import depthwise_from_keras
        >>> depthwise_from_keras(np.ones((3, 3, 8, 2))).shape
        (16, 1, 3, 3)
    """
    array("depthwise_from_keras", "kernel", kernel)
    if kernel.ndim < 2:
        raise ValueError(f"depthwise_from_keras: `kernel` must be (*kernel, C, M), found shape {kernel.shape}")
    last = np.moveaxis(kernel, (-2, -1), (0, 1))
    c, m, *size = last.shape
    return np.array(last.reshape(c * m, 1, *size), order="C")


def depthwise_to_keras(weight: NDArray[Any], channels: SupportsIndex) -> NDArray[Any]:
    """Return a depthwise convolution's weight as Keras keeps it; the inverse of `depthwise_from_keras`.

    Args:
        weight: (C·M, 1, *kernel), with groups = C.
        channels: C.

    Returns:
        A new array (*kernel, C, M) of the same dtype.

    Raises:
        ValueError: the shape does not fit.
        TypeError: `weight` is not a NumPy array, or `channels` no integer.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import depthwise_to_keras
        >>> depthwise_to_keras(np.ones((16, 1, 3, 3)), 8).shape
        (3, 3, 8, 2)
    """
    function = "depthwise_to_keras"
    array(function, "weight", weight)
    c = integer(function, "channels", channels)
    if c < 1:
        raise ValueError(f"{function}: `channels` must be >= 1, found {c}")
    if weight.ndim < 2 or weight.shape[1] != 1 or weight.shape[0] % c:
        raise ValueError(f"{function}: `weight` must be ({c}·M, 1, *kernel), found shape {weight.shape}")
    split = weight.reshape(c, weight.shape[0] // c, *weight.shape[2:])
    return np.array(np.moveaxis(split, (0, 1), (-2, -1)), order="C")


def per_channel(parameter: NDArray[Any], num_groups: SupportsIndex, num_channels: SupportsIndex) -> NDArray[Any]:
    """Return a group norm's parameter that is kept per group as one per channel.

    ONNX's GroupNormalization has an affine per group, (G,), in opset 18 and per channel, (C,), from opset 21 on.
    normkit's is per channel; this is the only way from one to the other, and never taken without being asked.

    Args:
        parameter: (G,).
        num_groups: G.
        num_channels: C, a multiple of G.

    Returns:
        A new array (C,) of the same dtype: every value C / G times.

    Raises:
        ValueError: the shape or a number does not fit.
        TypeError: `parameter` is not a NumPy array, or a number no integer.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import per_channel
        >>> per_channel(np.array([1.0, 2.0]), 2, 6).tolist()
        [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    """
    groups, channels = _groups("per_channel", num_groups, num_channels)
    array("per_channel", "parameter", parameter)
    if parameter.shape != (groups,):
        raise ValueError(f"per_channel: `parameter` must have shape ({groups},), found shape {parameter.shape}")
    return np.repeat(parameter, channels // groups)


def per_group(parameter: NDArray[Any], num_groups: SupportsIndex) -> NDArray[Any]:
    """Return a group norm's parameter as one per group (ONNX opset 18): the inverse of `per_channel`.

    Args:
        parameter: (C,), the same value within each group.
        num_groups: G, a divisor of C.

    Returns:
        A new array (G,) of the same dtype.

    Raises:
        ValueError: G does not divide C, or a group has different values: then opset 18 cannot hold the parameter.
        TypeError: `parameter` is not a NumPy array, or `num_groups` no integer.

    Example:
        >>> import numpy as np
        >>> from normkit.convert import per_group
        >>> per_group(np.array([1.0, 1.0, 2.0, 2.0]), 2).tolist()
        [1.0, 2.0]
    """
    array("per_group", "parameter", parameter)
    if parameter.ndim != 1 or parameter.size == 0:
        raise ValueError(f"per_group: `parameter` must have shape (C,), found shape {parameter.shape}")
    groups, channels = _groups("per_group", num_groups, parameter.size)
    rows = parameter.reshape(groups, channels // groups)
    same = rows == rows[:, :1]
    if not np.all(same):
        worst = int(np.argmin(np.all(same, axis=1)))
        expected = "must be the same for all channels of a group"
        raise ValueError(f"per_group: `parameter` {expected}, found {rows[worst].tolist()} in group {worst}")
    return np.array(rows[:, 0])


def _groups(function: str, num_groups: SupportsIndex, num_channels: SupportsIndex) -> tuple[int, int]:
    groups = integer(function, "num_groups", num_groups)
    channels = integer(function, "num_channels", num_channels)
    if channels < 1:
        raise ValueError(f"{function}: `num_channels` must be >= 1, found {channels}")
    if groups < 1 or channels % groups:
        raise ValueError(
            f"{function}: `num_groups` must be at least 1 and divide {channels} (channels), found {groups}"
        )
    return groups, channels
