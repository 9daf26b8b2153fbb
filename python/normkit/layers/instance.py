"""Instance normalization."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit._gradients import (
    BatchNormGradients,
    BatchNormResidualGradients,
    InstanceNormGradients,
    InstanceNormResidualGradients,
)
from normkit._normkit import (
    BatchNormCache,
    InstanceNormCache,
    batch_norm,
    batch_norm_backward,
    instance_norm,
    instance_norm_backward,
)
from normkit.layers._fused import FusedLayer
from normkit.layers._running import RunningStatisticsLayer

_Gradients: TypeAlias = (
    InstanceNormGradients | InstanceNormResidualGradients | BatchNormGradients | BatchNormResidualGradients
)

if TYPE_CHECKING:
    from normkit._normkit import _Activation


class InstanceNorm(FusedLayer, RunningStatisticsLayer):
    """Instance normalization (Ulyanov, Vedaldi & Lempitsky 2016): per sample and channel, over all positions.

    y = (x - mean) / sqrt(var + eps) · weight + bias, mean and biased variance per sample and channel, weight and bias
    per channel; then `+ residual` and `activation`, if there are. The same in training and eval mode, unless
    `track_running_stats`: then training moves the running statistics by the average of the samples' means and
    variances, and eval mode normalizes by them as batch norm does.

    Args:
        num_features: number of channels C, at least 1.
        eps: added to the variance; finite and >= 0.
        momentum: share of the new batch in the running statistics, 0 to 1; None: their cumulative average.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both (C,). PyTorch's default is False.
        track_running_stats: keep `running_mean`, `running_var`, both (C,), and `num_batches_tracked`, a 0-d int64
            array that counts the training batches (PyTorch's stays 0); without, all three are None.
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).
        running_var_ddof: 1 for an unbiased running variance (PyTorch), 0 for a biased one.
        activation: None, "relu", "leaky_relu" (slope 0.1) or "silu", applied last, in the same pass.
        dtype: of parameters and running statistics; any float dtype, whatever that of `x`, but running statistics are
            at least float32.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import InstanceNorm
        >>> layer = InstanceNorm(2)
        >>> x = np.array([[[1, 3], [10, 30]]], np.float32)  # (N, C, positions)
        >>> layer(x).round(3).tolist()
        [[[-1.0, 1.0], [-1.0, 1.0]]]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["bias"].tolist()
        [2.0, 2.0]
    """

    _shown = (
        "num_features",
        "eps",
        "momentum",
        "affine",
        "track_running_stats",
        "axis",
        "running_var_ddof",
        "activation",
        "dtype",
    )

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = False,
        axis: int = 1,
        running_var_ddof: int = 1,
        activation: _Activation | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            axis=axis,
            running_var_ddof=running_var_ddof,
            dtype=dtype,
        )
        self.activation = self._activation(activation)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        super()._check_shape(shape)
        if not self.training or self.running_mean is None or self.running_var_ddof == 0:
            return
        others = [length for axis, length in enumerate(shape) if axis != self.axis % len(shape)]
        if others and others[0] and math.prod(others[1:]) == 1:  # an empty batch moves nothing
            expected = "must have more than one position per channel for an unbiased running variance"
            raise self._error("x", expected, f"shape {shape}")

    def _forward(
        self, x: NDArray[Any], out: NDArray[Any] | None, residual: NDArray[Any] | None = None
    ) -> tuple[NDArray[Any], InstanceNormCache | BatchNormCache]:
        if self.running_mean is not None and not self.training:
            return batch_norm(
                x,
                self.weight,
                self.bias,
                self.running_mean,
                self.running_var,
                training=False,
                eps=self.eps,
                axis=self.axis,
                activation=self.activation,
                residual=residual,
                out=out,
            )
        y, cache = instance_norm(
            x,
            self.weight,
            self.bias,
            eps=self.eps,
            axis=self.axis,
            activation=self.activation,
            residual=residual,
            out=out,
        )
        if self.training and y.size:
            self._track(cache, y.size)
        return y, cache

    def _track(self, cache: InstanceNormCache, size: int) -> None:
        """Move the running statistics by the average over samples, which the cache has in float64."""
        if self.running_mean is None or self.running_var is None:
            return
        positions = size // cache.mean.size
        with np.errstate(divide="ignore", over="ignore"):  # a variance too large for float64 is infinite
            var = np.maximum(np.square(1 / cache.rstd) - self.eps, 0)
        if self.eps == 0:
            var[cache.rstd == 0] = 0  # a constant: there is no 1 / 0
        var *= positions / (positions - self.running_var_ddof)
        share = self._share_of_batch()
        mean = (1 - share) * self.running_mean.astype(np.float64) + share * cache.mean.mean(0)
        self.running_var[...] = (1 - share) * self.running_var.astype(np.float64) + share * var.mean(0)
        self.running_mean[...] = mean
        self._count_batch()

    def _backward(
        self, dy: NDArray[Any], cache: InstanceNormCache | BatchNormCache, out: NDArray[Any] | None
    ) -> _Gradients:
        if isinstance(cache, BatchNormCache):
            return batch_norm_backward(dy, cache, out=out)
        return instance_norm_backward(dy, cache, out=out)
