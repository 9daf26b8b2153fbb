"""What layers share whose function adds a residual and applies an activation in the same pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from normkit import _checks
from normkit.layers._layer import Layer

if TYPE_CHECKING:
    from normkit._normkit import _Activation

_ACTIVATIONS = ("relu", "leaky_relu", "silu")


class FusedLayer(Layer):
    """A layer with an `activation`, whose call takes a `residual`."""

    _of_one_pass = (*Layer._of_one_pass, "dresidual")

    dresidual: NDArray[Any] | None = None
    """The gradient of the last `residual`, from `backward` until the next forward pass; None without a residual."""

    @classmethod
    def _activation(cls, value: _Activation | None) -> _Activation | None:
        if value is None or (isinstance(value, str) and value in _ACTIVATIONS):
            return value
        expected = f"must be None, {', '.join(map(repr, _ACTIVATIONS[:-1]))} or {_ACTIVATIONS[-1]!r}"
        if not isinstance(value, str):
            raise _checks.type_error(cls.__name__, "activation", expected, value)
        raise cls._error("activation", expected, _checks.shown(value))

    def __call__(
        self, x: NDArray[Any], *, residual: NDArray[Any] | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Normalize `x`, add `residual`, apply the activation, and remember what `backward` needs.

        The cache refers to `x` (no copy): leave `x` as it is until `backward`.

        Args:
            x: array of a shape that fits the layer; any float dtype, whatever the layer's.
            residual: array of the shape of `x` to add before the activation; `backward` leaves its gradient in
                `dresidual`.
            out: array of the shape and dtype of `x` to write to.

        Returns:
            Array of the shape, dtype and memory layout of `x` (`out` if that was given).

        Raises:
            ValueError: the shape of `x`, `residual` or `out` does not fit, or there are too few elements for
                statistics.
            TypeError: `x` or `residual` is not a float array.
        """
        y = self._run(x, out, residual)
        self.dresidual = None
        return y

    def _keep(self, gradients: Any, accumulate: bool) -> None:
        super()._keep(gradients, accumulate)
        self.dresidual = getattr(gradients, "dresidual", None)
