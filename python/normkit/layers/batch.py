"""Batch normalization, with running statistics and folding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit._gradients import BatchNormGradients, BatchNormResidualGradients
from normkit._normkit import BatchNormCache, batch_norm, batch_norm_backward, fold_conv_bn
from normkit.layers._fused import FusedLayer
from normkit.layers._running import RunningStatisticsLayer

if TYPE_CHECKING:
    from normkit._normkit import _Activation


class BatchNorm(FusedLayer, RunningStatisticsLayer):
    """Batch normalization (Ioffe & Szegedy 2015) over all axes but the channels'.

    y = (x - mean) / sqrt(var + eps) · weight + bias, per channel. In training mode by mean and biased variance of the
    batch, and the running statistics move: running = (1 - momentum)·running + momentum·batch. In eval mode by the
    running statistics, and `backward` takes them as constants. Without running statistics always by the batch's. Then
    `+ residual` and `activation`, if there are.

    Args:
        num_features: number of channels C, at least 1.
        eps: added to the variance; finite and >= 0.
        momentum: share of the new batch in the running statistics, 0 to 1; None: their cumulative average.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both (C,).
        track_running_stats: keep `running_mean`, `running_var`, both (C,), and `num_batches_tracked`, a 0-d int64
            array; without, all three are None. An empty batch leaves all three as they are.
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).
        running_var_ddof: 1 for an unbiased running variance (PyTorch), 0 for a biased one (Keras, ONNX).
        activation: None, "relu", "leaky_relu" (slope 0.1) or "silu", applied last, in the same pass.
        dtype: of parameters and running statistics; any float dtype, whatever that of `x`, but running statistics are
            at least float32.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import BatchNorm
        >>> layer = BatchNorm(2, dtype=np.float64)
        >>> x = np.array([[1.0, 10.0], [4.0, 40.0], [1.0, 10.0]])  # (N, C)
        >>> layer(x).round(3).tolist()
        [[-0.707, -0.707], [1.414, 1.414], [-0.707, -0.707]]
        >>> layer.running_mean.round(3).tolist()
        [0.2, 2.0]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["bias"].tolist()
        [3.0, 3.0]
        >>> layer.eval()(x).shape
        (3, 2)

        With an activation, a residual and padding that does not count:

        >>> layer = BatchNorm(1, activation="relu", dtype=np.float64)
        >>> x, skip = np.array([[1.0], [4.0], [1.0], [np.nan]]), np.full((4, 1), 0.5)
        >>> layer(x, residual=skip, mask=np.array([True, True, True, False])).round(3).ravel().tolist()
        [0.0, 1.914, 0.0, 0.0]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.dresidual.ravel().tolist()
        [0.0, 1.0, 0.0, 0.0]
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
        track_running_stats: bool = True,
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

    def __call__(
        self,
        x: NDArray[Any],
        *,
        residual: NDArray[Any] | None = None,
        mask: NDArray[np.bool_] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Normalize `x`, add `residual`, apply the activation, and remember what `backward` needs.

        The cache refers to `x` (no copy): leave `x` as it is until `backward`.

        Args:
            x: array with the layer's number of channels on `axis`; any float dtype, whatever the layer's.
            residual: array of the shape of `x` to add before the activation; `backward` leaves its gradient in
                `dresidual`.
            mask: boolean array, True where an element counts, of the shape of `x` without its channel axis, or one that
                broadcasts to it. Elements that do not count give y = 0 and dx = 0 and touch no statistic; they may be
                anything, NaN included.
            out: array of the shape and dtype of `x` to write to.

        Returns:
            Array of the shape, dtype and memory layout of `x` (`out` if that was given).

        Raises:
            ValueError: the shape of `x`, `residual`, `mask` or `out` does not fit, or there are too few elements for
                statistics.
            TypeError: `x` or `residual` is not a float array, or `mask` is not boolean.
        """
        y = self._run(x, out, residual, mask)
        self.dresidual = None
        return y

    def _forward(
        self,
        x: NDArray[Any],
        out: NDArray[Any] | None,
        residual: NDArray[Any] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[Any], BatchNormCache]:
        y, cache = batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.training or self.running_mean is None,
            momentum=self._share_of_batch(),
            eps=self.eps,
            axis=self.axis,
            running_var_ddof=self.running_var_ddof,
            activation=self.activation,
            residual=residual,
            mask=mask,
            out=out,
        )
        if self.training and y.size and (mask is None or np.any(mask)):
            self._count_batch()
        return y, cache

    def _backward(
        self, dy: NDArray[Any], cache: BatchNormCache, out: NDArray[Any] | None
    ) -> BatchNormGradients | BatchNormResidualGradients:
        return batch_norm_backward(dy, cache, out=out)

    def fold_into(
        self,
        conv_weight: NDArray[Any],
        conv_bias: NDArray[Any] | None = None,
        *,
        groups: int = 1,
        transposed: bool = False,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Fold this layer in eval mode into the convolution or linear layer before it.

        w = conv_weight · s, b = (conv_bias - running_mean) · s + bias with s = weight / sqrt(running_var + eps), per
        output channel, in float64 with one rounding (Jacob et al. 2018, section 3.2).

        Args:
            conv_weight: (out, in/groups, *kernel); (in, out/groups, *kernel) if `transposed`; (out, in) if linear.
            conv_bias: (out,), or None for zeros.
            groups: groups of the convolution.
            transposed: whether the convolution is a transposed one.

        Returns:
            New arrays `(w, b)`; the arguments and the layer stay as they are.

        Raises:
            ValueError: the layer has no running statistics, or a shape does not fit.
            TypeError: an argument is not a float array.

        Example:
            >>> import numpy as np
            >>> from normkit import BatchNorm
            >>> layer = BatchNorm(3, dtype=np.float64).eval()
            >>> layer.running_mean[:] = [1, 2, 3]
            >>> x, linear = np.eye(4), np.arange(12.0).reshape(3, 4)
            >>> w, b = layer.fold_into(linear)
            >>> bool(np.allclose(x @ w.T + b, layer(x @ linear.T)))
            True
        """
        if self.running_mean is None or self.running_var is None:
            raise ValueError("BatchNorm: `fold_into` needs running statistics, found track_running_stats=False")
        return fold_conv_bn(
            conv_weight,
            conv_bias,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            eps=self.eps,
            groups=groups,
            transposed=transposed,
        )
