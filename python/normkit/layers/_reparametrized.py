"""What weights share that are computed from other parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normkit import _checks
from normkit.layers._module import Module


class ReparametrizedWeight(Module, ABC):
    """A weight computed from `params`: `w = weight()`, then `weight.backward(dw)` fills `grads`."""

    def _start(self, weight: ArrayLike) -> NDArray[Any]:
        """Copy the weight that the parameters start from."""
        start = np.array(_checks.as_array(type(self).__name__, "weight", weight), order="C", subok=False)
        self.dtype = self._float_dtype(start.dtype, "weight")
        self.shape = start.shape
        return start.astype(self.dtype, copy=False)

    @abstractmethod
    def _forward(self) -> tuple[NDArray[Any], Any]:
        """Return `(w, cache)`."""

    @abstractmethod
    def _backward(self, dw: NDArray[Any], cache: Any) -> dict[str, NDArray[Any] | None]:
        """Return the gradients by the names of the parameters."""

    def __call__(self) -> NDArray[Any]:
        """Return the weight, a new array, and remember what `backward` needs.

        Raises:
            ValueError, TypeError: a parameter was replaced by one that does not fit.
        """
        w, self._cache = self._forward()
        return w

    def backward(self, dw: NDArray[Any], *, accumulate: bool = False) -> None:
        """Write the gradients of the parameters to `grads`.

        Args:
            dw: gradient of the last weight, of its shape; any float dtype.
            accumulate: add to `grads` instead of overwriting.

        Raises:
            RuntimeError: there was no forward pass.
            ValueError: the shape of `dw` does not fit.
            TypeError: `dw` is not a float array.
        """
        self._flag("accumulate", accumulate)
        for name, new in self._backward(dw, self._last_cache()).items():
            self._store(name, new, accumulate)
