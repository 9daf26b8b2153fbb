"""darknet's batch norm (https://github.com/pjreddie/darknet) and the batch norms in its `.weights` files.

The layer has darknet's names: `scales`, `biases`, `rolling_mean`, `rolling_variance`, and `scale_updates`,
`bias_updates`, which every backward pass adds to and `update_batchnorm_layer` applies. As in darknet

- rolling = 0.99·rolling + 0.01·batch; the rolling variance starts at 0 (AlexeyAB's fork takes 0.9 and 0.1 on the CPU:
  `decay=0.9`);
- the variance is unbiased (divided by n - 1), in the rolling statistics *and* in normalizing (`variance_ddof=0` is for
  builds with cuDNN, which normalizes by the biased one);
- `delta` is the negative gradient, hence updates are added.

And eps. The GPU's code, the fork, and the folding of both projects divide by sqrt(variance + 1e-5). The original's CPU
code divides by sqrt(variance) + 1e-6 in forward and by sqrt(variance + 1e-5) in backward, so that its gradient is not
that of its forward. Here `eps` is inside the root, in both; and `eps_outside=True` gives the other form for inference
and folding, where it is exact: sqrt(variance) + eps is the root of a variance (sqrt(variance) + eps)² with eps 0.

With n elements per channel and k = n / (n - 1), an unbiased variance is k times the biased one:
scale / sqrt(k·var + eps) = (scale / sqrt(k)) / sqrt(var + eps / k). This is how normkit's batch norm is called; the
gradients are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import normkit as nk
from normkit import _checks
from normkit.compat._darknet_weights import (
    Convolution,
    Header,
    Weights,
    read_convolutional,
    read_header,
    read_weights,
    rooted,
    write_convolutional,
    write_header,
    write_weights,
)
from normkit.compat._errors import in_the_words_of
from normkit.layers._arguments import float_dtype

__all__ = [
    "BatchNormLayer",
    "Convolution",
    "Header",
    "Weights",
    "backward_batchnorm_layer",
    "forward_batchnorm_layer",
    "make_batchnorm_layer",
    "read_convolutional",
    "read_header",
    "read_weights",
    "update_batchnorm_layer",
    "write_convolutional",
    "write_header",
    "write_weights",
]

Array = NDArray[Any]

_NAMES = {
    "weight": "layer.scales",
    "bias": "layer.biases",
    "running_mean": "layer.rolling_mean",
    "running_var": "layer.rolling_variance",
    "mean": "layer.rolling_mean",
    "var": "layer.rolling_variance",
    "eps": "layer.eps",
    "momentum": "layer.decay",
    "dy": "delta",
}


@dataclass
class BatchNormLayer:
    """A batch norm with darknet's fields; `make_batchnorm_layer` makes one.

    Attributes:
        scales: (c,).
        biases: (c,).
        rolling_mean: (c,).
        rolling_variance: (c,), unbiased.
        scale_updates: (c,), added to by every backward pass.
        bias_updates: (c,), likewise.
        eps: added to the variance inside the root.
        decay: share of the old in the rolling statistics.
        variance_ddof: 1 to normalize by the unbiased variance (darknet's own code), 0 by the biased one (cuDNN).
        eps_outside: in inference divide by sqrt(variance) + eps; refused in training.

    Example:
        >>> from normkit.compat.darknet import make_batchnorm_layer
        >>> layer = make_batchnorm_layer(3)
        >>> layer.rolling_variance.tolist(), layer.decay
        ([0.0, 0.0, 0.0], 0.99)
    """

    scales: Array
    biases: Array
    rolling_mean: Array
    rolling_variance: Array
    scale_updates: Array
    bias_updates: Array
    eps: float = 1e-5
    decay: float = 0.99
    variance_ddof: int = 1
    eps_outside: bool = False
    _cache: Any = field(default=None, repr=False, compare=False)
    _root: float = field(default=1.0, repr=False, compare=False)  # sqrt(k) of the last forward


def make_batchnorm_layer(
    c: int,
    *,
    eps: float = 1e-5,
    decay: float = 0.99,
    variance_ddof: int = 1,
    eps_outside: bool = False,
    dtype: DTypeLike = np.float32,
) -> BatchNormLayer:
    """Return a new layer: scales 1, everything else 0.

    Args:
        c: number of channels, at least 1.
        eps: added to the variance inside the root, or outside of it if `eps_outside`.
        decay: share of the old in the rolling statistics, from 0 to 1.
        variance_ddof: 1 to normalize by the unbiased variance (darknet's own code), 0 by the biased one (cuDNN).
        eps_outside: in inference divide by sqrt(variance) + eps; the layer then refuses to train.
        dtype: of all arrays; darknet's is float32.

    Returns:
        A `BatchNormLayer`.

    Raises:
        ValueError: a number is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> from normkit.compat.darknet import make_batchnorm_layer
        >>> make_batchnorm_layer(2).scales.tolist()
        [1.0, 1.0]
    """
    function = "make_batchnorm_layer"
    c = _checks.integer(function, "c", c, minimum=1)
    eps, decay = _checks.number(function, "eps", eps), _checks.number(function, "decay", decay)
    variance_ddof = _checks.zero_or_one(function, "variance_ddof", variance_ddof)
    eps_outside = _checks.flag(function, "eps_outside", eps_outside)
    dtype = float_dtype(function, dtype)
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"{function}: `eps` must be finite and >= 0, found {eps}")
    if not 0 <= decay <= 1:
        raise ValueError(f"{function}: `decay` must be from 0 to 1, found {decay}")
    return BatchNormLayer(
        scales=np.ones(c, dtype),
        biases=np.zeros(c, dtype),
        rolling_mean=np.zeros(c, dtype),
        rolling_variance=np.zeros(c, dtype),
        scale_updates=np.zeros(c, dtype),
        bias_updates=np.zeros(c, dtype),
        eps=eps,
        decay=decay,
        variance_ddof=variance_ddof,
        eps_outside=eps_outside,
    )


def forward_batchnorm_layer(layer: BatchNormLayer, x: Array, *, train: bool) -> Array:
    """Return scales · (x - mean) / sqrt(variance + eps) + biases, per channel.

    In training by the batch's mean and variance (see `variance_ddof`), and the rolling statistics move; otherwise by
    the rolling statistics. The layer keeps a reference to x for the backward pass.

    Args:
        layer: the layer; its rolling statistics are updated in place if `train`.
        x: (N, c, H, W), or (N, c).
        train: darknet's `net.train`.

    Returns:
        Array of the shape, dtype and layout of x.

    Raises:
        ValueError: a shape does not fit, a rolling variance is negative, there is one value per channel in training, or
            `eps_outside` in training. The layer is then unchanged.
        TypeError: `x` is no float array.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.darknet import forward_batchnorm_layer, make_batchnorm_layer
        >>> layer = make_batchnorm_layer(1, dtype=np.float64)
        >>> y = forward_batchnorm_layer(layer, np.array([[1.0], [3.0]]), train=True)
        >>> y.round(4).tolist()  # by the unbiased variance, 2
        [[-0.7071], [0.7071]]
        >>> layer.rolling_mean.round(3).tolist(), layer.rolling_variance.round(3).tolist()
        ([0.02], [0.02])
    """
    function = "forward_batchnorm_layer"
    _checks.instance(function, "layer", layer, BatchNormLayer)
    _checks.flag(function, "train", train)
    if train and layer.eps_outside:
        expected = "must be False in training: darknet's backward has eps inside the root"
        raise ValueError(f"{function}: `layer.eps_outside` {expected}, found True")
    scales, var, eps, root = layer.scales, layer.rolling_variance, layer.eps, 1.0
    if train:
        count = x.size // layer.scales.size if isinstance(x, np.ndarray) else 0
        if layer.variance_ddof and count > 1:  # otherwise the call below refuses x, or has nothing to do
            k = count / (count - 1)
            root = math.sqrt(k)
            scales, eps = scales / np.float64(root), eps / k
    elif layer.eps_outside:
        var, eps = rooted(function, "layer.rolling_variance", var, eps), 0.0
    with in_the_words_of(function, _NAMES):
        y, cache = nk.batch_norm(
            x,
            scales,
            layer.biases,
            layer.rolling_mean,
            var,
            training=train,
            momentum=1 - layer.decay,
            eps=eps,
            running_var_ddof=1,
        )
    layer._cache, layer._root = cache, root
    return y


def backward_batchnorm_layer(layer: BatchNormLayer, delta: Array) -> Array:
    """Add to the layer's updates and return the delta of its last input.

    bias_updates += Σ delta, scale_updates += Σ delta·x̂ with x̂ as the forward normalized; the delta returned is the
    exact gradient of the forward, in training or with rolling statistics taken as constants. (darknet takes the formula
    of training for both.)

    Args:
        layer: the layer; `scale_updates` and `bias_updates` are added to, in place.
        delta: of the last output, of its shape.

    Returns:
        A new array of the shape and dtype of the last x; darknet overwrites `delta`.

    Raises:
        RuntimeError: there was no forward pass.
        ValueError: the shape of `delta` does not fit.
        TypeError: `delta` is no float array.

    Example:
        >>> import numpy as np
        >>> from normkit.compat.darknet import *
        >>> layer = make_batchnorm_layer(1)
        >>> y = forward_batchnorm_layer(layer, np.array([[1.0], [3.0]]), train=True)
        >>> for _ in range(2):
        ...     dx = backward_batchnorm_layer(layer, np.ones((2, 1)))
        >>> layer.bias_updates.tolist()
        [4.0]
    """
    function = "backward_batchnorm_layer"
    _checks.instance(function, "layer", layer, BatchNormLayer)
    if layer._cache is None:
        raise RuntimeError(f"{function}: `layer` must have had a forward pass, found none")
    with in_the_words_of(function, _NAMES):
        gradients = nk.batch_norm_backward(delta, layer._cache)
    if gradients.dweight is not None and gradients.dbias is not None:  # they are None only without scales and biases
        # Added in the updates' own dtype, as darknet does; the gradient of the rescaled scales is float64.
        layer.scale_updates += (gradients.dweight / layer._root).astype(layer.scale_updates.dtype)
        layer.bias_updates += gradients.dbias.astype(layer.bias_updates.dtype)
    return gradients.dx


def update_batchnorm_layer(layer: BatchNormLayer, batch: int, learning_rate: float, momentum: float) -> None:
    """Apply the updates as darknet does, in place: parameter += learning_rate / batch · update; update *= momentum.

    Args:
        layer: the layer.
        batch: number of samples that the updates were added up over.
        learning_rate: the learning rate.
        momentum: of the optimizer (stochastic gradient descent with momentum; nothing to do with rolling statistics).

    Raises:
        ValueError: `batch` is below 1, or a number is not finite.
        TypeError: an argument has the wrong type.

    Example:
        >>> from normkit.compat.darknet import make_batchnorm_layer, update_batchnorm_layer
        >>> layer = make_batchnorm_layer(1)
        >>> layer.bias_updates[:] = 8
        >>> update_batchnorm_layer(layer, 4, 0.5, 0.25)
        >>> layer.biases.tolist(), layer.bias_updates.tolist()
        ([1.0], [2.0])
    """
    function = "update_batchnorm_layer"
    _checks.instance(function, "layer", layer, BatchNormLayer)
    batch = _checks.integer(function, "batch", batch, minimum=1)
    learning_rate = _finite(function, "learning_rate", learning_rate)
    momentum = _finite(function, "momentum", momentum)
    for parameter, update in ((layer.biases, layer.bias_updates), (layer.scales, layer.scale_updates)):
        parameter += learning_rate / batch * update
        update *= momentum


def _finite(function: str, argument: str, value: float) -> float:
    result = _checks.number(function, argument, value)
    if not math.isfinite(result):
        raise ValueError(f"{function}: `{argument}` must be finite, found {result}")
    return result
