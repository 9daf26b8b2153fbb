"""Group normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit._gradients import GroupNormGradients, GroupNormResidualGradients
from normkit._normkit import GroupNormCache, group_norm, group_norm_backward
from normkit.layers._channels import ChannelLayer
from normkit.layers._fused import FusedLayer

if TYPE_CHECKING:
    from normkit._normkit import _Activation


class GroupNorm(FusedLayer, ChannelLayer):
    """Group normalization (Wu & He 2018): per sample, over groups of neighbouring channels and all positions.

    y = (x - mean) / sqrt(var + eps) · weight + bias, mean and biased variance per sample and group, weight and bias
    per channel; then `+ residual` and `activation`, if there are. The same in training and eval mode.

    Args:
        num_groups: number of groups, at least 1.
        num_channels: number of channels C, at least 1, a multiple of `num_groups`.
        eps: added to the variance; finite and >= 0.
        affine: with `weight` (starts at 1) and `bias` (starts at 0), both (C,).
        axis: the axis of the channels: 1 for (N, C, *spatial), -1 for (N, *spatial, C).
        activation: None, "relu", "leaky_relu" (slope 0.1) or "silu", applied last, in the same pass.
        dtype: of the parameters; any float dtype, whatever that of `x`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: an argument has the wrong type, or `dtype` is not supported.

    Example:
        >>> import numpy as np
        >>> from normkit import GroupNorm
        >>> layer = GroupNorm(2, 4)
        >>> x = np.array([[1, 3, 10, 30]], np.float32)  # (N, C): groups (1, 3) and (10, 30)
        >>> layer(x).round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
        >>> dx = layer.backward(np.ones_like(x))
        >>> layer.grads["bias"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    _shown = ("num_groups", "num_channels", "eps", "affine", "axis", "activation", "dtype")

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        axis: int = 1,
        activation: _Activation | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        """See the class."""
        self.num_groups = self._integer("num_groups", num_groups, minimum=1)
        self.num_channels = self._integer("num_channels", num_channels, minimum=1)
        if self.num_channels % self.num_groups:
            raise self._error("num_channels", f"must be a multiple of num_groups, {self.num_groups}", num_channels)
        super().__init__(self.num_channels, eps=eps, affine=affine, axis=axis, dtype=dtype)
        self.activation = self._activation(activation)

    def _forward(
        self, x: NDArray[Any], out: NDArray[Any] | None, residual: NDArray[Any] | None = None
    ) -> tuple[NDArray[Any], GroupNormCache]:
        return group_norm(
            x,
            self.num_groups,
            self.weight,
            self.bias,
            eps=self.eps,
            axis=self.axis,
            activation=self.activation,
            residual=residual,
            out=out,
        )

    def _backward(
        self, dy: NDArray[Any], cache: GroupNormCache, out: NDArray[Any] | None
    ) -> GroupNormGradients | GroupNormResidualGradients:
        return group_norm_backward(dy, cache, out=out)
