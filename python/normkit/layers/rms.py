"""Root mean square normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit._gradients import RMSNormGradients
from normkit._normkit import RMSNormCache, rms_norm, rms_norm_backward
from normkit.layers._normalized_shape import NormalizedShapeLayer


class RMSNorm(NormalizedShapeLayer):
    """Root mean square normalization (Zhang & Sennrich 2019): layer norm without a mean and a bias.

    y = x / sqrt(mean(x²) + eps) · weight, the mean over `axis`, weight per element of `normalized_shape`. The same in
    training and eval mode.

    Args:
        normalized_shape: the lengths of the axes to normalize, an integer or several.
        eps: added to the mean square; finite and >= 0.
        affine: with `weight` (starts at 1), of `normalized_shape`; PyTorch's `elementwise_affine`.
        axis: the axes to normalize, an integer or several in ascending order; None for the last ones.
        dtype: of the parameter; any float dtype, whatever that of `x`.

    Raises:
        ValueError: an argument is out of its range, or `axis` does not fit `normalized_shape`.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import RMSNorm
        >>> layer = RMSNorm(2, dtype=np.float64)
        >>> x = np.array([[1.0, 7.0], [-10.0, 10.0]])
        >>> layer(x).round(3).tolist()
        [[0.2, 1.4], [-1.0, 1.0]]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["weight"].round(3).tolist()
        [-0.8, 2.4]
    """

    _shown = ("normalized_shape", "eps", "affine", "axis", "dtype")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        *,
        eps: float = 1e-6,
        affine: bool = True,
        axis: int | Sequence[int] | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        super().__init__(normalized_shape, eps=eps, affine=affine, bias=False, axis=axis, dtype=dtype)

    def _forward(self, x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], RMSNormCache]:
        return rms_norm(x, self.weight, axis=self.axis, eps=self.eps, out=out)

    def _backward(self, dy: NDArray[Any], cache: RMSNormCache, out: NDArray[Any] | None) -> RMSNormGradients:
        return rms_norm_backward(dy, cache, out=out)
