"""Layer normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit._gradients import LayerNormGradients
from normkit._normkit import LayerNormCache, layer_norm, layer_norm_backward
from normkit.layers._normalized_shape import NormalizedShapeLayer


class LayerNorm(NormalizedShapeLayer):
    """Layer normalization (Ba, Kiros & Hinton 2016): over the last axes, or any others, of each sample.

    y = (x - mean) / sqrt(var + eps) · weight + bias, mean and biased variance over `axis`, weight and bias per element
    of `normalized_shape`. The same in training and eval mode.

    Args:
        normalized_shape: the lengths of the axes to normalize, an integer or several.
        eps: added to the variance; finite and >= 0.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both of `normalized_shape`; PyTorch's
            `elementwise_affine`.
        bias: with `affine`, whether there is a `bias`.
        axis: the axes to normalize, an integer or several in ascending order; None for the last ones.
            `LayerNorm(C, axis=1)` normalizes the channels of (N, C, *spatial) without a transposition.
        dtype: of the parameters; any float dtype, whatever that of `x`.

    Raises:
        ValueError: an argument is out of its range, or `axis` does not fit `normalized_shape`.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import LayerNorm
        >>> layer = LayerNorm(2)
        >>> x = np.array([[1, 3], [10, 30]], np.float32)
        >>> layer(x).round(3).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["bias"].tolist()
        [2.0, 2.0]
        >>> channels = LayerNorm(6, axis=1)  # of images, where they are
        >>> channels(np.ones((4, 6, 5, 5), np.float32)).shape
        (4, 6, 5, 5)
    """

    _shown = ("normalized_shape", "eps", "affine", "bias", "axis", "dtype")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        *,
        eps: float = 1e-5,
        affine: bool = True,
        bias: bool = True,
        axis: int | Sequence[int] | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        super().__init__(normalized_shape, eps=eps, affine=affine, bias=bias, axis=axis, dtype=dtype)

    def _forward(self, x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], LayerNormCache]:
        return layer_norm(x, self.weight, self.bias, axis=self.axis, eps=self.eps, out=out)

    def _backward(self, dy: NDArray[Any], cache: LayerNormCache, out: NDArray[Any] | None) -> LayerNormGradients:
        return layer_norm_backward(dy, cache, out=out)
