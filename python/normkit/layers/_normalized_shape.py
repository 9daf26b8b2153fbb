"""What layer and RMS norm share: the axes that are normalized, and parameters of their shape."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from numpy.typing import DTypeLike

from normkit.layers._layer import Layer


class NormalizedShapeLayer(Layer):
    """A layer whose inputs have the lengths `normalized_shape` on the axes `axis`, by default the last ones."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        *,
        eps: float,
        affine: bool,
        bias: bool,
        axis: int | Sequence[int] | None,
        dtype: DTypeLike,
    ) -> None:
        """Create `weight` (ones) if `affine`, `bias` (zeros) if that, too."""
        super().__init__(eps=eps, dtype=dtype)
        self.normalized_shape = self._integers("normalized_shape", normalized_shape, minimum=1)
        rank = len(self.normalized_shape)
        if rank == 0:
            raise self._error("normalized_shape", "must have at least one axis", "()")
        self.axis = tuple(range(-rank, 0)) if axis is None else self._integers("axis", axis)
        if len(self.axis) != rank:
            expected = f"must have as many axes as normalized_shape, {rank}"
            raise self._error("axis", expected, self.axis)
        # Parameters have the axes of x in x's order; another order here would pair them with the wrong ones.
        if self.axis != tuple(sorted(set(self.axis), key=lambda axis: (axis < 0, axis))):
            raise self._error("axis", "must name each axis once, in ascending order", self.axis)
        self.affine = self._flag("affine", affine)
        bias = self._flag("bias", bias)
        if self.affine:
            self._add_affine(self.normalized_shape, bias=bias)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        # Without parameters nothing else would notice; axes that x does not have the function refuses.
        if not all(-len(shape) <= axis < len(shape) for axis in self.axis):
            return
        counted = [axis % len(shape) for axis in self.axis]
        if any(axis >= following for axis, following in pairwise(counted)):
            expected = f"must have such axes that {self.axis} are different ones in ascending order"
            raise self._error("x", expected, f"shape {shape}")
        if tuple(shape[axis] for axis in self.axis) != self.normalized_shape:
            expected = f"must have the lengths {self.normalized_shape} on the axes {self.axis}"
            raise self._error("x", expected, f"shape {shape}")
