"""What layers over channels share: an axis of a fixed length, and a weight and a bias per channel."""

from __future__ import annotations

from numpy.typing import DTypeLike

from normkit.layers._layer import Layer


class ChannelLayer(Layer):
    """A layer whose inputs have `num_channels` channels on `axis`."""

    def __init__(self, num_channels: int, *, eps: float, affine: bool, axis: int, dtype: DTypeLike) -> None:
        """Create `weight` (ones) and `bias` (zeros) if `affine`."""
        super().__init__(eps=eps, dtype=dtype)
        self._num_channels = num_channels
        self.affine = self._flag("affine", affine)
        self.axis = self._integer("axis", axis)
        if self.affine:
            self._add_affine(num_channels)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        # Without parameters and running statistics nothing else would notice.
        axis = self.axis
        if -len(shape) <= axis < len(shape) and shape[axis] != self._num_channels:
            raise self._error("x", f"must have {self._num_channels} channels on axis {axis}", f"shape {shape}")
