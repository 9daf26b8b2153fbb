"""Batch renormalization, with the paper's schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit._gradients import BatchRenormGradients
from normkit._normkit import BatchRenormCache, batch_renorm, batch_renorm_backward
from normkit.layers._running import RunningStatisticsLayer


def _paper_r_max(step: int) -> float:
    """1 until step 5000, then linearly to 3 at step 40000."""
    return float(np.interp(step, (5_000, 40_000), (1, 3)))


def _paper_d_max(step: int) -> float:
    """0 until step 5000, then linearly to 5 at step 25000."""
    return float(np.interp(step, (5_000, 25_000), (0, 5)))


class BatchRenorm(RunningStatisticsLayer):
    """Batch renormalization (Ioffe 2017): batch norm whose training forward comes close to that of evaluation.

    y = ((x - mean) / sigma · r + d) · weight + bias, per channel, by mean and sigma = sqrt(var + eps) of the batch and

        r = clip(sigma / running_sigma, 1 / r_max, r_max)
        d = clip((mean - running_mean) / running_sigma, -d_max, d_max)

    from the running statistics before they move; no gradient flows through r and d. In eval mode by the running
    statistics, as batch norm. With r_max = 1 and d_max = 0 it is batch norm; the limits loosen as the running
    statistics become reliable.

    Args:
        num_features: number of channels C, at least 1.
        eps: added to the variances; finite and >= 0.
        momentum: share of the new batch in the running statistics, 0 to 1 (the paper uses 0.01); None: their cumulative
            average.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both (C,).
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).
        running_var_ddof: 1 for an unbiased running variance (PyTorch), 0 for a biased one (Keras, ONNX).
        r_max: limit of the scale's correction, >= 1: a number, or a function of the step, which is
            `num_batches_tracked`; None for the paper's schedule: 1 until step 5000, linearly to 3 at step 40000.
        d_max: limit of the shift's correction, >= 0, likewise; the paper's: 0 until step 5000, linearly to 5 at step
            25000.
        dtype: of parameters and running statistics; any float dtype, whatever that of `x`, but running statistics are
            at least float32.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import BatchRenorm
        >>> layer = BatchRenorm(2, r_max=2.0, d_max=lambda step: min(step, 5))
        >>> x = np.array([[1, 10], [4, 40], [1, 10]], np.float32)  # (N, C)
        >>> y = layer(x)
        >>> layer.limits()  # of the next batch
        (2.0, 1.0)
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["bias"].tolist()
        [3.0, 3.0]
    """

    _shown = ("num_features", "eps", "momentum", "affine", "axis", "running_var_ddof", "r_max", "d_max", "dtype")

    running_mean: NDArray[Any]
    running_var: NDArray[Any]
    num_batches_tracked: NDArray[np.int64]

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        axis: int = 1,
        running_var_ddof: int = 1,
        r_max: float | Callable[[int], float] | None = None,
        d_max: float | Callable[[int], float] | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=True,
            axis=axis,
            running_var_ddof=running_var_ddof,
            dtype=dtype,
        )
        self.r_max = r_max if r_max is None or callable(r_max) else self._real("r_max", r_max, minimum=1)
        self.d_max = d_max if d_max is None or callable(d_max) else self._real("d_max", d_max)

    def limits(self) -> tuple[float, float]:
        """Return `(r_max, d_max)` of the next training batch, whose step is `num_batches_tracked`.

        Raises:
            ValueError: a function of the step returned a number out of its range.
            TypeError: a function of the step did not return a number.
        """
        step = int(self.num_batches_tracked)
        r_max = _paper_r_max if self.r_max is None else self.r_max
        d_max = _paper_d_max if self.d_max is None else self.d_max
        return (
            self._real("r_max", r_max(step) if callable(r_max) else r_max, minimum=1),
            self._real("d_max", d_max(step) if callable(d_max) else d_max),
        )

    def _forward(self, x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], BatchRenormCache]:
        r_max, d_max = self.limits()
        y, cache = batch_renorm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            r_max=r_max,
            d_max=d_max,
            training=self.training,
            momentum=self._share_of_batch(),
            eps=self.eps,
            axis=self.axis,
            running_var_ddof=self.running_var_ddof,
            out=out,
        )
        if self.training and y.size:
            self._count_batch()
        return y, cache

    def _backward(self, dy: NDArray[Any], cache: BatchRenormCache, out: NDArray[Any] | None) -> BatchRenormGradients:
        return batch_renorm_backward(dy, cache, out=out)
