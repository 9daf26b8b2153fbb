"""What all layers share that make one output of one input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from normkit.layers._module import Module


class Layer(Module, ABC):
    """A module that normalizes one input: `layer(x)`, then `layer.backward(dy)`.

    A layer is a subclass with a constructor, `_forward` and `_backward`. The base class of all modules keeps `params`
    and `grads`, modes and state.
    """

    def __init__(self, *, eps: float, dtype: DTypeLike) -> None:
        """Check what all layers take; there are no parameters yet."""
        super().__init__()
        self.eps = self._real("eps", eps)
        self.dtype = self._float_dtype(dtype)

    def _add_affine(self, shape: int | tuple[int, ...], *, bias: bool = True) -> None:
        """Add `weight` (ones) and `bias` (zeros)."""
        self._add_parameter("weight", np.ones(shape, self.dtype))
        if bias:
            self._add_parameter("bias", np.zeros(shape, self.dtype))

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse an input shape that does not fit the layer, where no check of the function would notice."""

    @abstractmethod
    def _forward(self, *args: Any) -> tuple[NDArray[Any], Any]:
        """Take `x`, `out` and, in order, what else the call takes: residual, mask, or None; return `(y, cache)`."""

    @abstractmethod
    def _backward(self, dy: NDArray[Any], cache: Any, out: NDArray[Any] | None) -> Any:
        """Return a named tuple: `dx`, and `d<name>` for each parameter."""

    def __call__(self, x: NDArray[Any], *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Normalize `x` and remember what `backward` needs.

        The cache refers to `x` (no copy): leave `x` as it is until `backward`.

        Args:
            x: array of a shape that fits the layer; any float dtype, whatever the layer's dtype.
            out: array of the shape and dtype of `x` to write to.

        Returns:
            Array of the shape, dtype and memory layout of `x` (`out` if that was given).

        Raises:
            ValueError: the shape of `x` or `out` does not fit, or there are too few elements for statistics.
            TypeError: `x` is not a float array.
        """
        return self._run(x, out)

    def _run(self, x: NDArray[Any], out: NDArray[Any] | None, *extras: NDArray[Any] | None) -> NDArray[Any]:
        if isinstance(x, np.ndarray):  # the function refuses the rest
            self._check_shape(x.shape)
        y, self._cache = self._forward(x, out, *extras)
        return y

    def backward(self, dy: NDArray[Any], *, accumulate: bool = False, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient of the last input, and write those of the parameters to `grads`.

        Args:
            dy: gradient of the last output, of its shape; any float dtype.
            accumulate: add to `grads` instead of overwriting.
            out: array of the shape and dtype of the last input to write to; may be `dy` itself.

        Returns:
            Array of the shape, dtype and memory layout of the last input (`out` if that was given).

        Raises:
            RuntimeError: there was no forward pass.
            ValueError: the shape of `dy` or `out` does not fit.
            TypeError: `dy` is not a float array.
        """
        if accumulate is not False:  # as it is most often
            self._flag("accumulate", accumulate)
        gradients = self._backward(dy, self._last_cache(), out)
        self._keep(gradients, accumulate)
        dx: NDArray[Any] = gradients.dx
        return dx

    def _keep(self, gradients: Any, accumulate: bool) -> None:
        """Take from the gradients what is not returned."""
        for name, new in [(name, getattr(gradients, f"d{name}")) for name in self.params]:  # all, or an error, first
            self._store(name, new, accumulate)

    @property
    def weight(self) -> NDArray[Any] | None:
        """The scale, `params["weight"]`; None without."""
        return self.params.get("weight")

    @weight.setter
    def weight(self, value: NDArray[Any]) -> None:
        self.params["weight"] = value

    @property
    def bias(self) -> NDArray[Any] | None:
        """The shift, `params["bias"]`; None without."""
        return self.params.get("bias")

    @bias.setter
    def bias(self, value: NDArray[Any]) -> None:
        self.params["bias"] = value
